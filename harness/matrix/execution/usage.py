"""A record per call of the runner: how long it held how many devices, and how busy they were."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from harness.matrix.executors.base import Slot
from harness.store.atomic import utc_now
from harness.store.folders import Store
from harness.store.records import InvocationRecord


class DeviceUsageLog:
    """The record of this call; nothing is written before a worker starts.

    Args:
        store: the output folder.
        slots: the devices that the call holds.
        usd_per_hour: price of one device.
    """

    def __init__(self, store: Store, slots: Sequence[Slot], usd_per_hour: float) -> None:
        self._store = store
        self._slots = len(slots)
        self._devices = slots[0].devices if slots else 0
        self._usd_per_hour = usd_per_hour
        self._busy = 0.0
        self._began: float | None = None

    def begin(self) -> None:
        """The first worker starts: from here on devices are held."""
        if self._began is None:
            self._began = time.monotonic()
            self._started_at = utc_now()

    def add(self, device_seconds: float) -> None:
        """Adds what an ended worker used."""
        self._busy += device_seconds

    def write(self) -> None:
        """Writes the record as it is now: a killed call leaves its last one."""
        if self._began is None:
            return
        seconds = time.monotonic() - self._began
        record = InvocationRecord(
            started_at=self._started_at,
            wall_seconds=seconds,
            slots=self._slots,
            devices_per_slot=self._devices,
            usd_per_hour=self._usd_per_hour,
            device_seconds=seconds * self._slots * self._devices,
            busy_device_seconds=self._busy,
        )
        name = f"{self._started_at.replace(':', '').replace('+0000', 'Z')}-{os.getpid()}.json"
        self._store.write_invocation(name, record)
