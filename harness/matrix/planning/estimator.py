"""What is left to do and what it takes: a cost model, corrected by what ran before in the same output folder."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from harness.matrix.planning.forks import trunk_state
from harness.matrix.planning.hardware import Hardware
from harness.matrix.planning.measurements import RunMeasurements, read_measurements
from harness.matrix.planning.memory_model import MemoryParts
from harness.matrix.planning.time_model import EVALUATION_QUESTIONS, CostModel, assumptions
from harness.models.catalog import ModelSource
from harness.spec.evaluation import BenchmarkSpec
from harness.store.folders import Store
from harness.store.job import RunJob

Evidence = tuple[RunJob, CostModel, RunMeasurements]
"""A run with what the model says of it and what was measured."""


def probe_store(store: Store) -> Store:
    """Where the probes of an output folder are: apart from its runs, and labelled by their place."""
    return Store(store.root / ".probes")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a job still takes.

    Attributes:
        seconds: wall-clock time of one slot.
        usd: money.
        gib: peak memory of a device.
        measured: whether this folder's records went into it.
        evaluations: how many it still has to make.
    """

    seconds: float
    usd: float
    gib: float
    measured: bool
    evaluations: int


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
        shared: dict[int, CostModel] = {}  # by recipe object: seeds have theirs in common
        self._costs = {
            j.run_id: shared.setdefault(id(j.recipe), CostModel(j.recipe, models[j.run_id], hardware))
            for j in self._jobs
        }
        self._records: dict[str, RunMeasurements] | None = None

    @property
    def _seen(self) -> dict[str, RunMeasurements]:
        """What was observed, by run, whatever the plan asks for now; read when it is first asked for: a finished
        matrix does without.
        """
        if self._records is None:
            self._records = {folder.run_id: read_measurements(folder) for folder in self._store.runs()}
            self._probes = self._probed()
            self.refresh()
        return self._records

    def refresh(self, *jobs: RunJob) -> None:
        """Reads the records of runs again."""
        seen = self._seen
        for job in jobs:
            folder = self._store.run(job.run_id)
            if folder.path.exists():
                seen[job.run_id] = read_measurements(folder)
        evidence = self._evidence()
        self._measured = bool(evidence)
        self._ratios = self._learned(evidence)
        self._startup = self._startup_seconds(evidence)

    def _probed(self) -> list[Evidence]:
        """The probes on file of the models and the kind of device of this plan."""
        by_name = {j.recipe.model.name: self._models[j.run_id] for j in self._jobs}
        found = []
        for folder in probe_store(self._store).runs():
            job = folder.read_job()
            model, seen = by_name.get(job.recipe.model.name), read_measurements(folder)
            if model is not None and job.hardware.profile == self._hardware.spec.profile and seen.steps:
                found.append((job, CostModel(job.recipe, model, self._hardware), seen))
        return found

    def _evidence(self) -> list[Evidence]:
        """What this folder's runs measured; where none did, what a probe measured."""
        seen = self._seen
        runs = [
            (job, self._costs[job.run_id], there)
            for job in self._jobs
            if (there := seen.get(job.run_id)) is not None and (there.steps or there.evaluations)
        ]
        return runs or self._probes

    def spent_seconds(self) -> float:
        """Wall-clock seconds that all attempts held their slots, up to their last refresh."""
        return sum(o.wall_seconds for o in self._seen.values())

    def spent_usd(self) -> float:
        """Money of all attempts, up to their last refresh."""
        return sum(o.usd for o in self._seen.values())

    def step_seconds(self, job: RunJob) -> float:
        """Time of a step: as this run measured it, or as the model says, corrected by what other runs measured."""
        own = self._seen.get(job.run_id)
        if own and len(own.steps) >= 3:
            return statistics.fmean(own.steps)
        return self._costs[job.run_id].step_seconds * self._ratios["step"]

    def evaluation_seconds(self, job: RunJob, benchmark: BenchmarkSpec) -> float:
        """Time of one benchmark on one checkpoint."""
        own = self._seen.get(job.run_id)
        if own and own.evaluations.get(benchmark.name):
            return statistics.median(own.evaluations[benchmark.name])
        known = self._ratios.get(f"evaluation.{benchmark.name}", self._ratios["evaluation"])
        return _modelled_evaluation(self._costs[job.run_id], job, benchmark) * known

    def _startup_seconds(self, evidence: list[Evidence]) -> float:
        """From a worker's start to its first work, with whatever else no step and no evaluation covers."""
        measured = [s for _, _, seen in evidence for s in seen.startup]
        if measured:
            return statistics.median(measured)
        return max((c.rates.startup_seconds for c in self._costs.values()), default=0.0)

    def remaining(self, job: RunJob, *, step: int | None = None) -> Estimate:
        """What the job still takes; nothing if it is finished.

        Args:
            job: one of the plan's.
            step: the step at which its worker is now; None if none runs, 0 if it has made none yet.
        """
        missing = self._store.run(job.run_id).missing(job)
        gib = self.gib(job)
        measured = self._measured
        if not missing:
            return Estimate(seconds=0.0, usd=0.0, gib=gib, measured=measured, evaluations=0)
        steps = max(job.steps) - step if step else self.steps_to_train(job)
        by_name = {b.name: b for b in job.evaluate.benchmarks}
        evaluations = sum(self.evaluation_seconds(job, by_name[name]) for _, name in missing)
        startup = self._startup if not step else 0.0
        seconds = startup + steps * self.step_seconds(job) + evaluations
        return Estimate(
            seconds=seconds,
            usd=seconds * job.device_usd_per_second,
            gib=gib,
            measured=measured,
            evaluations=len(missing),
        )

    def steps_to_train(self, job: RunJob) -> int:
        """Steps that the missing evaluations need, from the checkpoint on from which training can go on."""
        folder = self._store.run(job.run_id)
        levels = folder.untrained(job)
        if not levels:
            return 0
        start = [step for step in folder.resumable_steps() if step < levels[0]]
        if not start and job.fork is not None and not folder.checkpoint_steps():
            start = [job.fork.step] if trunk_state(job.fork, self._store) != "passed" else []
        return levels[-1] - max(start, default=0)

    def memory(self, job: RunJob) -> MemoryParts:
        """Where the memory of a device goes, by the model alone."""
        return self._costs[job.run_id].memory

    def gib(self, job: RunJob) -> float:
        """Peak memory of a device: as this run measured it, or as the model says."""
        own = self._seen.get(job.run_id)
        if own and own.gib:
            return max(own.gib)
        return self._costs[job.run_id].memory.total_gib * self._ratios["gib"]

    def _learned(self, evidence: list[Evidence]) -> dict[str, float]:
        """Measured over modelled time and memory, medians over runs."""
        ratios: dict[str, list[float]] = {"step": [], "evaluation": [], "gib": []}
        for job, cost, seen in evidence:
            if seen.steps:
                ratios["step"].append(statistics.fmean(seen.steps) / cost.step_seconds)
            if seen.gib:
                ratios["gib"].append(max(seen.gib) / cost.memory.total_gib)
            for benchmark in job.evaluate.benchmarks:
                for seconds in seen.evaluations.get(benchmark.name, []):
                    ratio = seconds / _modelled_evaluation(cost, job, benchmark)
                    ratios["evaluation"].append(ratio)
                    ratios.setdefault(f"evaluation.{benchmark.name}", []).append(ratio)
        return {name: statistics.median(values) if values else 1.0 for name, values in ratios.items()}

    def assumptions(self) -> list[str]:
        """What the figures rest on, in sentences."""
        lines = assumptions(self._hardware, {j.recipe.model.dtype for j in self._jobs})
        evidence = self._evidence()
        if evidence and evidence is not self._probes:
            return [
                lines[0],
                f"times measured in {len(evidence)} runs of this folder, scaled to the others by size",
            ]
        if evidence:
            steps = sum(len(seen.steps) for _, _, seen in evidence)
            return [lines[0], f"times and memory of a probe of {steps} steps on this machine, scaled by size"]
        largest = max((c.memory for c in self._costs.values()), key=lambda m: m.total_gib, default=None)
        return lines if largest is None else [*lines, f"memory: {largest.words()}"]


def _modelled_evaluation(cost: CostModel, job: RunJob, benchmark: BenchmarkSpec) -> float:
    questions = benchmark.questions or EVALUATION_QUESTIONS
    return cost.generation_seconds(questions, job.evaluate.samples, job.evaluate.max_completion_tokens)
