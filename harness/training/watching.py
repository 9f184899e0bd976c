"""What watches a run without a part in it: the profiler, and sinks of step records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.meters.sinks import Sinks
from harness.store.job import RunJob


@dataclass(frozen=True)
class Watching:
    """Runtime knobs of a worker, outside of any recipe and any identity.

    Attributes:
        profile: 1-based steps of which the profiler writes a trace.
        sinks: names from `harness.meters.sinks.NAMES`.
    """

    profile: frozenset[int] = frozenset()
    sinks: tuple[str, ...] = ()


@contextmanager
def profiled(folder: Path, step: int, watching: Watching) -> Iterator[None]:
    """Profiles the block if `step` is asked for: `trace-step-000003.json` in Chrome's format, in `folder`."""
    if step not in watching.profile:
        yield
        return
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        yield
    profiler.export_chrome_trace(str(folder / f"trace-step-{step:06d}.json"))


def opened_sinks(
    job: RunJob, folder: Path, watching: Watching, failed: Callable[[str, Exception], None]
) -> Sinks:
    """The sinks that are asked for, under the run's label and id."""
    config = job.recipe.model_dump(mode="json")
    return Sinks(watching.sinks, folder, f"{job.label} {job.run_id}".strip(), config, failed)
