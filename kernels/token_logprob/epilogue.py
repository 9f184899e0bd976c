"""What is done to one tile of logits [C, S]: softmax statistics going forward, its gradient going back.

Written once as plain torch. For large problems on a CPU the same functions go through `torch.compile`,
which makes one pass over memory of them, if this machine has a C++ compiler that works.

N tokens, C tokens of a tile, S vocabulary rows of a tile.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.token_logprob.head import LOWEST_LOG_PROB, accumulate_dtype


class TileStats(NamedTuple):
    """Per row [C], fp32: enough to merge tiles of one row in any order."""

    maximum: Tensor
    """Largest logit; the lowest finite number where all are -inf."""
    total: Tensor
    """Σ exp(z - maximum)"""
    moment: Tensor | None
    """Σ exp(z - maximum) · (z - maximum); None unless the entropy is wanted."""


def bounded(product: Tensor, bound: Tensor | None) -> Tensor:
    """Logits in fp32 from the scaled product: with a softcap it is the argument of tanh, else the logit itself."""
    logits = product.to(accumulate_dtype(product.dtype))
    return logits if bound is None else torch.tanh(logits) * bound


def tile_stats(product: Tensor, bound: Tensor | None, entropy: bool) -> TileStats:
    """Statistics of the rows of the scaled product [C, S]; `bound` is softcap / temperature, 0-dimensional."""
    logits = bounded(product, bound)
    maximum = logits.amax(1).clamp_min(torch.finfo(logits.dtype).min)
    shifted = logits - maximum[:, None]
    if not entropy:
        return TileStats(maximum, shifted.exp_().sum(1), None)
    weights = shifted.exp()
    moment = shifted.clamp_min_(LOWEST_LOG_PROB).mul_(weights).sum(1)
    return TileStats(maximum, weights.sum(1), moment)


def merge_stats(one: TileStats, other: TileStats) -> TileStats:
    """Statistics of the union of two sets of logits."""
    maximum = torch.maximum(one.maximum, other.maximum)
    lower, upper = one.maximum - maximum, other.maximum - maximum
    scale, scale_other = lower.exp(), upper.exp()
    total = one.total * scale + other.total * scale_other
    if one.moment is None or other.moment is None:
        return TileStats(maximum, total, None)
    # A set whose logits are all -inf has total 0 and a shift of about -1e38: their product is 0, not NaN.
    moment = (one.moment + lower * one.total) * scale + (other.moment + upper * other.total) * scale_other
    return TileStats(maximum, total, moment)


class RowGradient(NamedTuple):
    """Per row [C], fp32: the gradient is 1[target] · direct - p · (spread + entropy · log p).

    Under a softcap it is multiplied by the slope of tanh. All three coefficients carry the factor 1 / temperature.
    """

    log_sum_exp: Tensor
    direct: Tensor
    spread: Tensor
    entropy: Tensor | None


def tile_gradient(
    product: Tensor,
    target: Tensor,
    row: RowGradient,
    bound: Tensor | None,
    out: Tensor,
    column_sums: bool,
) -> Tensor | None:
    """Writes d loss / d product [C, S] to `out`, which may be `product`; returns its column sums [S] fp32 if wanted.

    `target` [C] is the column of the target, if in [0, S).
    """
    logits = bounded(product, bound)
    log_prob = logits - row.log_sum_exp[:, None]
    spread = row.spread[:, None]
    if row.entropy is not None:
        spread = spread + row.entropy[:, None] * log_prob.clamp_min(LOWEST_LOG_PROB)
    gradient = log_prob.exp_().mul_(-spread)
    # Added before the cast: near p = 1 the two terms cancel, and bf16 would keep nothing of the difference.
    if torch.compiler.is_compiling():
        columns = torch.arange(product.shape[1], device=product.device)
        gradient = gradient + torch.where(columns[None, :] == target[:, None], row.direct[:, None], 0.0)
    else:
        inside = (target >= 0) & (target < product.shape[1])
        gradient.scatter_add_(1, target.where(inside, 0)[:, None], row.direct.where(inside, 0.0)[:, None])
    if bound is not None:
        gradient = gradient * (1 - (logits / bound).square())
    sums = gradient.sum(0) if column_sums else None
    out.copy_(gradient)
    return sums


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled for any tile size, or itself where compiling does not work."""
    if os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        return function
    candidate = torch.compile(function, dynamic=True)
    usable = True

    def call(*arguments: Any) -> Any:
        nonlocal usable
        if usable:
            try:
                return candidate(*arguments)
            except Exception:
                # No compiler, no headers, no writable cache …: the plain function is right everywhere.
                usable = False
        return function(*arguments)

    return call
