"""The torch profiler and the sinks of step records, which observe a run and change nothing in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.meters.sinks import Sinks
from harness.store.job import RunJob


@dataclass(frozen=True)
class Instruments:
    """What a worker records besides the store. These are options of the command and change no run's identity.

    Attributes:
        profile: 1-based steps that are profiled.
        sinks: where step records are also sent, names from `harness.meters.sinks.NAMES`.
    """

    profile: frozenset[int] = frozenset()
    sinks: tuple[str, ...] = ()


@contextmanager
def profiled(folder: Path, step: int, instruments: Instruments) -> Iterator[None]:
    """Profiles the block if `step` is among `instruments.profile`.

    The trace is written to `trace-step-000003.json` in `folder`, in Chrome's trace event format.
    """
    if step not in instruments.profile:
        yield
        return
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        yield
    profiler.export_chrome_trace(str(folder / f"trace-step-{step:06d}.json"))


def open_sinks(
    job: RunJob, folder: Path, instruments: Instruments, failed: Callable[[str, Exception], None]
) -> Sinks:
    """Opens the sinks that `instruments` names, under the run's label and id.

    Args:
        job: the run.
        folder: where sinks that write files write them.
        instruments: names the sinks.
        failed: called with the name of a sink that fails and gets no more records, and its exception.
    """
    config = job.recipe.model_dump(mode="json")
    return Sinks(instruments.sinks, folder, f"{job.label} {job.run_id}".strip(), config, failed)
