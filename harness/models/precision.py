"""In which dtype a device computes."""

from __future__ import annotations

import torch

from kernels.device_choice import device_type
from kernels.token_logprob.dtypes import product_dtype


def compute_dtype(*, bf16: bool, device: torch.device) -> torch.dtype:
    """bfloat16 if asked for and the device has fast products in it, else float32.

    A CPU without bfloat16 instructions emulates its products, several times slower than the exact ones in float32;
    it is the rule of the head (`product_dtype`) for everything else.
    """
    return product_dtype(torch.bfloat16, device_type(device)) if bf16 else torch.float32
