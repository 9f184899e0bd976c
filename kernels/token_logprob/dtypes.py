"""In which dtype products are taken, and in which they are summed."""

from __future__ import annotations

import functools

import torch


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums are held in: fp32, or fp64 for fp64."""
    return torch.promote_types(dtype, torch.float32)


@functools.cache
def product_dtype(dtype: torch.dtype, device_type: str) -> torch.dtype:
    """`dtype`, or fp32 on a CPU that has no fast product in it: there fp32 is exact and 10 to 100 times faster."""
    if device_type == "cpu":
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return torch.float32
        if dtype == torch.float16 and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
            return torch.float32
    return dtype
