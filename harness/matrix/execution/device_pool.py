"""Which devices a run gets, and whether there is memory for it: shared fairly with other runners on this machine."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from harness.matrix.executors.base import Slot


class DevicePool:
    """The slots of one runner.

    Args:
        slots: all of them.
        locks: folder of a lock file per slot of this machine, which runners on one output folder share; None where
            an executor brings slots of its own.
        memory_gib: memory by `Slot.gpu_ids` (per device), `()` for the CPU's; what is absent is not limited.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        locks: Path | None = None,
        memory_gib: Mapping[tuple[str, ...], float] | None = None,
    ) -> None:
        self.slots = tuple(slots)
        self._free = list(slots)
        self._locks = locks
        self._held: dict[int, FileLock] = {}
        self._memory = dict(memory_gib or {})
        self._used: dict[int, tuple[tuple[str, ...], float]] = {}

    @property
    def free(self) -> bool:
        """Whether this runner has a slot that it does not use itself."""
        return bool(self._free)

    def acquire(self, gib: float) -> Slot | None:
        """A free slot whose devices have room for `gib` more; None if there is none now.

        A run that is larger than its devices may have them to itself.
        """
        for slot in self._free:
            used = sum(size for ids, size in self._used.values() if ids == slot.gpu_ids)
            limit = self._memory.get(slot.gpu_ids)
            if limit is not None and used and used + gib > limit:
                continue
            if self._lock(slot):
                self._free.remove(slot)
                self._used[slot.index] = slot.gpu_ids, gib
                return dataclasses.replace(slot, memory_gib=gib)
        return None

    def release(self, slot: Slot) -> None:
        """Takes a slot back."""
        self._used.pop(slot.index)
        self._free.append(dataclasses.replace(slot, memory_gib=None, time_limit_seconds=None))
        self._free.sort(key=lambda s: s.index)
        lock = self._held.pop(slot.index, None)
        if lock is not None:
            lock.release()

    def _lock(self, slot: Slot) -> bool:
        if self._locks is None:
            return True
        lock = FileLock(self._locks / f"{socket.gethostname()}-{slot.index}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        except (
            OSError,
            NotImplementedError,
        ):  # a file system without locks: runners then share devices unknowingly
            return True
        self._held[slot.index] = lock
        return True
