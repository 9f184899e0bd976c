"""A run's training processes: started by torchrun, stopped and ended as one. Loads no torch itself."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.processes import die_with_parent
from harness.store.atomic import read_json, write_json
from harness.store.attempts import AttemptFolder
from harness.store.folders import RunFolder
from harness.store.job import RunJob

_POLL_SECONDS = 0.2
_DIED = re.compile(rb"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")


class Interrupted(Exception):
    """The ranks were asked to stop and have written a checkpoint."""


class Diverged(RuntimeError):
    """The ranks' training went where it cannot go on."""


class RanksFailed(RuntimeError):
    """The training processes ended without finishing the run."""


def stop_file(attempt: AttemptFolder) -> Path:
    """Its presence asks the ranks of an attempt to save their work and end."""
    return attempt.path / "stop"


def outcome_file(attempt: AttemptFolder) -> Path:
    """What the lead says about the end: `status`, and `error` where there is one."""
    return attempt.path / "ranks.json"


def launch(
    job: RunJob,
    run: RunFolder,
    attempt: AttemptFolder,
    stop: Callable[[], bool],
    *,
    processes: int,
    profile: Sequence[int] = (),
    sinks: Sequence[str] = (),
) -> None:
    """Executes `job` in `processes` processes and waits for them.

    When one dies, torchrun ends the others: nothing restarts within an attempt, the next attempt goes on from the
    last checkpoint.

    Raises:
        Interrupted: `stop` became true; the work so far is saved.
        Diverged: as the ranks say.
        RanksFailed: a process failed or died.
    """
    threads = max(1, job.hardware.devices_per_run // processes) if job.hardware.device == "cpu" else 1
    watched = ["--profile", ",".join(map(str, profile))] if profile else []
    watched += [word for name in sinks for word in ("--sink", name)]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={processes}"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--max-restarts=0"]
    command += ["-m", "harness.training.ranks", str(run.path), "--attempt", str(attempt.number), *watched]
    output = attempt.path / "ranks.log"
    with output.open("ab") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=functools.partial(die_with_parent, signal.SIGTERM),
        )
    try:
        while process.poll() is None:
            if stop():
                stop_file(attempt).touch()
            time.sleep(_POLL_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    _raise_outcome(attempt, process.returncode, output)


def _raise_outcome(attempt: AttemptFolder, code: int, output: Path) -> None:
    told: dict[str, Any] = read_json(outcome_file(attempt)) if outcome_file(attempt).exists() else {}
    if told.get("status") == "interrupted":
        raise Interrupted
    if told.get("status") == "diverged":
        raise Diverged(told["error"])
    if code == 0 and told.get("status") == "finished":
        return
    tail = output.read_bytes()[-20000:]
    sys.stderr.write(tail.decode(errors="replace"))
    first = _DIED.search(tail)
    rank, exit_code = (int(first[2]), int(first[1])) if first else (0, code)
    if exit_code < 0:
        how = f"rank {rank} was ended by {signal.Signals(-exit_code).name}"
        raise RanksFailed(f"{how}, and the others with it; see {output.name}")
    if rank:  # the lead then only saw its connection close
        raise RanksFailed(f"rank {rank} ended with exit code {exit_code}; see {output.name}")
    raise RanksFailed(told.get("error") or f"the training processes ended with {code}; see {output.name}")


def tell_outcome(attempt: AttemptFolder, status: str, error: str | None = None) -> None:
    """Written by the lead when it ends."""
    with contextlib.suppress(OSError):
        write_json(outcome_file(attempt), {"status": status, "error": error})
