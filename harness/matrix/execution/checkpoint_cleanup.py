"""Deleting checkpoints that no run of the plan needs any more."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from harness.store.folders import Store
from harness.store.job import RunJob


class CheckpointCleaner:
    """Deletes checkpoints that no run needs: those that `training.keep` does not retain, and a trunk's, taken over.

    Args:
        store: the output folder.
        jobs: all jobs.
    """

    def __init__(self, store: Store, jobs: Sequence[RunJob]) -> None:
        self._store = store
        self._jobs = {job.run_id: job for job in jobs}
        self._forks: dict[str, list[RunJob]] = {}
        for job in jobs:
            if job.fork is not None:
                self._forks.setdefault(job.fork.run_id, []).append(job)

    def on_finished(self, job: RunJob) -> None:
        """Cleans up after a finished job: its own checkpoints, and those of the run that it forked from."""
        self._clean(job)
        if (fork := self._jobs[job.run_id].fork) is not None:
            self._clean(self._jobs[fork.run_id])

    def _clean(self, job: RunJob) -> None:
        ahead = {f.fork.step for f in self._forks.get(job.run_id, ()) if f.fork and not self._began(f)}
        with contextlib.suppress(OSError):  # another runner does the same; a full disk loses nothing by it
            self._store.run(job.run_id).prune_finished(job, frozenset(ahead))

    def _began(self, job: RunJob) -> bool:
        folder = self._store.run(job.run_id)
        return bool(folder.checkpoint_steps()) or folder.finished(job)
