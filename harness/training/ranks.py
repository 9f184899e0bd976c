"""One of a run's training processes, as torchrun starts it: `-m harness.training.ranks RUN_FOLDER --attempt N`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.processes import die_with_parent
from harness.store.folders import RunFolder
from harness.training.launch import stop_file, tell_outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Executes this rank's part of a run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.training.ranks", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--profile", default="")
    parser.add_argument("--sink", action="append", default=[])
    arguments = parser.parse_args(argv)
    # torchrun ends its ranks when it fails, but it may itself be killed.
    die_with_parent(signal.SIGKILL)
    import torch

    from harness.training.parallel import Ranks
    from harness.training.run import Interrupted, execute
    from harness.training.watching import Watching

    folder = RunFolder(arguments.run)
    attempt, job = folder.attempt(arguments.attempt), folder.read_job()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    ranks = Ranks("cuda" if job.hardware.device == "cuda" else "cpu")
    steps = frozenset(int(step) for step in arguments.profile.split(",") if step)
    watching = Watching(steps, tuple(arguments.sink)) if ranks.lead else Watching()
    status, error = "failed", None
    try:
        execute(job, folder, attempt, stop_file(attempt).exists, watching, ranks)
        status = "finished"
    except Interrupted:
        status = "interrupted"
    except BaseException as raised:
        name = type(raised).__name__
        status, error = ("diverged", str(raised)) if name == "Diverged" else ("failed", f"{name}: {raised}")
        raise
    finally:
        if ranks.lead:
            tell_outcome(attempt, status, error)
    ranks.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
