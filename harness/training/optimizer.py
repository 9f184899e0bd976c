"""Construction of the optimiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from harness.spec.errors import SpecError
from harness.spec.recipe import OptimizerSpec


def build_optimizer(model: nn.Module, spec: OptimizerSpec) -> torch.optim.Optimizer:
    """Builds AdamW (arXiv 1711.05101) over the trainable parameters; weight decay applies to matrices alone.

    `adamw` is torch's fused implementation, `adamw_8bit` that of bitsandbytes (arXiv 2110.02861), which stores both
    moments as block-quantised 8-bit numbers.

    Raises:
        SpecError: `adamw_8bit` without a CUDA device or without bitsandbytes.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    kind, options = (torch.optim.AdamW, {"fused": True}) if spec.name == "adamw" else (_eight_bit(), {})
    return kind(
        [g for g in groups if g["params"]],
        lr=spec.learning_rate,
        betas=spec.betas,
        eps=spec.epsilon,
        **options,
    )


def _eight_bit() -> Any:
    hint = "use `name: adamw`, or install bitsandbytes on a machine with a GPU"
    if not torch.cuda.is_available():
        raise SpecError("optimizer.name: adamw_8bit needs a CUDA device, and torch sees none", hint=hint)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise SpecError("optimizer.name: adamw_8bit needs bitsandbytes", hint=hint) from None
    return AdamW8bit
