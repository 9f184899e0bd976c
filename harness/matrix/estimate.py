"""What is left to do and what it takes: a cost model, corrected by what ran before in the same output folder."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from harness.matrix.cost_model import EVALUATION_QUESTIONS, CostModel, assumptions
from harness.matrix.machine import Hardware
from harness.models.catalog import ModelSource
from harness.spec.evaluation import BenchmarkSpec
from harness.store.folders import RunFolder, Store
from harness.store.job import RunJob


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a job still takes.

    Attributes:
        seconds: wall-clock time of one slot.
        usd: money.
        gib: peak memory of a device.
        measured: whether this folder's records went into it.
    """

    seconds: float
    usd: float
    gib: float
    measured: bool


@dataclass
class _Observed:
    """What one run's records say."""

    steps: list[float] = field(default_factory=list)
    evaluations: dict[str, list[float]] = field(default_factory=dict)
    startup: list[float] = field(default_factory=list)
    gib: list[float] = field(default_factory=list)
    wall_seconds: float = 0.0


class Estimator:
    """Estimates jobs of one plan.

    Args:
        store: the output folder.
        jobs: all jobs of the plan.
        models: size of each job's model, by run id.
        hardware: where runs execute.
    """

    def __init__(
        self, store: Store, jobs: Iterable[RunJob], models: dict[str, ModelSource], hardware: Hardware
    ) -> None:
        self._store = store
        self._jobs = list(jobs)
        self._hardware = hardware
        self._models = models
        self._costs = {j.run_id: CostModel(j.recipe, models[j.run_id], hardware) for j in self._jobs}
        self._seen: dict[str, _Observed] = {}
        self.refresh(*self._jobs)

    def refresh(self, *jobs: RunJob) -> None:
        """Reads the records of runs again."""
        for job in jobs:
            folder = self._store.run(job.run_id)
            if folder.path.exists():
                self._seen[job.run_id] = _observed(folder)
        self._ratios = self._learned()
        self._startup = self._startup_seconds()

    def spent_seconds(self) -> float:
        """Wall-clock seconds that all attempts held their slots, up to their last refresh."""
        return sum(o.wall_seconds for o in self._seen.values())

    def spent_usd(self) -> float:
        """Money of all attempts, up to their last refresh."""
        return sum(
            self._seen[j.run_id].wall_seconds * j.device_usd_per_second
            for j in self._jobs
            if j.run_id in self._seen
        )

    def step_seconds(self, job: RunJob) -> float:
        """Time of a step: as this run measured it, or as the model says, corrected by what other runs measured."""
        own = self._seen.get(job.run_id)
        if own and len(own.steps) >= 3:
            return statistics.median(own.steps)
        return self._costs[job.run_id].step_seconds() * self._ratios["step"]

    def evaluation_seconds(self, job: RunJob, benchmark: BenchmarkSpec) -> float:
        """Time of one benchmark on one checkpoint."""
        own = self._seen.get(job.run_id)
        if own and own.evaluations.get(benchmark.name):
            return statistics.median(own.evaluations[benchmark.name])
        known = self._ratios.get(f"evaluation.{benchmark.name}", self._ratios["evaluation"])
        return self._modelled_evaluation(job, benchmark) * known

    def _modelled_evaluation(self, job: RunJob, benchmark: BenchmarkSpec) -> float:
        sequences = (benchmark.questions or EVALUATION_QUESTIONS) * job.evaluate.samples
        return self._costs[job.run_id].generation_seconds(sequences, job.evaluate.max_completion_tokens)

    def _startup_seconds(self) -> float:
        """From a worker's start to its first work, with whatever else no step and no evaluation covers."""
        measured = [s for o in self._seen.values() for s in o.startup]
        if measured:
            return statistics.median(measured)
        return max((c.rates.startup_seconds for c in self._costs.values()), default=0.0)

    def remaining(self, job: RunJob, *, step: int | None = None) -> Estimate:
        """What the job still takes; nothing if it is finished.

        Args:
            job: one of the plan's.
            step: the step at which its worker is now; None if none runs.
        """
        missing = self._store.run(job.run_id).missing(job)
        measured = any(o.steps or o.evaluations for o in self._seen.values())
        gib = self.gib(job)
        if not missing:
            return Estimate(seconds=0.0, usd=0.0, gib=gib, measured=measured)
        steps = max(0, max(job.steps) - (self._trained(job) if step is None else step))
        by_name = {b.name: b for b in job.evaluate.benchmarks}
        evaluations = sum(self.evaluation_seconds(job, by_name[name]) for _, name in missing)
        startup = self._startup if not step else 0.0
        seconds = startup + steps * self.step_seconds(job) + evaluations
        return Estimate(seconds=seconds, usd=seconds * job.device_usd_per_second, gib=gib, measured=measured)

    def _trained(self, job: RunJob) -> int:
        """The last step known to be kept: that of an evaluation, or of a checkpoint folder."""
        folder = self._store.run(job.run_id)
        kept = [step for step, _, _ in folder.evaluated()]
        if folder.checkpoints.is_dir():
            names = [p.name.removeprefix("step-") for p in folder.checkpoints.iterdir()]
            kept += [int(n) for n in names if n.isdigit()]
        return max(kept, default=0)

    def gib(self, job: RunJob) -> float:
        """Peak memory of a device: as this run measured it, or as the model says."""
        own = self._seen.get(job.run_id)
        return max(own.gib) if own and own.gib else self._costs[job.run_id].memory().total_gib

    def _learned(self) -> dict[str, float]:
        """Measured over modelled time, medians over runs."""
        ratios: dict[str, list[float]] = {"step": [], "evaluation": []}
        for job in self._jobs:
            seen = self._seen.get(job.run_id)
            if seen is None:
                continue
            if seen.steps:
                ratios["step"].append(statistics.median(seen.steps) / self._costs[job.run_id].step_seconds())
            for benchmark in job.evaluate.benchmarks:
                for seconds in seen.evaluations.get(benchmark.name, []):
                    ratio = seconds / self._modelled_evaluation(job, benchmark)
                    ratios["evaluation"].append(ratio)
                    ratios.setdefault(f"evaluation.{benchmark.name}", []).append(ratio)
        return {name: statistics.median(values) if values else 1.0 for name, values in ratios.items()}

    def assumptions(self) -> list[str]:
        """What the figures rest on, in sentences."""
        lines = assumptions(self._hardware, {j.recipe.model.dtype for j in self._jobs})
        runs = sum(bool(o.steps or o.evaluations) for o in self._seen.values())
        if runs:
            return [lines[0], f"times measured in {runs} runs of this folder, scaled to the others by size"]
        largest = max((c.memory() for c in self._costs.values()), key=lambda m: m.total_gib, default=None)
        return lines if largest is None else [*lines, f"memory: {largest.words()}"]


def _observed(folder: RunFolder) -> _Observed:
    seen = _Observed()
    evaluations = folder.evaluations()
    for record in evaluations:
        seen.evaluations.setdefault(record["benchmark"], []).append(record["timing"]["total_seconds"])
    for attempt in folder.attempts():
        wall = attempt.wall_seconds
        seen.wall_seconds += wall
        records = attempt.steps()
        # The first step warms caches up; it is told by the start-up time, not by the median of steps.
        seen.steps += [r["timing"]["total_seconds"] for r in records[1:]]
        seen.gib += [peak for r in records if (peak := _peak(r.get("memory", {}))) is not None]
        end = attempt.end()
        if end is not None and end["status"] == "finished":
            covered = sum(r["timing"]["total_seconds"] for r in records)
            own = [r for r in evaluations if r.get("attempt") == attempt.number]
            covered += sum(r["timing"]["total_seconds"] for r in own)
            seen.startup.append(max(0.0, wall - covered))
    return seen


def _peak(memory: dict[str, dict[str, Any]]) -> float | None:
    """The largest measured peak over phases: of the device where there is one, else of the process."""
    for key in ("device_gib", "reserved_gib", "resident_gib"):
        values = [phase[key] for phase in memory.values() if phase.get(key) is not None]
        if values:
            return float(max(values))
    return None
