"""Leases: which process may write a run's records, on any number of machines whose clocks may differ.

An attempt holds the lease on its run, and its number is the fencing token: `RunFolder.claim` makes the next attempt's
folder by a rename that exactly one of several runners can win. The holder renews the lease by changing the attempt's
file `beat`. Others compare its content with what they read before and measure the time between by their own clock,
so clocks of different machines are never compared. A lease expires when the holder's processes are gone (seen from
the same machine), or when `beat` has not changed for `STALE_SECONDS` (seen from another one).

Evaluations and checkpoints, which an attempt publishes for the run as a whole, are first written into the attempt's
folder `stage` and renamed from there. The next attempt moves `stage` away, so a writer that comes back late, from a
suspended machine or after a network partition, has no folder to publish from and fails.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import psutil

BEAT_SECONDS = 5.0
"""Between two renewals of a lease by its holder."""

STALE_SECONDS = 120.0
"""A lease held on another machine expires after this long without a renewal. Well above the time for which network
file systems cache attributes and contents."""


@cache
def machine() -> str:
    """Identifies the space of process ids that this process lives in: host, boot and PID namespace.

    Two containers on one host are two machines, and so is a host after a reboot.
    """
    parts = [socket.gethostname(), _boot()]
    with contextlib.suppress(OSError):  # elsewhere than on Linux there is one space of process ids
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def _boot() -> str:
    """What stays the same until this host is booted again."""
    if sys.platform == "darwin":
        # The time of boot moves there whenever the clock is set.
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
            return subprocess.run(
                command, capture_output=True, text=True, timeout=20, check=True
            ).stdout.strip()
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(int(psutil.boot_time()))


def _started_ticks(pid: int) -> int | None:
    """Clock ticks from the boot to the start of a process (proc(5), field 22); None elsewhere than on Linux."""
    try:
        # The second field, the program's name, may hold spaces and brackets.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


@cache
def machine_digest() -> str:
    """A short form of `machine()` for file names."""
    return hashlib.sha256(machine().encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Owner:
    """A process that holds a lease.

    Attributes:
        machine: `machine()` of the process; None in records written before it was recorded.
        host: host name, for messages.
        pid: process id.
        process_started: seconds since the epoch by that machine's clock; distinguishes a reused process id where
            nothing better is known.
        started_ticks: clock ticks from the boot to the start of the process, which setting the clock does not move;
            None where the system does not tell them, and in early records.
    """

    machine: str | None
    host: str
    pid: int
    process_started: float
    started_ticks: int | None = None

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        process = psutil.Process()
        return cls(
            machine(), socket.gethostname(), process.pid, process.create_time(), _started_ticks(process.pid)
        )

    @property
    def is_this_process(self) -> bool:
        """Whether it is the process that asks, whatever its clock has been set to since."""
        if self.machine != machine() or self.pid != os.getpid():
            return False
        return self._is(psutil.Process())

    @property
    def rebooted(self) -> bool:
        """Whether its host, which is this one, has been booted since: the process is gone."""
        return (
            self.machine is not None
            and self.host == socket.gethostname()
            and self.machine.split("/")[:2] != machine().split("/")[:2]
        )

    def alive(self) -> bool | None:
        """Whether the process runs; None where that cannot be seen from here."""
        here = self.host == socket.gethostname() if self.machine is None else self.machine == machine()
        if not here:
            return None
        try:
            process = psutil.Process(self.pid)
            return self._is(process) and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def _is(self, process: psutil.Process) -> bool:
        if self.started_ticks is not None and (ticks := _started_ticks(process.pid)) is not None:
            return ticks == self.started_ticks
        # On Linux this is the time of boot, which moves with the clock, and the ticks; elsewhere it stays.
        return abs(process.create_time() - self.process_started) < 2

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease(Protocol):
    """What `LeaseWatch` reads of an attempt (`harness.store.attempts.AttemptFolder`)."""

    @property
    def path(self) -> Path:
        """The attempt's folder, which identifies the lease."""

    @property
    def ended(self) -> bool:
        """Whether the attempt has given the lease back."""

    def process_alive(self) -> bool | None:
        """Whether a process of the holder runs; None where that cannot be seen from this machine."""

    def last_beat(self) -> str:
        """Changes with every renewal."""


class LeaseWatch:
    """Decides whether leases of other processes are still held.

    Keeps what it saw of each lease, so use one instance for all calls.

    Args:
        stale_seconds: how long a lease outlives its last renewal.
        clock: monotonic seconds; only differences count.
    """

    def __init__(
        self, stale_seconds: float = STALE_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stale = stale_seconds
        self._clock = clock
        self._seen: dict[Path, tuple[str, float]] = {}

    def is_held(self, lease: Lease) -> bool:
        """Whether the lease is still held, as far as can be known now.

        A lease held on another machine counts as held when it is seen for the first time.
        """
        if lease.ended:
            return False
        alive = lease.process_alive()
        if alive is not None:
            return alive
        beat, now = lease.last_beat(), self._clock()
        known = self._seen.get(lease.path)
        if known is None or known[0] != beat:
            self._seen[lease.path] = beat, now
            return True
        return now - known[1] < self._stale
