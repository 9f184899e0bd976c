"""One run in its own process: `python -m harness.matrix.worker RUN_FOLDER --attempt N`.

It reads `run.json`, executes what is not done yet, and always leaves `end.json`. SIGTERM and SIGINT ask it to save
its work and end; so does the death of the process that started it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.matrix.executors.local import PARENT_VARIABLE
from harness.matrix.watching import add_watching
from harness.store.attempts import AttemptFolder
from harness.store.folders import RunFolder
from harness.store.job import RunJob

FINISHED, FAILED, INTERRUPTED = 0, 1, 3
"""Exit codes."""

_ORPHAN_GRACE_SECONDS = 60.0
_LOCK_WAIT_SECONDS = 90.0
_PR_SET_PDEATHSIG = 1

Execute = Callable[[RunJob, RunFolder, AttemptFolder, Callable[[], bool]], None]


class Stopped(Exception):
    """Ends a worker that was asked to stop before training began."""


def main(argv: Sequence[str] | None = None, execute: Execute | None = None) -> int:
    """Executes a run; returns the exit code.

    Args:
        argv: arguments, without the program's name.
        execute: does the work; `harness.training.run.execute` unless given.
    """
    parser = argparse.ArgumentParser(prog="python -m harness.matrix.worker", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="folder with run.json")
    parser.add_argument("--attempt", type=int, required=True, help="number of the attempt's folder")
    add_watching(parser)
    arguments = parser.parse_args(argv)
    run = RunFolder(arguments.run)
    attempt = run.attempt(arguments.attempt)
    stop = _stop_flag()
    status, error, lock = "failed", None, None
    try:
        lock = _held(run)
        _execute(run, attempt, stop, execute or _training(arguments.profile or (), arguments.sink))
        status = "finished"
    except BaseException as raised:
        if stop.is_set() and type(raised).__name__ in ("Interrupted", "Stopped"):
            status = "interrupted"
        else:
            error = _error(raised, traceback.format_exc())
            traceback.print_exc()
    attempt.finish(status, error=error, seconds_by_phase=seconds_by_phase(run, attempt))
    if lock is not None:
        lock.release()
    return {"finished": FINISHED, "failed": FAILED, "interrupted": INTERRUPTED}[status]


def _held(run: RunFolder) -> FileLock:
    """The run's lock, held. An earlier worker, whose runner was killed, may still be saving its work."""
    lock = FileLock(run.lock)
    try:
        lock.acquire(timeout=_LOCK_WAIT_SECONDS)
    except Timeout:
        raise RuntimeError("another process holds this run and does not end") from None
    return lock


def _execute(run: RunFolder, attempt: AttemptFolder, stop: threading.Event, work: Execute) -> None:
    from harness.meters.provenance import collect

    attempt.begin(collect())
    job = run.read_job()
    if stop.is_set():
        raise Stopped
    work(job, run, attempt, stop.is_set)


def _training(profile: Sequence[int], sinks: Sequence[str]) -> Execute:
    """Trains in this process."""

    def work(job: RunJob, run: RunFolder, attempt: AttemptFolder, stop: Callable[[], bool]) -> None:
        # Imported here: whatever fails on import is then told in end.json like any other failure.
        import torch

        from harness.training.run import execute
        from harness.training.watching import Watching

        if job.hardware.device == "cpu":
            torch.set_num_threads(job.hardware.devices_per_run)
        execute(job, run, attempt, stop, Watching(frozenset(profile), tuple(sinks)))

    return work


def _error(raised: BaseException, text: str) -> dict[str, Any]:
    """What `end.json` says about a failure."""
    message = str(raised) or repr(raised)
    return {"type": type(raised).__name__, "message": message[:2000], "traceback_tail": text[-4000:]}


def seconds_by_phase(run: RunFolder, attempt: AttemptFolder) -> dict[str, float]:
    """Seconds of this attempt by phase of the step, and of its evaluations."""
    seconds: dict[str, float] = {}
    for record in attempt.steps():
        for phase, value in record.get("timing", {}).get("seconds", {}).items():
            seconds[phase] = seconds.get(phase, 0.0) + value
    for record in run.evaluations():
        if record.get("attempt") == attempt.number:
            seconds["evaluation"] = seconds.get("evaluation", 0.0) + record["timing"]["total_seconds"]
    return seconds


def _stop_flag() -> threading.Event:
    """An event that SIGTERM, SIGINT and the parent's death set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    parent = int(os.environ.get(PARENT_VARIABLE, os.getppid()))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    threading.Thread(target=_watch_parent, args=(parent, stop), daemon=True).start()
    return stop


def _watch_parent(parent: int, stop: threading.Event) -> None:
    """Stops this worker when its parent is gone, at last by force: the next runner must not wait for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    stop.set()
    time.sleep(_ORPHAN_GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL) if os.getpgrp() == os.getpid() else os._exit(FAILED)


if __name__ == "__main__":
    sys.exit(main())
