"""What the checkpoints of a plan take on disk: the arithmetic, before anything has run.

Bytes per trained weight: its value 4, its two moments as in memory. Step records and samples are small beside that.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.matrix.planning.memory_model import GIB, lora_weights, moment_bytes
from harness.models.catalog import ModelSource
from harness.store.folders import Store
from harness.store.job import RunJob


@dataclass(frozen=True)
class DiskNeed:
    """Room for checkpoints, in GiB, beyond those on file.

    Attributes:
        kept: what stays.
        peak: the most there is at a time.
    """

    kept: float
    peak: float


def disk_need(jobs: Iterable[tuple[RunJob, ModelSource]], slots: int, store: Store | None = None) -> DiskNeed:
    """What runs add to a disk.

    Args:
        jobs: the runs, each with its model.
        slots: how many are at work at a time.
        store: where some checkpoints may be already; None for nowhere.
    """
    kept = forks = 0.0
    extra = [0.0]
    for job, model in jobs:
        if job.kind != "train":
            continue
        weights, moments = checkpoint_bytes(job, model)
        there = 0.0
        if store is not None:
            folder = store.run(job.run_id)
            if not folder.untrained(job):
                continue
            there = weights * len(folder.checkpoint_steps()) + moments * len(folder.resumable_steps())
        done, awaited, at_work = (max(0.0, weights * w + moments * m - there) for w, m in _held(job))
        kept += done
        forks += awaited - done
        extra.append(at_work - awaited)
    beside = sum(sorted(extra)[-slots:])
    return DiskNeed(kept / GIB, (kept + forks + beside) / GIB)


def _held(job: RunJob) -> tuple[tuple[int, int], ...]:
    """How many checkpoints with weights a run has, and how many with moments: done, done while others are still to
    fork from it, and at work, at most."""
    levels, forks = {*job.steps}, {*job.fork_steps}
    last, every, policy = max(levels), job.recipe.training.checkpoint_every, job.recipe.training.keep
    weights = set[int]() if policy == "nothing" else levels
    moments = {last} if policy == "resumable" else set[int]()
    between = set(range(every, last, every)) - levels - forks if every else set[int]()
    # The two latest have moments, and so has the one that is being written; of the first two the weights may go.
    latest = min(3, len((levels | between) - forks))
    return (
        (len(weights), len(moments)),
        (len(weights | forks), len(moments | forks)),
        (len(levels | forks) + min(2, len(between)), len(forks) + latest),
    )


def checkpoint_bytes(job: RunJob, model: ModelSource) -> tuple[float, float]:
    """Bytes of a checkpoint's weights, and of its moments."""
    recipe = job.recipe
    trained = model.parameters if recipe.model.lora is None else lora_weights(recipe, model)
    return 4.0 * trained, moment_bytes(recipe) * trained


def disk_warnings(peak_gib: float, out: Path) -> list[str]:
    """What to know where the disk has less room than checkpoints take at their most."""
    free = free_gib(out)
    if peak_gib <= free:
        return []
    return [
        f"checkpoints take up to {peak_gib:.1f} GiB more, and {out} is on a disk with {free:.1f} GiB free: "
        "training.keep says what stays of a run that is done"
    ]


def free_gib(folder: Path) -> float:
    """Room on the disk on which `folder` is, or will be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free / GIB
