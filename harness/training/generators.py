"""The global generators of Python, NumPy and torch: set anew at every step, so that they hold no state to save."""

from __future__ import annotations

import random

import numpy as np
import torch

from harness.spec.seeds import derive_seed


def seed_generators(seed: int, step: int) -> None:
    """Sets every global generator for training step `step` (0-based) of a run with seed `seed`.

    Nothing of the harness draws from them. A user's reward function or a dropout layer may, and a run that is
    continued at this step must then draw what the undisturbed run drew.
    """
    value = derive_seed(seed, "generators", step)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)
