"""One run in its own process: `python -m harness.matrix.worker RUN_FOLDER --attempt N`.

It reads `run.json`, executes what is not done yet, and always leaves `end.json`. SIGTERM and SIGINT ask it to save
its work and end; so does the death of the process that started it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.cli.run_options import RunOptions, add_run_options
from harness.matrix.executors.local import MARK_VARIABLE, PARENT_VARIABLE
from harness.matrix.failure import is_deterministic, kind_of
from harness.processes import StopFlag, die_with_parent, end_marked, stop_on
from harness.rewards.code import CODE_FIELD, changed_parts, code_fields
from harness.safe_text import redact_file, redacted
from harness.spec.errors import SpecError
from harness.store.attempts import AttemptFolder
from harness.store.errors import Fenced, StoreError
from harness.store.folders import RunFolder
from harness.store.job import RunJob
from harness.store.leases import BEAT_SECONDS
from harness.store.records import AttemptError, Ending
from harness.training.errors import Diverged, Interrupted

FINISHED, FAILED, INTERRUPTED = 0, 1, 3
"""Exit codes."""

_ORPHAN_GRACE_SECONDS = 60.0

Execute = Callable[[RunJob, RunFolder, AttemptFolder, Callable[[], bool]], None]


def main(argv: Sequence[str] | None = None, execute: Execute | None = None) -> int:
    """Executes a run; returns the exit code.

    Args:
        argv: arguments, without the program's name.
        execute: does the work; `harness.training.run.execute` unless given.
    """
    parser = argparse.ArgumentParser(prog="python -m harness.matrix.worker", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="folder with run.json")
    parser.add_argument("--attempt", type=int, required=True, help="number of the attempt's folder")
    add_run_options(parser)
    arguments = parser.parse_args(argv)
    run = RunFolder(arguments.run)
    attempt = run.attempt(arguments.attempt)
    stop = _stop_flag()
    status: Ending = "failed"
    error: AttemptError | None = None
    at: int | None = None
    seconds: dict[str, float] = {}
    try:
        _beat(attempt, stop)
        _execute(run, attempt, stop, execute or _training(RunOptions.from_arguments(arguments)))
        status = "finished"
    except BaseException as raised:
        status, error, at = _ending(raised, attempt, stop)
    with contextlib.suppress(StoreError):  # a record that cannot be read has ended the work already
        seconds = seconds_by_phase(run, attempt)
    attempt.finish(status, error=error, diverged_at=at, seconds_by_phase=seconds)
    for log in attempt.path.glob("*log*"):
        redact_file(log)
    if (mark := os.environ.get(MARK_VARIABLE)) is not None and os.getppid() != _launcher():
        end_marked(MARK_VARIABLE, mark)  # the launcher is gone, which would do it
    return {"failed": FAILED, "interrupted": INTERRUPTED}.get(status, FINISHED)


def _ending(
    raised: BaseException, attempt: AttemptFolder, stop: StopFlag
) -> tuple[Ending, AttemptError | None, int | None]:
    """How an attempt ends that an exception ended, why, and the step that it could not make if it diverged."""
    if _is_fenced(raised, attempt) or (stop.is_set() and isinstance(raised, Interrupted)):
        return "interrupted", None, None
    text = redacted(traceback.format_exc())
    print(text, file=sys.stderr, flush=True)
    error = _error(raised, text)
    if isinstance(raised, Diverged):
        return "diverged", error, diverged_at(attempt)
    return "failed", error, None


def _is_fenced(raised: BaseException, attempt: AttemptFolder) -> bool:
    """Whether another attempt has the run now: what this one met then, such as a missing stage, is no failure."""
    try:
        attempt.check()
    except Fenced:
        return True
    return isinstance(raised, Fenced)


def diverged_at(attempt: AttemptFolder) -> int:
    """The step that a detector stopped, whose record says so; else the one after the last that was made."""
    records = attempt.steps()
    if not records:
        return _earlier_steps(attempt) + 1
    stopped = any(alarm.policy != "continue" for alarm in records[-1].events)
    return records[-1].step + (0 if stopped else 1)


def _earlier_steps(attempt: AttemptFolder) -> int:
    """The last step that an earlier attempt made."""
    run = RunFolder(attempt.path.parent)
    return max((r.step for a in run.attempts() for r in a.steps()), default=0)


def _beat(attempt: AttemptFolder, stop: StopFlag) -> None:
    """Renews the lease; stops this worker when a later attempt has taken the run over."""

    def beat() -> None:
        while not attempt.ended:
            attempt.beat()
            time.sleep(BEAT_SECONDS)
            try:
                attempt.check()
            except Fenced:
                stop.set()
                return

    attempt.check()
    threading.Thread(target=beat, daemon=True).start()


def _execute(run: RunFolder, attempt: AttemptFolder, stop: StopFlag, work: Execute) -> None:
    from harness.meters.provenance import collect

    attempt.begin(collect())
    job = run.read_job()
    check_code(job)
    if stop.is_set():
        raise Interrupted
    work(job, run, attempt, stop.is_set)


def check_code(job: RunJob) -> None:
    """Whether the user's own rewards are still those of the run's identity.

    Raises:
        SpecError: one was edited since the run was planned; what it gives would pass for what the old one gave.
    """
    planned = {name: parts for name, parts in job.identity.items() if name.startswith(CODE_FIELD)}
    if job.kind != "train" or not planned:
        return
    now = code_fields([function.name for function in job.recipe.reward.functions])
    for name in planned:
        if words := changed_parts(planned[name], now.get(name, {})):
            raise SpecError(
                f"the reward's module {name.removeprefix(CODE_FIELD)} was edited since this run was planned: "
                f"{', '.join(words)}",
                hint="the same command plans it anew",
            )


def _training(options: RunOptions) -> Execute:
    """Trains in this process, or in several that it starts."""

    def work(job: RunJob, run: RunFolder, attempt: AttemptFolder, stop: Callable[[], bool]) -> None:
        on_gpu = job.hardware.device == "cuda"
        processes = job.hardware.training_processes(job.recipe.rollout, on_gpu=on_gpu)
        if processes > 1 and job.kind == "train":
            from harness.training.torchrun import launch

            launch(job, run, attempt, stop, processes=processes, options=options)
            return
        # Imported here: whatever fails on import is then told in end.json like any other failure.
        import torch

        from harness.training.run import execute

        if not on_gpu:
            torch.set_num_threads(job.hardware.devices_per_run)
        execute(job, run, attempt, stop, options)

    return work


def _error(raised: BaseException, text: str) -> AttemptError:
    """What `end.json` says about a failure."""
    message = redacted(str(raised) or repr(raised))
    return AttemptError(
        type=type(raised).__name__,
        message=message[:2000],
        traceback_tail=text[-4000:],
        final=is_deterministic(raised),
        kind=kind_of(raised),
    )


def seconds_by_phase(run: RunFolder, attempt: AttemptFolder) -> dict[str, float]:
    """Seconds of this attempt by phase of the step, and of its evaluations."""
    seconds: dict[str, float] = {}
    for record in attempt.trained():
        for phase, value in record.timing.seconds.items():
            seconds[phase] = seconds.get(phase, 0.0) + value
    for made in run.evaluations():
        if made.attempt == attempt.number:
            seconds["evaluation"] = seconds.get("evaluation", 0.0) + made.timing.total_seconds
    return seconds


def _stop_flag() -> StopFlag:
    """A flag that SIGTERM, SIGINT and the parent's death set."""
    stop = stop_on((signal.SIGTERM, signal.SIGINT))
    parent = _launcher()
    die_with_parent(signal.SIGTERM)
    threading.Thread(target=_watch_parent, args=(parent, stop), daemon=True).start()
    return stop


def _launcher() -> int:
    """Process id of what started this worker."""
    return int(os.environ.get(PARENT_VARIABLE, os.getppid()))


def _watch_parent(parent: int, stop: StopFlag) -> None:
    """Stops this worker when its parent is gone, at last by force: the next runner must not wait for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    stop.set()
    time.sleep(_ORPHAN_GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL) if os.getpgrp() == os.getpid() else os._exit(FAILED)


if __name__ == "__main__":
    sys.exit(main())
