"""What else the machine did meanwhile: other programs' share of the processors, the hypervisor's, the run queue."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.store.records import Load

_REFRESH_SECONDS = 10.0
"""How old the list of this process's children may be: finding them reads every process of the machine."""


@dataclass(frozen=True)
class _Reading:
    """Counters at one moment, in seconds of processor time.

    Attributes:
        total: of all processors, idle ones included.
        busy: of those, spent on programs or taken away by the hypervisor.
        stolen: taken away by the hypervisor.
        own: spent on this process and its descendants.
    """

    total: float
    busy: float
    stolen: float
    own: float


class LoadMeter:
    """Load of the machine since the last `reset`; what the system does not tell is None.

    Args:
        proc: folder of the kernel's counters.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._process = psutil.Process()
        self._children: list[psutil.Process] = []
        self._looked = float("-inf")
        self.reset()

    def reset(self) -> None:
        """Starts a new stretch."""
        if time.monotonic() - self._looked > _REFRESH_SECONDS:
            self._children = self._process.children(recursive=True)
            self._looked = time.monotonic()
        self._start = self._counters()

    def read(self) -> Load | None:
        """The stretch's load; None where the kernel has no counters or none has moved."""
        start, now = self._start, self._counters()
        if start is None or now is None or now.total <= start.total:
            return None
        total = now.total - start.total
        own = max(0.0, now.own - start.own)
        # Counters of the machine tick in hundredths of a second, those of a process do not.
        others = max(0.0, now.busy - start.busy - own)
        return Load(
            own_share=min(1.0, own / total),
            competing_share=min(1.0, others / total),
            steal_share=min(1.0, max(0.0, now.stolen - start.stolen) / total),
            run_queue=self._run_queue(),
        )

    def _counters(self) -> _Reading | None:
        try:
            line = (self._proc / "stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        except OSError:
            return None
        if len(line) < 9 or line[0] != "cpu":
            return None
        tick = os.sysconf("SC_CLK_TCK")
        user, nice, system, idle, waiting, irq, softirq, stolen = (int(v) / tick for v in line[1:9])
        busy = user + nice + system + irq + softirq + stolen
        return _Reading(busy + idle + waiting, busy, stolen, self._own())

    def _own(self) -> float:
        spent = 0.0
        for process in (self._process, *self._children):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            spent += times.user + times.system + times.children_user + times.children_system
        return spent

    def _run_queue(self) -> int | None:
        """Threads that run or wait for a processor now, on the whole machine."""
        try:
            return int((self._proc / "loadavg").read_text(encoding="ascii").split()[3].split("/")[0])
        except (OSError, IndexError, ValueError):
            return None
