"""The torch profiler and the sinks of step records, which observe a run and change nothing in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from harness.cli.run_options import RunOptions
from harness.meters.sinks import Sinks
from harness.store.job import RunJob


@contextmanager
def profiled(folder: Path, step: int, options: RunOptions) -> Iterator[None]:
    """Profiles the block if `step` is among `options.profile`.

    The trace is written to `trace-step-000003.json` in `folder`, in Chrome's trace event format.
    """
    if step not in options.profile:
        yield
        return
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        yield
    profiler.export_chrome_trace(str(folder / f"trace-step-{step:06d}.json"))


def open_sinks(
    job: RunJob, folder: Path, options: RunOptions, failed: Callable[[str, Exception], None]
) -> Sinks:
    """Opens the sinks that `options` names, under the run's label and id.

    Args:
        job: the run.
        folder: where sinks that write files write them.
        options: names the sinks.
        failed: called with the name of a sink that fails and gets no more records, and its exception.
    """
    config = job.recipe.model_dump(mode="json")
    return Sinks(options.sinks, folder, f"{job.label} {job.run_id}".strip(), config, failed)
