"""Launch configurations of the head's Triton kernels, chosen for sm_86.

R rows computed, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """One launch configuration."""

    rows: int
    """Token rows of a program's tile."""
    columns: int
    """Vocabulary rows of a tile."""
    depth: int
    """Elements of the hidden dimension taken at a time."""
    group: int
    """Row tiles that follow one another in the grid, so that they share weight tiles in L2."""
    num_warps: int
    num_stages: int

    @property
    def name(self) -> str:
        """E.g. `128x128x32s3w8`."""
        return f"{self.rows}x{self.columns}x{self.depth}s{self.num_stages}w{self.num_warps}"


AMPERE_16BIT = LaunchConfig(rows=128, columns=128, depth=32, group=8, num_warps=8, num_stages=3)
"""32 KB of shared memory and no spills on sm_86, with 8 warps to hold a 128 × 128 accumulator."""
AMPERE_32BIT = LaunchConfig(rows=64, columns=64, depth=32, group=8, num_warps=8, num_stages=3)
"""The same bytes for fp32 inputs, whose products are taken in three tf32 passes."""
SMALL = LaunchConfig(rows=16, columns=32, depth=32, group=1, num_warps=4, num_stages=2)
"""Few rows or a small vocabulary: a tile that is not mostly padding."""


def launch_config(rows: int, vocab: int, dtype: torch.dtype) -> LaunchConfig:
    """The configuration for R = `rows` and V = `vocab`."""
    if rows <= 32 or vocab <= 32:
        return SMALL
    return AMPERE_32BIT if dtype == torch.float32 else AMPERE_16BIT
