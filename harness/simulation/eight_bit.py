"""The memory of an 8-bit AdamW: what bitsandbytes allocates, which fake tensors cannot call."""

from __future__ import annotations

from typing import Any

import torch

_BLOCK = 256
"""Values that share a scale (bitsandbytes, `blocksize` of AdamW8bit)."""
_SMALLEST = 4096
"""Tensors below this keep their moments in float32 (bitsandbytes, `min_8bit_size`)."""


class EightBitMoments(torch.optim.Optimizer):
    """Allocates both moments of every weight as bitsandbytes does, and updates nothing."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Allocates the state on the first call."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None or self.state[parameter]:
                    continue
                small = parameter.numel() < _SMALLEST
                for moment in ("exp_avg", "exp_avg_sq"):
                    dtype = torch.float32 if small else torch.uint8
                    self.state[parameter][moment] = torch.zeros_like(parameter, dtype=dtype)
                    if not small:
                        scales = parameter.new_zeros(-(-parameter.numel() // _BLOCK), dtype=torch.float32)
                        self.state[parameter][f"{moment} scales"] = scales
