"""Seconds by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from harness.meters.memory import PeakMemory
from harness.store.records import MemoryPeaks


class PhaseClock:
    """Adds up wall-clock seconds and peak memory by phase.

    Phases may not nest: each second belongs to one phase, and what belongs to none is `other`.

    Args:
        memory: meter of the peak per phase, if wanted.
        synchronize: called before each reading, to wait for a device that works asynchronously.
    """

    def __init__(self, memory: PeakMemory | None = None, synchronize: object = None) -> None:
        self._memory = memory
        self._synchronize = synchronize if callable(synchronize) else None
        self._current: str | None = None
        self.reset()

    def reset(self) -> None:
        """Starts a new interval."""
        self._start = self._now()
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, dict[str, float | None]] = {}

    def _now(self) -> float:
        if self._synchronize is not None:
            self._synchronize()
        return time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measures the block as part of phase `name`."""
        if self._current is not None:
            raise RuntimeError(f"phase {name!r} cannot start inside phase {self._current!r}")
        self._current = name
        if self._memory is not None:
            self._memory.reset()
        start = self._now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - start
            self._current = None
            if self._memory is not None:
                self.peaks[name] = merged_peaks(self.peaks.get(name), self._memory.read())

    def move(self, source: str, target: str, seconds: float) -> None:
        """Counts part of a phase as another one, such as what it spent waiting; nothing where that is nothing."""
        if seconds and source in self.seconds:
            self.seconds[source] -= seconds
            self.seconds[target] = self.seconds.get(target, 0.0) + seconds

    def memory(self) -> dict[str, MemoryPeaks]:
        """`peaks`, as records hold them."""
        return {phase: MemoryPeaks(**peak) for phase, peak in self.peaks.items()}

    def total(self) -> float:
        """Seconds since the interval began."""
        return self._now() - self._start

    def with_other(self) -> dict[str, float]:
        """Seconds by phase, and `other`: what no phase covers. They add up to `total()` of now."""
        total = self.total()
        return {**self.seconds, "other": total - sum(self.seconds.values())}


def merged_peaks(
    first: dict[str, float | None] | None, second: dict[str, float | None]
) -> dict[str, float | None]:
    """The larger of two readings, figure by figure; None where neither was measured."""
    if first is None:
        return second
    merged: dict[str, float | None] = {}
    for key in second:
        values = [v for v in (first.get(key), second[key]) if v is not None]
        merged[key] = max(values) if values else None
    return merged
