"""What is left to do and what it takes: a cost model, corrected by what ran before in the same output folder."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.matrix.planning.forks import trunk_state
from harness.matrix.planning.hardware import Hardware
from harness.matrix.planning.measurements import RunMeasurements, read_measurements
from harness.matrix.planning.memory_model import MemoryParts
from harness.matrix.planning.time_model import EVALUATION_QUESTIONS, CostModel, assumptions
from harness.models.catalog import ModelSource
from harness.spec.evaluation import BenchmarkSpec
from harness.store.folders import Store
from harness.store.job import RunJob


@dataclass(frozen=True)
class Measured:
    """A run with what the model says of it and what was measured."""

    job: RunJob
    cost: CostModel
    seen: RunMeasurements


@dataclass(frozen=True)
class Evidence:
    """What earlier runs teach about the jobs of a plan.

    Attributes:
        runs: those that measured something: this folder's, or, where none did, probes.
        probed: whether they are probes.
        ratios: measured over modelled time and memory, medians over runs; 1 where nothing was measured.
        startup_seconds: from a worker's start to its first work, with whatever else no step and no evaluation covers;
            None where not measured.
    """

    runs: tuple[Measured, ...]
    probed: bool
    ratios: Mapping[str, float]
    startup_seconds: float | None

    @classmethod
    def of(cls, runs: Sequence[Measured], probes: Sequence[Measured]) -> Evidence:
        """What runs of the folder teach, or, where there are none, probes."""
        chosen = runs or probes
        startup = [s for one in chosen for s in one.seen.startup]
        return cls(
            runs=tuple(chosen),
            probed=not runs,
            ratios=_learned(chosen),
            startup_seconds=statistics.median(startup) if startup else None,
        )


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
        shared: dict[str, CostModel] = {}  # by the recipe's JSON: seeds have theirs in common
        self._costs: dict[str, CostModel] = {}
        for job in self._jobs:
            text = job.recipe.model_dump_json()
            if text not in shared:
                shared[text] = CostModel(job.recipe, models[job.run_id], hardware)
            self._costs[job.run_id] = shared[text]
        self._measurements: dict[str, RunMeasurements] | None = None
        self._evidence: Evidence | None = None

    def measurements(self) -> dict[str, RunMeasurements]:
        """What was measured, by run, whatever the plan asks for now; read when it is first asked for: a finished
        matrix does without.
        """
        if self._measurements is None:
            self._measurements = {folder.run_id: read_measurements(folder) for folder in self._store.runs()}
        return self._measurements

    def refresh(self, *jobs: RunJob) -> None:
        """Reads the records of runs again."""
        measurements = self.measurements()
        for job in jobs:
            folder = self._store.run(job.run_id)
            if folder.path.exists():
                measurements[job.run_id] = read_measurements(folder)
        self._evidence = None

    def evidence(self) -> Evidence:
        """What the measurements up to the last refresh teach."""
        if self._evidence is None:
            self._evidence = Evidence.of(self._measured_runs(), self._probes)
        return self._evidence

    def _measured_runs(self) -> list[Measured]:
        measurements = self.measurements()
        return [
            Measured(job, self._costs[job.run_id], there)
            for job in self._jobs
            if (there := measurements.get(job.run_id)) is not None and (there.steps or there.evaluations)
        ]

    @cached_property
    def _probes(self) -> list[Measured]:
        """The probes on file of the models and the kind of device of this plan."""
        by_name = {j.recipe.model.name: self._models[j.run_id] for j in self._jobs}
        found = []
        for folder in probe_store(self._store).runs():
            job = folder.read_job()
            model, seen = by_name.get(job.recipe.model.name), read_measurements(folder)
            if model is not None and job.hardware.profile == self._hardware.spec.profile and seen.steps:
                found.append(Measured(job, CostModel(job.recipe, model, self._hardware), seen))
        return found

    def spent_seconds(self) -> float:
        """Wall-clock seconds that all attempts held their slots, up to their last refresh."""
        return sum(o.wall_seconds for o in self.measurements().values())

    def spent_usd(self) -> float:
        """Money of all attempts, up to their last refresh."""
        return sum(o.usd for o in self.measurements().values())

    def step_seconds(self, job: RunJob) -> float:
        """Time of a step: as this run measured it, or as the model says, corrected by what other runs measured."""
        own = self.measurements().get(job.run_id)
        if own and len(own.steps) >= 3:
            return statistics.fmean(own.steps)
        return self._costs[job.run_id].step_seconds * self.evidence().ratios["step"]

    def evaluation_seconds(self, job: RunJob, benchmark: BenchmarkSpec) -> float:
        """Time of one benchmark on one checkpoint."""
        own = self.measurements().get(job.run_id)
        if own and own.evaluations.get(benchmark.name):
            return statistics.median(own.evaluations[benchmark.name])
        ratios = self.evidence().ratios
        known = ratios.get(f"evaluation.{benchmark.name}", ratios["evaluation"])
        return _modelled_evaluation(self._costs[job.run_id], job, benchmark) * known

    def _startup_seconds(self) -> float:
        """As measured, or as the model says."""
        measured = self.evidence().startup_seconds
        if measured is not None:
            return measured
        return max((c.rates.startup_seconds for c in self._costs.values()), default=0.0)

    def remaining(self, job: RunJob, *, step: int | None = None) -> Estimate:
        """What the job still takes; nothing if it is finished.

        Args:
            job: one of the plan's.
            step: the step at which its worker is now; None if none runs, 0 if it has made none yet.
        """
        missing = self._store.run(job.run_id).missing(job)
        gib = self.gib(job)
        measured = bool(self.evidence().runs)
        if not missing:
            return Estimate(seconds=0.0, usd=0.0, gib=gib, measured=measured, evaluations=0)
        steps = max(job.steps) - step if step else self.steps_to_train(job)
        by_name = {b.name: b for b in job.evaluate.benchmarks}
        evaluations = sum(self.evaluation_seconds(job, by_name[name]) for _, name in missing)
        startup = self._startup_seconds() if not step else 0.0
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
        own = self.measurements().get(job.run_id)
        if own and own.gib:
            return max(own.gib)
        return self._costs[job.run_id].memory.total_gib * self.evidence().ratios["gib"]

    def assumptions(self) -> list[str]:
        """What the figures rest on, in sentences."""
        lines = assumptions(self._hardware, {j.recipe.model.dtype for j in self._jobs})
        evidence = self.evidence()
        if evidence.runs and not evidence.probed:
            return [
                lines[0],
                f"times measured in {len(evidence.runs)} runs of this folder, scaled to the others by size",
            ]
        if evidence.runs:
            steps = sum(len(one.seen.steps) for one in evidence.runs)
            return [lines[0], f"times and memory of a probe of {steps} steps on this machine, scaled by size"]
        largest = max((c.memory for c in self._costs.values()), key=lambda m: m.total_gib, default=None)
        return lines if largest is None else [*lines, f"memory: {largest.words()}"]


def _modelled_evaluation(cost: CostModel, job: RunJob, benchmark: BenchmarkSpec) -> float:
    questions = benchmark.questions or EVALUATION_QUESTIONS
    return cost.generation_seconds(questions, job.evaluate.samples, job.evaluate.max_completion_tokens)


def _learned(runs: Sequence[Measured]) -> dict[str, float]:
    """Measured over modelled time and memory, medians over runs."""
    ratios: dict[str, list[float]] = {"step": [], "evaluation": [], "gib": []}
    for one in runs:
        if one.seen.steps:
            ratios["step"].append(statistics.fmean(one.seen.steps) / one.cost.step_seconds)
        if one.seen.gib:
            ratios["gib"].append(max(one.seen.gib) / one.cost.memory.total_gib)
        for benchmark in one.job.evaluate.benchmarks:
            for seconds in one.seen.evaluations.get(benchmark.name, []):
                ratio = seconds / _modelled_evaluation(one.cost, one.job, benchmark)
                ratios["evaluation"].append(ratio)
                ratios.setdefault(f"evaluation.{benchmark.name}", []).append(ratio)
    return {name: statistics.median(values) if values else 1.0 for name, values in ratios.items()}
