"""Peak memory of a stretch of code: resident set on the host; allocated, reserved and used on a GPU."""

from __future__ import annotations

from pathlib import Path

import psutil

GIB = 2**30
_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class PeakMemory:
    """Peaks since the last `reset`, in GiB.

    On Linux the kernel keeps the resident peak exactly (`VmHWM`, reset through `clear_refs`). Where it cannot
    be reset, the resident set at the reading stands in, a lower bound.

    Args:
        device: a CUDA device index to watch, or None.
    """

    def __init__(self, device: int | None = None) -> None:
        self._device = device
        self._process = psutil.Process()
        self.exact = self._reset_resident()

    def _reset_resident(self) -> bool:
        try:
            _CLEAR.write_text("5")
        except OSError:
            return False
        return True

    def reset(self) -> None:
        """Starts a new stretch."""
        if self.exact:
            self._reset_resident()
        if self._device is not None:
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)

    def read(self) -> dict[str, float | None]:
        """`resident_gib`, and `allocated_gib`, `reserved_gib`, `device_gib`: None where there is no GPU."""
        resident = self._peak_resident() if self.exact else self._process.memory_info().rss
        reading: dict[str, float | None] = {
            "resident_gib": resident / GIB,
            "allocated_gib": None,
            "reserved_gib": None,
            "device_gib": None,
        }
        if self._device is not None:
            import torch

            free, total = torch.cuda.mem_get_info(self._device)
            reading["allocated_gib"] = torch.cuda.max_memory_allocated(self._device) / GIB
            reading["reserved_gib"] = torch.cuda.max_memory_reserved(self._device) / GIB
            # At the reading, of all processes: the driver keeps no peak.
            reading["device_gib"] = (total - free) / GIB
        return reading

    @staticmethod
    def _peak_resident() -> int:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"{_STATUS} has no VmHWM line")
