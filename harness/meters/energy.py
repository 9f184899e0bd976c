"""Joules by the counters of the hardware: NVML on a GPU, RAPL on a processor. What has no counter is not guessed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

RAPL = Path("/sys/class/powercap")
"""Where Linux shows the processor's energy counters; readable by root alone on most machines."""


class EnergyMeter:
    """Energy since the last `reset`.

    The GPU figure is that of whole devices, the CPU figure that of all sockets: whatever else runs there is in it.

    Args:
        gpus: CUDA devices to watch, as `CUDA_VISIBLE_DEVICES` names them (indices or UUIDs).
        rapl: folder of the processor's counters.
    """

    def __init__(self, gpus: Sequence[str] = (), rapl: Path = RAPL) -> None:
        self._gpu = _nvml_counter(gpus)
        self._domains = _rapl_domains(rapl)
        self.reset()

    def reset(self) -> None:
        """Starts a new stretch."""
        self._gpu_start = self._gpu() if self._gpu else None
        self._cpu_start = _microjoules(self._domains)

    def read(self) -> dict[str, float | None]:
        """`gpu_joules` and `cpu_joules`; None where there is no counter that this process may read."""
        gpu = None
        if self._gpu is not None and self._gpu_start is not None and (now := self._gpu()) is not None:
            gpu = (now - self._gpu_start) / 1e3
        return {"gpu_joules": gpu, "cpu_joules": self._cpu()}

    def _cpu(self) -> float | None:
        if self._cpu_start is None or (now := _microjoules(self._domains)) is None:
            return None
        total = 0
        for domain, start in self._cpu_start.items():
            spent = now[domain] - start
            # The counter wraps around at the range that the driver states.
            total += spent if spent >= 0 else spent + self._domains[domain]
        return total / 1e6


def visible_gpus(count: int) -> tuple[str, ...]:
    """Names of the first `count` CUDA devices of this process, as NVML finds them: indices or UUIDs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(count)] if visible is None else visible.split(",")
    return tuple(name.strip() for name in names[:count])


def _nvml_counter(gpus: Sequence[str]) -> Callable[[], int | None] | None:
    """Reads the sum of the devices' energy counters in millijoules (NVML counts from the driver's start)."""
    if not gpus:
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(int(name))
            if name.isdigit()
            else pynvml.nvmlDeviceGetHandleByUUID(name)
            for name in gpus
        ]
        for handle in handles:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:  # no driver, or a device older than Volta, which has no such counter
        return None

    def read() -> int | None:
        with contextlib.suppress(pynvml.NVMLError):
            return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles)
        return None

    return read


def _rapl_domains(root: Path) -> dict[Path, int]:
    """The counters of the sockets and the range of each, in microjoules; empty if one cannot be read.

    `intel-rapl:0` is a socket; `intel-rapl:0:1` is a part of it that the socket's figure holds already.
    """
    domains = {}
    try:
        for folder in sorted(root.glob("intel-rapl:*")):
            if folder.name.count(":") == 1 and (folder / "name").read_text().startswith("package"):
                (folder / "energy_uj").read_text()
                domains[folder / "energy_uj"] = int((folder / "max_energy_range_uj").read_text())
    except (OSError, ValueError):
        return {}
    return domains


def _microjoules(domains: Mapping[Path, int]) -> dict[Path, int] | None:
    if not domains:
        return None
    try:
        return {path: int(path.read_text()) for path in domains}
    except (OSError, ValueError):
        return None
