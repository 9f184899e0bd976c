"""`harness.plan --simulate`: the update's memory of every distinct training job of a plan, per device."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.models.catalog import ModelSource
from harness.simulation.step import SimulatedStep, simulate_step
from harness.spec.errors import SpecError
from harness.spec.hardware import HardwareSpec
from harness.store.job import RunJob
from harness.store.records.form import JsonObject
from kernels.triton_installed import triton_installed

GIB = 2**30
_SECTIONS = ("model", "prompt", "rollout", "objective", "optimizer", "training")
"""Sections of a recipe that the memory of an update depends on."""
_PHASES = ("logprob", "update", "optimizer")
"""Phases of a step in which memory is allocated, in order."""
_LEAST_SHOWN = 0.01
"""Parts below this many GiB are summed up, or below a hundredth of the peak."""


@dataclass(frozen=True)
class SimulatedJobs:
    """Jobs of a plan whose updates take the same memory.

    Attributes:
        jobs: labels of the jobs.
        ranks: training processes.
        step: what one of them allocates on its device.
    """

    jobs: tuple[str, ...]
    ranks: int
    step: SimulatedStep

    def words(self) -> Iterator[str]:
        """The peak, what holds it, and the peaks of the phases."""
        peak, step = self.step.peak, self.step
        others = f" and {len(self.jobs) - 1} more" if len(self.jobs) > 1 else ""
        of_ranks = f", each of {self.ranks} ranks" if self.ranks > 1 else ""
        yield (
            f"[{self.jobs[0]}]{others}: {peak.bytes / GIB:.3g} GiB allocated at most{of_ranks} (simulated: "
            f"micro-batches of {step.sequences} sequences of {step.tokens} tokens)"
        )
        parts = sorted(peak.by_label.items(), key=lambda part: -part[1])
        least = min(_LEAST_SHOWN * GIB, 0.01 * peak.bytes)
        shown = [f"{label} {size / GIB:.3g}" for label, size in parts if size >= least]
        rest = sum(size for _, size in parts if size < least)
        yield f"  held by: {', '.join(shown)}" + (f"; the rest {rest / GIB:.2g}" if rest else "")
        phases = [f"{name} {peak.bytes / GIB:.3g}" for name, peak in step.phases.items() if name in _PHASES]
        yield f"  by phase: {', '.join(phases)}"
        yield from (f"  {note}" for note in step.notes)

    def record(self) -> JsonObject:
        """For `--json`; sizes in bytes."""
        step = self.step
        return {
            "jobs": list(self.jobs),
            "ranks": self.ranks,
            "tokens": step.tokens,
            "sequences": step.sequences,
            "bytes": step.peak.bytes,
            "by_phase": {name: peak.bytes for name, peak in step.phases.items()},
            "held_by": step.peak.by_label,
            "notes": list(step.notes),
        }


LEFT_OUT = (
    "not in it: the process and its kernels (about 0.8 GiB), workspaces of libraries, what the allocator leaves "
    "unused between allocations, and the rollout engine where it shares the device"
)


def simulate_jobs(
    jobs: Sequence[RunJob], models: Mapping[str, ModelSource], hardware: HardwareSpec
) -> list[SimulatedJobs]:
    """Simulates the worst step of every training job whose recipe differs in what memory depends on.

    Args:
        jobs: of a plan.
        models: the model of each, by run.
        hardware: as it was resolved.

    Raises:
        SpecError: Triton is not installed, whose kernels a GPU would run.
    """
    on_gpu = hardware.device == "cuda"
    if on_gpu and not triton_installed():
        # Without it the choices would be those of another implementation, and so would the memory.
        raise SpecError(
            "--simulate: a GPU's step needs Triton, which is for Linux alone", hint="simulate it there"
        )
    groups: dict[str, list[RunJob]] = {}
    for job in jobs:
        if job.kind == "train":
            dumped = job.recipe.model_dump(mode="json", include=set(_SECTIONS))
            dumped["training"].pop("steps")
            dumped["optimizer"] = dumped["optimizer"]["name"]
            key = json.dumps([dumped, models[job.run_id].fingerprint], sort_keys=True)
            groups.setdefault(key, []).append(job)
    return [
        SimulatedJobs(
            jobs=tuple(job.label for job in alike),
            ranks=(ranks := hardware.training_processes(alike[0].recipe.rollout, on_gpu=on_gpu)),
            step=simulate_step(alike[0].recipe, models[alike[0].run_id], on_gpu=on_gpu, ranks=ranks),
        )
        for alike in groups.values()
    ]
