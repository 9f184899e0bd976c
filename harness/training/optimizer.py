"""AdamW and the learning-rate schedules."""

from __future__ import annotations

import math

import torch
from torch import nn

from harness.spec.recipe import OptimizerSpec


def build_optimizer(model: nn.Module, spec: OptimizerSpec) -> torch.optim.AdamW:
    """Fused AdamW (arXiv 1711.05101) over the trainable parameters; matrices decay, vectors don't."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=spec.learning_rate,
        betas=spec.betas,
        eps=spec.epsilon,
        fused=True,
    )


def learning_rate(spec: OptimizerSpec, *, step: int, steps: int) -> float:
    """The rate of 1-based update `step` of a run of `steps` steps.

    Linear warm-up to the peak over `warmup_steps`, then constant, or a linear or cosine descent that reaches
    the floor at the last step, or at step `schedule_steps` where that is given.
    """
    steps = spec.schedule_steps or steps
    if step <= spec.warmup_steps:
        return spec.learning_rate * step / spec.warmup_steps
    if spec.schedule == "constant":
        return spec.learning_rate
    done = min(1.0, (step - spec.warmup_steps) / max(1, steps - spec.warmup_steps))
    shape = 1 - done if spec.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    floor = spec.min_learning_rate_ratio
    return spec.learning_rate * (floor + (1 - floor) * shape)
