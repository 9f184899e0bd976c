"""Readings of a clock that setting the time of day does not move."""

from __future__ import annotations

import time
from dataclasses import dataclass

from harness.store.leases import machine


@dataclass(frozen=True)
class Moment:
    """When something happened, by the monotonic clock that all processes of a machine share until it is booted.

    Attributes:
        seconds: the reading; only differences mean something.
        machine: whose clock.
    """

    seconds: float
    machine: str

    @classmethod
    def now(cls) -> Moment:
        """This machine's reading."""
        return cls(time.monotonic(), machine())

    @classmethod
    def parse(cls, text: str) -> Moment | None:
        """What `str` wrote, whatever stands before it; None where nothing of the kind was written."""
        words = text.split()
        try:
            return cls(float(words[-2]), words[-1])
        except (IndexError, ValueError):
            return None

    def __str__(self) -> str:
        return f"{self.seconds!r} {self.machine}"

    def since(self, earlier: Moment) -> float | None:
        """Seconds from `earlier` to this one; None where they are of two machines."""
        return self.seconds - earlier.seconds if self.machine == earlier.machine else None
