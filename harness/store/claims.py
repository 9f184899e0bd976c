"""Who may write what of a run, on any number of machines whose clocks may differ.

An attempt is the claim on its run, and its number the fencing token: `RunFolder.claim` makes the next attempt's
folder by a rename that only one of several runners can win. Whoever holds an attempt beats: a counter in a file,
which others watch by their own clocks, so that no two clocks are ever compared. A claim lapses when its processes
are seen to be gone (on the same machine), or when its counter has stood still for `STALE_SECONDS` (on another one).

What an attempt publishes for the run as a whole, evaluations and checkpoints, is first written into the attempt's
folder `stage` and renamed from there. The next claim moves that folder away, so a writer that comes back late, from a
suspended machine or a network that was cut, finds nowhere to publish from: its token is too old.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from harness.store.attempts import AttemptFolder

BEAT_SECONDS = 5.0
"""Between two beats of a claim."""

STALE_SECONDS = 120.0
"""After so long without a beat a claim on another machine has lapsed; well above what a file server caches."""


class Fenced(RuntimeError):
    """A later attempt has taken the run over; this one may publish nothing any more."""


@cache
def machine() -> str:
    """This machine since it was booted, as process ids count on it: two containers are two machines."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(os.readlink(path) if "ns" in path else Path(path).read_text().strip())
        except OSError:
            parts.append(str(int(psutil.boot_time())))
    return "/".join(parts)


@cache
def machine_digest() -> str:
    """A short form of `machine()` for file names."""
    return hashlib.sha256(machine().encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Owner:
    """A process that holds a claim.

    Attributes:
        machine: where it runs; None in records that did not say.
        host: name of the machine, for people.
        pid: process id.
        process_started: seconds since the epoch, by the same machine's clock; tells a reused process id.
    """

    machine: str | None
    host: str
    pid: int
    process_started: float

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        process = psutil.Process()
        return cls(machine(), socket.gethostname(), process.pid, process.create_time())

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Owner:
        """What `to_json` gave."""
        return cls(data["machine"], data["host"], data["pid"], data["process_started"])

    def to_json(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)

    def alive(self) -> bool | None:
        """Whether the process runs; None where that cannot be seen from here."""
        here = self.host == socket.gethostname() if self.machine is None else self.machine == machine()
        if not here:
            return None
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.process_started) < 2
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Watch:
    """Watches the claims of others.

    Args:
        stale_seconds: how long a claim outlives its last beat.
        clock: seconds that never go back; only differences count.
    """

    def __init__(
        self, stale_seconds: float = STALE_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stale = stale_seconds
        self._clock = clock
        self._seen: dict[Path, tuple[str, float]] = {}

    def holds(self, attempt: AttemptFolder) -> bool:
        """Whether the attempt still holds its run, as far as one can tell now."""
        if attempt.ended:
            return False
        alive = attempt.process_alive()
        if alive is not None:
            return alive
        beat, now = attempt.last_beat(), self._clock()
        known = self._seen.get(attempt.path)
        if known is None or known[0] != beat:
            self._seen[attempt.path] = beat, now
            return True
        return now - known[1] < self._stale
