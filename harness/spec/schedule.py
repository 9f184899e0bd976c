"""The learning rate of every step: all that a schedule does to a run."""

from __future__ import annotations

import math
from functools import lru_cache

from harness.spec.recipe import OptimizerSpec

SCHEDULE_FIELDS = (
    "learning_rate",
    "schedule",
    "schedule_steps",
    "warmup_steps",
    "decay_fraction",
    "min_learning_rate_ratio",
)
"""Fields of `optimizer` that act on training through `learning_rate` alone; `training.steps` does so too."""


def learning_rate(spec: OptimizerSpec, *, step: int, steps: int) -> float:
    """The rate of 1-based update `step` of a run of `steps` steps.

    Linear warm-up to the peak over `warmup_steps`, then constant, or a linear or cosine descent that reaches
    the floor at the last step, or at step `schedule_steps` where that is given. `wsd` stays at the peak and falls
    linearly over the last `decay_fraction` of the steps (MiniCPM, arXiv 2404.06395, section 4).
    """
    steps = spec.schedule_steps or steps
    if step <= spec.warmup_steps:
        return spec.learning_rate * step / spec.warmup_steps
    if spec.schedule == "constant":
        return spec.learning_rate
    fall = spec.warmup_steps
    if spec.schedule == "wsd":
        fall = max(fall, steps - round(spec.decay_fraction * steps))
    done = min(1.0, max(0.0, (step - fall) / max(1, steps - fall)))
    shape = 1 - done if spec.schedule in ("linear", "wsd") else (1 + math.cos(math.pi * done)) / 2
    floor = spec.min_learning_rate_ratio
    return spec.learning_rate * (floor + (1 - floor) * shape)


@lru_cache(maxsize=1024)
def learning_rates(spec: OptimizerSpec, steps: int) -> tuple[float, ...]:
    """The rates of all steps of a run of `steps` steps."""
    return tuple(learning_rate(spec, step=step, steps=steps) for step in range(1, steps + 1))
