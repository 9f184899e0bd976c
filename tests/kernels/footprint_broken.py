"""The same cases as `footprint_sound`, each broken in the way that its name says."""

from __future__ import annotations

from tests.kernels.footprint_sound import product_case, scale_case

FOOTPRINT_CASES = (
    product_case("shared", (128, 128, 64), num_stages=5, num_warps=8),
    product_case("spill", (128, 256, 32)),
    product_case("tensor", (64, 64, 32), dtype="fp32", precision="ieee"),
    product_case("copy", (64, 64, 32), num_stages=1),
    product_case("occupancy", (128, 128, 32), num_warps=8),
    product_case("invalid", (48, 64, 32)),
    scale_case("fp64", "fp64"),
)
