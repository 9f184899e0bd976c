"""What the checkpoints of a plan take on disk: the arithmetic, before anything has run.

Bytes per trained weight: its value 4, its two moments as in memory. Step records and samples are small beside that.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.matrix.memory_model import GIB, lora_weights, moment_bytes
from harness.models.catalog import ModelSource
from harness.store.job import RunJob


@dataclass(frozen=True)
class DiskNeed:
    """Room for checkpoints, in GiB.

    Attributes:
        kept: what stays.
        peak: the most there is at a time.
    """

    kept: float
    peak: float


def disk_need(jobs: Iterable[tuple[RunJob, ModelSource]], slots: int) -> DiskNeed:
    """What runs add to a disk, of which `slots` are at work at a time; each with its model."""
    kept = forks = 0.0
    extra = [0.0]
    for job, model in jobs:
        if job.kind != "train":
            continue
        stays, at_work = _run_bytes(job, model)
        kept += stays
        extra.append(at_work - stays)
        weights, moments = checkpoint_bytes(job, model)
        forks += (weights + moments) * len(set(job.fork_steps) - set(job.steps))
    beside = sum(sorted(extra)[-slots:])
    return DiskNeed(kept / GIB, (kept + beside + forks) / GIB)


def _run_bytes(job: RunJob, model: ModelSource) -> tuple[float, float]:
    """What a run leaves when it is done, and the most it holds while it is at work."""
    weights, moments = checkpoint_bytes(job, model)
    levels = len({*job.steps} - {0}) * weights
    # The two latest have moments, and so has the one that is being written; of the first two the weights may go.
    between = 2 * weights if job.recipe.training.checkpoint_every else 0.0
    kept = {"resumable": levels + moments, "weights": levels, "nothing": 0.0}
    return kept[job.recipe.training.keep], levels + 3 * moments + between


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
        f"checkpoints take up to {peak_gib:.1f} GiB, and {out} is on a disk with {free:.1f} GiB free: "
        "training.keep says what stays of a run that is done"
    ]


def free_gib(folder: Path) -> float:
    """Room on the disk on which `folder` is, or will be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free / GIB
