"""Limits of GPU architectures, occupancy of a kernel, and roofline time of a launch.

Limits: CUDA C++ Programming Guide, "Technical specifications per compute capability". Peaks: NVIDIA data
sheets (dense, at boost clock).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_REGISTERS = 65_536
_REGISTER_UNIT = 256
"""Registers are handed out to warps in this unit."""
_WARP_UNIT = 4
"""Warps are spread over the four partitions of an SM."""
_SHARED_UNIT = 128


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Limits of one streaming multiprocessor."""

    compute_capability: int
    warps: int
    blocks: int
    shared_bytes: int
    """Shared memory of an SM that blocks can use."""
    shared_bytes_per_block: int
    reserved_bytes_per_block: int = 1024
    """Shared memory that the driver takes of each block."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """Peak rates of one GPU."""

    name: str
    compute_capability: int
    multiprocessors: int
    tensor_16bit_tflops: float
    fp32_tflops: float
    memory_gb_per_second: float


ARCHITECTURES = {
    a.compute_capability: a
    for a in (
        Architecture(
            compute_capability=80, warps=64, blocks=32, shared_bytes=167_936, shared_bytes_per_block=166_912
        ),
        Architecture(
            compute_capability=86, warps=48, blocks=16, shared_bytes=102_400, shared_bytes_per_block=101_376
        ),
        Architecture(
            compute_capability=89, warps=48, blocks=24, shared_bytes=102_400, shared_bytes_per_block=101_376
        ),
        Architecture(
            compute_capability=90, warps=64, blocks=32, shared_bytes=233_472, shared_bytes_per_block=232_448
        ),
    )
}

DEVICES = (
    Device(
        name="A40",
        compute_capability=86,
        multiprocessors=84,
        tensor_16bit_tflops=149.7,
        fp32_tflops=37.4,
        memory_gb_per_second=696,
    ),
    Device(
        name="A100",
        compute_capability=80,
        multiprocessors=108,
        tensor_16bit_tflops=312,
        fp32_tflops=19.5,
        memory_gb_per_second=2039,
    ),
    Device(
        name="H100",
        compute_capability=90,
        multiprocessors=132,
        tensor_16bit_tflops=989.4,
        fp32_tflops=66.9,
        memory_gb_per_second=3352,
    ),
)


def blocks_per_sm(architecture: Architecture, *, registers: int, shared_bytes: int, warps: int) -> int:
    """Blocks of `warps` warps that one SM holds at a time; 0 if a block does not fit at all.

    `registers` are per thread, `shared_bytes` per block without what the driver reserves.
    """
    a = architecture
    if shared_bytes > a.shared_bytes_per_block or warps > a.warps:
        return 0
    per_warp = math.ceil(max(registers, 1) * 32 / _REGISTER_UNIT) * _REGISTER_UNIT
    warps_by_registers = _REGISTERS // per_warp // _WARP_UNIT * _WARP_UNIT
    per_block = math.ceil((shared_bytes + a.reserved_bytes_per_block) / _SHARED_UNIT) * _SHARED_UNIT
    return min(a.blocks, a.warps // warps, warps_by_registers // warps, a.shared_bytes // per_block)


def roofline_milliseconds(
    device: Device, *, flops: float, traffic_bytes: float, programs: int, resident: int, tensor_cores: bool
) -> tuple[float, str]:
    """Least time of a launch on `device`, and what bounds it: `compute` or `memory`.

    Compute counts whole waves of `resident` blocks an SM, since the last wave takes as long as a full one;
    memory traffic is the least possible. An estimate, which a measurement can only exceed.
    """
    peak_tflops = device.tensor_16bit_tflops if tensor_cores else device.fp32_tflops
    slots = device.multiprocessors * max(resident, 1)
    waves = math.ceil(programs / slots)
    # A grid smaller than one wave leaves SMs idle, not just slots.
    busy = programs / min(
        waves * slots, max(math.ceil(programs / device.multiprocessors), 1) * device.multiprocessors
    )
    compute = flops / (peak_tflops * 1e12 * busy) * 1e3
    memory = traffic_bytes / (device.memory_gb_per_second * 1e9) * 1e3
    return (compute, "compute") if compute > memory else (memory, "memory")
