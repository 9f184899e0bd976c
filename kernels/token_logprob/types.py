"""What every implementation is given and gives back: plain data, without the tensors of a call.

N tokens, H hidden, V rows of the head's weight, K LoRA rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

IGNORE_INDEX = -100
"""Target of a row to ignore: its outputs and gradients are 0, and nothing is computed for it."""

LOWEST_LOG_PROB = -200.0
"""Lower bound of log p in p · log p, where a logit of -inf would give 0 · inf. Its exponential is 0 in fp32."""


class TokenLogprob(NamedTuple):
    """Both [N], fp32 (fp64 for fp64 inputs), differentiable."""

    logprob: Tensor
    """log p(target), 0 in ignored rows."""
    entropy: Tensor | None
    """Entropy of the distribution in nats, 0 in ignored rows; None unless asked for."""


class Lora(NamedTuple):
    """A LoRA adapter on the head (arXiv 2106.09685): the effective weight is `weight + scale · b @ a`."""

    a: Tensor
    """[K, H]"""
    b: Tensor
    """[V, K]"""
    scale: float = 1.0
    """alpha / K in the paper's notation."""


@dataclass(frozen=True, kw_only=True)
class Transform:
    """From hidden · weightᵀ to the logits: softcap first (Gemma 2, arXiv 2408.00118), then temperature."""

    temperature: float = 1.0
    softcap: float | None = None

    def logits(self, product: Tensor) -> Tensor:
        """softcap · tanh(product / softcap) / temperature."""
        if self.softcap is not None:
            product = torch.tanh(product / self.softcap) * self.softcap
        return product if self.temperature == 1.0 else product / self.temperature
