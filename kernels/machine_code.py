"""Resources and instruction mix of one compiled kernel, read from what cuobjdump prints of its machine code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kernels.architectures import ARCHITECTURES, blocks_per_sm

_TENSOR = ("HMMA", "HGMMA", "IMMA", "QGMMA", "BGMMA", "DMMA")
_ASYNC_COPY = ("LDGSTS", "UTMALDG", "UBLKCP")
_SPILLS = ("STL", "LDL")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@\S+\s+)?([A-Z0-9_]+)", re.MULTILINE)
"""Address, optional predicate, opcode up to its first modifier."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Resources of an SM that one compiled kernel takes."""

    registers: int
    """Per thread."""
    spill_instructions: int
    """Loads from and stores to local memory."""
    stack_bytes: int
    """Per thread."""
    shared_bytes: int
    """Per block."""
    warps: int
    """Per block."""
    blocks_per_sm: int
    occupancy: float
    """Resident warps over the most that an SM holds."""
    tensor_core_instructions: int
    async_copy_instructions: int
    instructions: int
    uses_fp64: bool
    """Whether the Triton IR holds fp64 values: Python floats that are no constexpr become fp64, 24 times slower."""


def read_footprint(
    resources: str, sass: str, *, shared_bytes: int, warps: int, architecture: int, uses_fp64: bool = False
) -> Footprint:
    """Parse cuobjdump's `--dump-resource-usage` and `-sass`; `shared_bytes` is the dynamic part."""
    usage = {
        key: int(value)
        for key, _, value in (field.partition(":") for field in resources.split("Function")[1].split())
        if value.isdigit()
    }
    names = _INSTRUCTION.findall(sass)
    limits = ARCHITECTURES[architecture]
    # sm_90 reports the driver's kilobyte as the kernel's own.
    reserved = limits.reserved_bytes_per_block if architecture >= 90 else 0
    shared = shared_bytes + max(usage["SHARED"] - reserved, 0)
    resident = blocks_per_sm(limits, registers=usage["REG"], shared_bytes=shared, warps=warps)
    return Footprint(
        registers=usage["REG"],
        spill_instructions=_count(names, _SPILLS),
        stack_bytes=usage["STACK"],
        shared_bytes=shared,
        warps=warps,
        blocks_per_sm=resident,
        occupancy=round(resident * warps / limits.warps, 4),
        tensor_core_instructions=_count(names, _TENSOR),
        async_copy_instructions=_count(names, _ASYNC_COPY),
        instructions=len(names),
        uses_fp64=uses_fp64,
    )


def _count(names: Sequence[str], opcodes: Sequence[str]) -> int:
    return sum(name in opcodes for name in names)
