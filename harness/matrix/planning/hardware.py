"""What this machine offers, and what the grid's `hardware` means on it."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from harness.meters.provenance import gpu_memory_gib, gpus
from harness.spec.device_profiles import PROFILES, DeviceProfile, ProfileName, profile_of
from harness.spec.hardware import HardwareSpec


@dataclass(frozen=True)
class Machine:
    """Devices of this machine.

    Attributes:
        cores: CPU cores that this process may use.
        gpu_ids: what `CUDA_VISIBLE_DEVICES` calls the CUDA devices that this process may use.
        gpu_name: the driver's name of the first of them.
        gpu_memory_gib: its memory; None where the table of devices knows it, or the driver does not say.
    """

    cores: int
    gpu_ids: tuple[str, ...] = ()
    gpu_name: str | None = None
    gpu_memory_gib: float | None = None


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
    name = names[0] if ids else None
    memory = gpu_memory_gib() if name is not None and profile_of(name) is None else None
    return Machine(usable_cores(), tuple(ids), name, memory)


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
        profile: row of the table of devices, with the grid's own price where it gives one.
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
    name: ProfileName = "cpu-core" if device == "cpu" or spec.profile == "auto" else spec.profile
    if device == "cpu" and gpu_asked:
        notes.append(f"no CUDA device here: runs use the CPU at its price, not {spec.profile}'s")
    elif device == "cuda" and not gpu_asked:
        name = profile_of(machine.gpu_name) or "unknown"
    profile = PROFILES[name]
    if name == "unknown":
        profile = dataclasses.replace(profile, memory_gib=machine.gpu_memory_gib)
        notes.append(_unknown(machine.gpu_name, priced=spec.usd_per_hour is not None))
    if spec.usd_per_hour is not None:
        source = "hardware.usd_per_hour"
        profile = dataclasses.replace(profile, usd_per_hour=spec.usd_per_hour, price_source=source)
    price = profile.usd_per_hour
    devices = spec.devices_per_run
    if device == "cpu" and devices > machine.cores and not planning:
        notes.append(f"devices_per_run is {devices}, but only {machine.cores} cores may be used")
    resolved = spec.model_copy(update={"device": device, "profile": name, "usd_per_hour": price})
    return Hardware(resolved, profile, price, devices, tuple(notes))


def _unknown(gpu: str | None, *, priced: bool) -> str:
    """What is taken for granted of a GPU that the table of devices lacks."""
    price = (
        ""
        if priced
        else f", ${PROFILES['unknown'].usd_per_hour:.2f} an hour is assumed (hardware.usd_per_hour)"
    )
    return (
        f"nothing is known of {gpu or 'this GPU'} (hardware.profile: unknown): hours are rough guesses{price}, and "
        "MFU is not given"
    )


def slot_count(hardware: Hardware, machine: Machine, workers: int | None = None) -> int:
    """How many runs execute at a time: as many as the devices hold, unless `workers` says otherwise."""
    if workers is not None:
        return workers
    available = len(machine.gpu_ids) if hardware.on_gpu else machine.cores
    return max(1, available // hardware.devices)
