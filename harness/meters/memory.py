"""Peak memory of a stretch of code: resident set on the host; allocated, reserved and used on a GPU."""

from __future__ import annotations

import os
import weakref

import psutil

GIB = 2**30
_CLEAR = "/proc/self/clear_refs"
_STATUS = "/proc/self/status"
_STATUS_BYTES = 16384
_RESIDENT_PEAK = b"5"
"""What resets the peak (Linux, proc(5)): nothing else is cleared."""


class PeakMemory:
    """Peaks since the last `reset`, in GiB.

    On Linux the kernel keeps the resident peak exactly (`VmHWM`, reset through `clear_refs`). Where it cannot
    be reset, the resident set at the reading stands in, a lower bound. Both files stay open, for opening them
    costs four times the rest; they are those of the process that made the meter, so a fork needs its own.

    Args:
        device: a CUDA device index to watch, or None.
    """

    def __init__(self, device: int | None = None) -> None:
        self._device = device
        self._process = psutil.Process()
        self._clear = self._status = -1
        try:
            self._clear = self._opened(_CLEAR, os.O_WRONLY)
            self._status = self._opened(_STATUS, os.O_RDONLY)
            os.pwrite(self._clear, _RESIDENT_PEAK, 0)
            self.exact = True
        except OSError:
            self.exact = False

    def _opened(self, path: str, flags: int) -> int:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def reset(self) -> None:
        """Starts a new stretch."""
        if self.exact:
            os.pwrite(self._clear, _RESIDENT_PEAK, 0)
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

    def _peak_resident(self) -> int:
        text = os.pread(self._status, _STATUS_BYTES, 0)
        _, _, rest = text.partition(b"VmHWM:")
        return int(rest.split(None, 1)[0]) * 1024
