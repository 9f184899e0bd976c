"""What the records of a run say about time and memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.store.folders import RunFolder
from harness.store.records import MemoryPeaks


@dataclass
class RunMeasurements:
    """What one run's records say.

    Attributes:
        steps: seconds of each step but an attempt's first.
        evaluations: seconds of each evaluation, by benchmark.
        startup: seconds of each finished attempt that neither its steps nor its evaluations cover.
        gib: peak memory of each step.
        wall_seconds: of all attempts.
        usd: money of all attempts, at the price in the run's job.
    """

    steps: list[float] = field(default_factory=list)
    evaluations: dict[str, list[float]] = field(default_factory=dict)
    startup: list[float] = field(default_factory=list)
    gib: list[float] = field(default_factory=list)
    wall_seconds: float = 0.0
    usd: float = 0.0


def read_measurements(folder: RunFolder) -> RunMeasurements:
    """Reads the records of a run."""
    seen = RunMeasurements()
    evaluations = folder.evaluations()
    for record in evaluations:
        seen.evaluations.setdefault(record.benchmark, []).append(record.timing.total_seconds)
    for attempt in folder.attempts():
        wall = attempt.wall_seconds
        seen.wall_seconds += wall
        records = attempt.trained()
        # The first step warms caches up; it is told by the start-up time, not by the median of steps.
        seen.steps += [r.timing.total_seconds for r in records[1:]]
        seen.gib += [peak for r in records if (peak := _peak(r.memory)) is not None]
        end = attempt.end()
        if end is not None and end.status == "finished":
            covered = sum(r.timing.total_seconds for r in records)
            own = [r for r in evaluations if r.attempt == attempt.number]
            covered += sum(r.timing.total_seconds for r in own)
            seen.startup.append(max(0.0, wall - covered))
    if (folder.path / "run.json").exists():  # a claim comes before its job
        seen.usd = seen.wall_seconds * folder.read_job().device_usd_per_second
    return seen


def _peak(memory: Mapping[str, MemoryPeaks]) -> float | None:
    """The largest measured peak over phases: of the device where there is one, else of the process."""
    peaks = memory.values()
    for kind in (
        [p.device_gib for p in peaks],
        [p.reserved_gib for p in peaks],
        [p.resident_gib for p in peaks],
    ):
        if measured := [value for value in kind if value is not None]:
            return max(measured)
    return None
