"""What every implementation is given and gives back.

N tokens, H hidden, V rows of the head's weight, R rank of the low-rank pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

IGNORE_INDEX = -100
"""Target of a row that is not wanted: outputs 0, gradients 0, no work."""

LOWEST_LOG_PROB = -200.0
"""exp of it is 0 in fp32: bounds p · log p where a logit is -inf, so that 0 · inf never arises."""


class TokenLogprob(NamedTuple):
    """Both [N], fp32 (fp64 for fp64 inputs), differentiable."""

    logprob: Tensor
    """log p(target), 0 in ignored rows."""
    entropy: Tensor | None
    """Entropy of the distribution in nats, 0 in ignored rows; None unless asked for."""


class Lora(NamedTuple):
    """Low-rank pair on the head: the weight in effect is `weight + scale · b @ a`."""

    a: Tensor
    """[R, H]"""
    b: Tensor
    """[V, R]"""
    scale: float = 1.0
    """alpha / R in the usual notation."""


@dataclass(frozen=True, kw_only=True)
class Transform:
    """From the product to the logits: softcap first, as the models that have it do, then temperature."""

    temperature: float = 1.0
    softcap: float | None = None

    def logits(self, product: Tensor) -> Tensor:
        """softcap · tanh(product / softcap) / temperature."""
        if self.softcap is not None:
            product = torch.tanh(product / self.softcap) * self.softcap
        return product if self.temperature == 1.0 else product / self.temperature


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums are held in: fp32, or fp64 for fp64."""
    return torch.promote_types(dtype, torch.float32)
