"""What this machine offers, and what the grid's `hardware` means on it."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from harness.meters.provenance import gpus
from harness.spec.hardware import PROFILES, DeviceProfile, HardwareSpec

_GPU_NAMES = {
    "A40": "a40",
    "A100": "a100-80gb",
    "H100": "h100",
    "RTX 4090": "rtx4090",
    "L40": None,
    "L4": "l4",
}
"""Profile by a part of the driver's name; the first that fits."""


@dataclass(frozen=True)
class Machine:
    """Devices of this machine.

    Attributes:
        cores: CPU cores that this process may use.
        gpu_ids: what `CUDA_VISIBLE_DEVICES` calls the CUDA devices that this process may use.
        gpu_name: the driver's name of the first of them.
    """

    cores: int
    gpu_ids: tuple[str, ...] = ()
    gpu_name: str | None = None


def detect() -> Machine:
    """Looks at this machine, without loading a library that claims a device."""
    names = gpus()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = (
        [str(i) for i in range(len(names))]
        if visible is None
        else [v for v in visible.split(",") if v.strip()]
    )
    if not names or ids[:1] == ["-1"]:
        ids = []
    return Machine(usable_cores(), tuple(ids), names[0] if ids else None)


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use: its affinity, or its container's quota where that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cgroup.read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no such controller, or `max`
        pass
    return cores


@dataclass(frozen=True)
class Hardware:
    """The grid's hardware, resolved.

    Attributes:
        spec: with device, profile and price filled in.
        profile: row of the price table, with the grid's own price where it gives one.
        usd_per_hour: price of one device.
        devices: devices per run.
        notes: what was assumed.
    """

    spec: HardwareSpec
    profile: DeviceProfile
    usd_per_hour: float
    devices: int
    notes: tuple[str, ...] = ()

    @property
    def on_gpu(self) -> bool:
        """Whether runs execute on CUDA devices."""
        return self.spec.device == "cuda"


def resolve_hardware(spec: HardwareSpec, machine: Machine, *, planning: bool = False) -> Hardware:
    """What `spec` means on `machine`.

    Args:
        spec: the grid's hardware.
        machine: this machine.
        planning: a GPU profile is taken at its word, even where this machine has no GPU.
    """
    notes = []
    gpu_asked = spec.profile not in ("auto", "cpu-core")
    device = spec.device
    if device == "auto":
        device = "cuda" if machine.gpu_ids or (planning and gpu_asked) else "cpu"
    name: str = spec.profile
    if device == "cpu":
        if gpu_asked:
            notes.append(f"no CUDA device here: runs use the CPU at its price, not {spec.profile}'s")
        name = "cpu-core"
    elif not gpu_asked:
        name = _named(machine.gpu_name) or "a40"
        if machine.gpu_name is None or _named(machine.gpu_name) is None:
            notes.append(f"no price known for {machine.gpu_name or 'an unknown GPU'}: reckoned as {name}")
    profile = PROFILES[name]
    if spec.usd_per_hour is not None:
        source = "hardware.usd_per_hour"
        profile = dataclasses.replace(profile, usd_per_hour=spec.usd_per_hour, price_source=source)
    price = profile.usd_per_hour
    devices = spec.devices_per_run
    if device == "cpu" and devices > machine.cores and not planning:
        notes.append(f"devices_per_run is {devices}, but only {machine.cores} cores may be used")
    resolved = spec.model_copy(update={"device": device, "profile": name, "usd_per_hour": price})
    return Hardware(resolved, profile, price, devices, tuple(notes))


def _named(gpu: str | None) -> str | None:
    return next((profile for part, profile in _GPU_NAMES.items() if gpu and part in gpu), None)


def slot_count(hardware: Hardware, machine: Machine, workers: int | None = None) -> int:
    """How many runs execute at a time: as many as the devices hold, unless `workers` says otherwise."""
    if workers is not None:
        return workers
    available = len(machine.gpu_ids) if hardware.on_gpu else machine.cores
    return max(1, available // hardware.devices)
