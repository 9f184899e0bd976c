"""A run that trains in several processes: started by torchrun, stopped together, ended together.

Three processes are involved. The worker calls `launch`, which loads no torch. `launch` starts a supervisor
(`python -m harness.training.torchrun supervise …`), which is torchrun; it starts the ranks
(`python -m harness.training.torchrun rank …`), each of which executes its part of the run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.run_options import RunOptions, add_run_options
from harness.processes import die_with_parent
from harness.spec.errors import SpecError
from harness.store.atomic import read_json, write_json
from harness.store.attempts import AttemptFolder
from harness.store.errors import Fenced
from harness.store.folders import RunFolder
from harness.store.job import RunJob
from harness.training.errors import Diverged, Interrupted, RanksFailed

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

MODULE = "harness.training.torchrun"
"""Not `__name__`, which is `__main__` in the supervisor and the ranks."""

_POLL_SECONDS = 0.2
_NOTICED_SECONDS = 2
"""torchrun dates a killed rank's death when it notices it, and other ranks may fail in between because of it."""
_LOG = "ranks.log"


def stop_file(attempt: AttemptFolder) -> Path:
    """A file whose presence asks the ranks of an attempt to save their work and end."""
    return attempt.path / "stop"


def outcome_file(attempt: AttemptFolder) -> Path:
    """How the ranks of an attempt ended: JSON with `status` and `error`.

    Written by rank 0 when it ends, and again by the supervisor if a rank failed.
    """
    return attempt.path / "ranks.json"


def launch(
    job: RunJob,
    run: RunFolder,
    attempt: AttemptFolder,
    stop: Callable[[], bool],
    *,
    processes: int,
    options: RunOptions | None = None,
) -> None:
    """Executes `job` in `processes` processes and waits for them.

    When one dies, torchrun ends the others. Nothing is restarted within an attempt; the next attempt resumes from the
    last checkpoint.

    Args:
        job: the run.
        run: its folder.
        attempt: the attempt at work.
        stop: polled; true asks the ranks for a checkpoint and an end.
        processes: number of ranks, all on this machine.
        options: steps to profile and sinks of step records; rank 0 alone applies them.

    Raises:
        Interrupted: `stop` became true; the work so far is saved.
        Diverged: a detector ended the run.
        SpecError: the ranks found the recipe or the data wrong.
        RanksFailed: a rank failed or died.
    """
    threads = max(1, job.hardware.devices_per_run // processes) if job.hardware.device == "cpu" else 1
    command = [sys.executable, "-m", MODULE, "supervise", str(run.path), "--attempt", str(attempt.number)]
    command += ["--processes", str(processes), *(options or RunOptions()).to_argv()]
    with (attempt.path / _LOG).open("ab") as log:
        supervisor = subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=partial(die_with_parent, signal.SIGTERM),
        )
    try:
        while supervisor.poll() is None:
            if stop():
                stop_file(attempt).touch()
            time.sleep(_POLL_SECONDS)
    finally:
        if supervisor.poll() is None:
            supervisor.kill()
            supervisor.wait()
    raise_outcome(attempt, supervisor.returncode)


def raise_outcome(attempt: AttemptFolder, code: int) -> None:
    """Raises what `launch` raises, as `outcome_file` and the supervisor's exit code say; returns if all went well."""
    told: dict[str, Any] = read_json(outcome_file(attempt)) if outcome_file(attempt).exists() else {}
    status = told.get("status")
    if status == "interrupted":
        raise Interrupted
    if status == "diverged":
        raise Diverged(told["error"])
    if code == 0 and status == "finished":
        return
    sys.stderr.write((attempt.path / _LOG).read_bytes()[-20000:].decode(errors="replace"))
    if status == "refused":
        raise SpecError(told["error"])
    raise RanksFailed(told.get("error") or f"the training processes ended with {code}; see {_LOG}")


def write_outcome(attempt: AttemptFolder, status: str, error: str | None = None) -> None:
    """Writes `outcome_file`; a full disk is passed over, for the exit code says the same."""
    with contextlib.suppress(OSError):
        write_json(outcome_file(attempt), {"status": status, "error": error})


def outcome_of(raised: BaseException) -> tuple[str, str | None]:
    """Status and error of a rank that an exception ended."""
    if isinstance(raised, Interrupted | Fenced):
        return "interrupted", None
    if isinstance(raised, Diverged):
        return "diverged", str(raised)
    if isinstance(raised, SpecError):
        return "refused", str(raised)
    return "failed", f"{type(raised).__name__}: {raised}"


def describe_failure(error: ChildFailedError) -> str:
    """The rank that failed first, in words, with its exception if it left one in its error file.

    Ranks that torchrun ended with SIGTERM because another one failed come last.
    """

    def when(rank: int) -> tuple[bool, float]:
        failure = error.failures[rank]
        if failure.exitcode < 0:
            return failure.exitcode == -signal.SIGTERM, failure.timestamp - _NOTICED_SECONDS
        # torch dates an exception in whole seconds; the file's own time orders exceptions within one.
        file = Path(failure.error_file)
        return False, file.stat().st_mtime if file.is_file() else failure.timestamp

    rank = min(error.failures, key=when)
    failure = error.failures[rank]
    if failure.exitcode < 0:
        return f"rank {rank} was ended by {failure.signal_name()}, and the others with it; see {_LOG}"
    message: Any = failure.message
    if isinstance(message, dict):
        return f"rank {rank}: {message['message']}; see {_LOG}"
    return f"rank {rank} ended with exit code {failure.exitcode}; see {_LOG}"


def main(argv: Sequence[str] | None = None) -> int:
    """The supervisor and the ranks; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("role", choices=("supervise", "rank"))
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--processes", type=int, default=1)
    add_run_options(parser)
    arguments = parser.parse_args(argv)
    if arguments.role == "supervise":
        return _supervise(arguments, [*(sys.argv[1:] if argv is None else argv)])
    from torch.distributed.elastic.multiprocessing.errors import record

    record(_rank)(arguments)
    return 0


def _supervise(arguments: argparse.Namespace, argv: list[str]) -> int:
    """Runs torchrun in this process; tells the run's outcome if a rank failed."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    options = ["--nnodes=1", f"--nproc-per-node={arguments.processes}", "--max-restarts=0"]
    options += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    try:
        run(parse_args([*options, "-m", MODULE, "rank", *argv[1:]]))
    except ChildFailedError as error:
        attempt = RunFolder(arguments.run).attempt(arguments.attempt)
        told = read_json(outcome_file(attempt)) if outcome_file(attempt).exists() else {}
        if told.get("status") not in ("interrupted", "diverged", "refused"):
            write_outcome(attempt, "failed", describe_failure(error))
        print(error, file=sys.stderr)
        return 1
    return 0


def _rank(arguments: argparse.Namespace) -> None:
    """Executes this rank's part of the run."""
    # torchrun ends its ranks when it fails, but it may itself be killed.
    die_with_parent(signal.SIGKILL)
    import torch

    from harness.training.data_parallel import DataParallel
    from harness.training.run import execute

    folder = RunFolder(arguments.run)
    attempt, job = folder.attempt(arguments.attempt), folder.read_job()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    parallel = DataParallel("cuda" if job.hardware.device == "cuda" else "cpu")
    options = RunOptions.from_arguments(arguments) if parallel.is_rank0 else RunOptions()
    status, error = "finished", None
    try:
        execute(job, folder, attempt, stop_file(attempt).exists, options, parallel)
    except BaseException as raised:
        status, error = outcome_of(raised)
        raise
    finally:
        if parallel.is_rank0:
            write_outcome(attempt, status, error)
    parallel.close()


if __name__ == "__main__":
    sys.exit(main())
