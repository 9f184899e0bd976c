"""Seeds the global random generators (Python, NumPy, torch) at every step, so that no checkpoint need hold them."""

from __future__ import annotations

import random

import numpy as np
import torch

from harness.spec.seeds import derive_seed


def seed_generators(seed: int, step: int) -> None:
    """Seeds every global generator for training step `step` (0-based) of a run with seed `seed`.

    The harness itself draws from none of them. A user's reward function or a dropout layer may, and a run resumed at
    this step must then draw the same numbers as an uninterrupted one.
    """
    value = derive_seed(seed, "generators", step)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)
