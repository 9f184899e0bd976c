"""A plan on disk: cells, jobs and their estimates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from harness.store.records.form import Count, GiB, Number, Record, Seconds, Usd, absent


@dataclass(frozen=True, slots=True, kw_only=True)
class CellEntry(Record):
    """A cell of the grid.

    Attributes:
        levels: its level on every axis.
        seed: its seed.
        run: the run that it lies on.
        step: the checkpoint that gives its figures.
    """

    levels: Mapping[str, str]
    seed: Count
    run: str
    step: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFork(Record):
    """Where a run may leave another: that run, and the step of its checkpoint."""

    run: str
    step: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEstimate(Record):
    """What is left to do of a job, estimated before anything ran.

    Attributes:
        seconds: of wall clock.
        usd: of all devices.
        gib: peak memory of a device in training.
    """

    seconds: Seconds
    usd: Usd
    gib: GiB


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEntry(Record):
    """A run of the plan.

    Attributes:
        run: its id.
        kind: `train`, or `base` for the evaluation of an untrained model.
        label: for people.
        levels: its level on every axis but those of training length; empty for a base job.
        seed: its seed.
        steps: checkpoints to evaluate.
        evaluation_ids: identity of the evaluation, by benchmark.
        devices: devices billed.
        usd_per_hour: price of one device.
        fork: where it may start.
        estimate: of what is left to do.
    """

    run: str
    kind: Literal["train", "base"]
    label: str
    levels: Mapping[str, str]
    seed: Count
    steps: tuple[Count, ...]
    evaluation_ids: Mapping[str, str]
    devices: Count
    usd_per_hour: Usd
    fork: JobFork | None = absent()
    estimate: JobEstimate | None = absent()


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskEstimate(Record):
    """Checkpoints on disk, in GiB: when all is done, and at most while runs are at work."""

    kept: GiB
    peak: GiB


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalEstimate(Record):
    """What is left to do of all jobs.

    Attributes:
        wall_hours: with as many runs beside each other as there are slots.
        device_hours: of all devices.
        usd: of all devices.
        gib_per_device: the largest peak.
        disk_gib: checkpoints.
    """

    wall_hours: Number
    device_hours: Number
    usd: Usd
    gib_per_device: GiB
    disk_gib: DiskEstimate | None = absent()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTotals(Record):
    """How much a plan is: cells, runs, untrained models, evaluations, and what is left to do of them."""

    cells: Count
    runs: Count
    base_models: Count
    evaluations: Count
    runs_to_do: Count
    evaluations_to_do: Count
    estimate: TotalEstimate
    slots: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectableEntry(Record):
    """The effect on an axis that the plan is expected to find.

    Attributes:
        axis: the axis.
        levels: how many it has.
        df: degrees of freedom of its error.
        effect: a fraction of accuracy; None where no verdict is possible.
        one_more_seed: the same with one more seed.
    """

    axis: str
    levels: Count
    df: Count
    effect: Number | None
    one_more_seed: Number | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord(Record):
    """`plan.json`, as it was when runs were first started.

    Attributes:
        name: of the grid.
        cells: in the grid's order.
        jobs: in the order in which they start, untrained models first.
        sharing: what is shared or not, and why.
        warnings: what the author of the grid may not intend.
        totals: sums; this and what follows are off the disk before anything was estimated.
        assumptions: behind the estimates, in words.
        notes: on the hardware.
        memory_warnings: estimates of memory that exceed a device.
        detectable: effects that the plan is expected to find.
    """

    name: str = absent("")
    cells: tuple[CellEntry, ...]
    jobs: tuple[JobEntry, ...]
    sharing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    totals: PlanTotals | None = absent()
    assumptions: tuple[str, ...] | None = absent()
    notes: tuple[str, ...] | None = absent()
    memory_warnings: tuple[str, ...] | None = absent()
    detectable: tuple[DetectableEntry, ...] | None = absent()


@dataclass(frozen=True, slots=True, kw_only=True)
class InvocationRecord(Record):
    """`invocations/….json`: a call of the runner that started at least one worker.

    Attributes:
        started_at: when the first worker started, ISO 8601.
        wall_seconds: since then.
        slots: runs beside each other.
        devices_per_slot: devices of each.
        usd_per_hour: price of one device.
        device_seconds: for which devices were held.
        busy_device_seconds: for which workers had them; the rest is idle time.
    """

    started_at: str
    wall_seconds: Seconds
    slots: Count
    devices_per_slot: Count
    usd_per_hour: Usd
    device_seconds: Seconds
    busy_device_seconds: Seconds
