"""The work on one tile of logits [C, S] after its matrix product: softmax statistics forward, d logits backward.

Plain torch functions. For large problems on a CPU they go through `torch.compile`, which fuses each into one pass
over memory, if the machine has a working C++ compiler.

N tokens, C tokens of a tile, S vocabulary rows of a tile.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.token_logprob.dtypes import accumulate_dtype
from kernels.token_logprob.types import LOWEST_LOG_PROB


class TileStats(NamedTuple):
    """Softmax statistics of each row [C], fp32 (fp64 for fp64); those of two tiles merge in any order."""

    maximum: Tensor
    """Largest logit; the lowest finite number where all are -inf."""
    sum_exp: Tensor
    """Σ exp(z - maximum)"""
    moment: Tensor | None
    """Σ exp(z - maximum) · (z - maximum); None unless the entropy is asked for."""


def logits_of(product: Tensor, cap: Tensor | None) -> Tensor:
    """Logits in fp32 (fp64 for fp64) from alpha · (hidden · weightᵀ + bias): cap · tanh of it, or itself without one.

    `cap` is softcap / temperature, 0-dimensional; see `Head.alpha`.
    """
    logits = product.to(accumulate_dtype(product.dtype))
    return logits if cap is None else torch.tanh(logits) * cap


def tile_stats(product: Tensor, cap: Tensor | None, entropy: bool) -> TileStats:
    """Statistics of the rows of the product [C, S]; `product` and `cap` as in `logits_of`."""
    logits = logits_of(product, cap)
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
    sum_exp = one.sum_exp * scale + other.sum_exp * scale_other
    if one.moment is None or other.moment is None:
        return TileStats(maximum, sum_exp, None)
    # A set whose logits are all -inf has sum_exp 0 and a shift of about -1e38: their product is 0, not NaN.
    moment = (one.moment + lower * one.sum_exp) * scale + (other.moment + upper * other.sum_exp) * scale_other
    return TileStats(maximum, sum_exp, moment)


class RowGradient(NamedTuple):
    """Coefficients of d loss / d product, per row [C] fp32 (fp64 for fp64).

    The gradient is 1[target] · target_coef - p · (softmax_coef + entropy_coef · log p), under a softcap times the
    derivative of tanh. All three coefficients include the factor 1 / temperature.
    """

    log_sum_exp: Tensor
    target_coef: Tensor
    softmax_coef: Tensor
    entropy_coef: Tensor | None
    """None where the entropy has no gradient."""


def tile_gradient(
    product: Tensor,
    target: Tensor,
    row: RowGradient,
    cap: Tensor | None,
    out: Tensor,
    column_sums: bool,
) -> Tensor | None:
    """Writes d loss / d product [C, S] to `out`, which may be `product`; `column_sums` returns its sums [S] fp32.

    `target` [C] is the column of the target, if in [0, S); `product` and `cap` as in `logits_of`.
    """
    logits = logits_of(product, cap)
    log_prob = logits - row.log_sum_exp[:, None]
    softmax_coef = row.softmax_coef[:, None]
    if row.entropy_coef is not None:
        softmax_coef = softmax_coef + row.entropy_coef[:, None] * log_prob.clamp_min(LOWEST_LOG_PROB)
    gradient = log_prob.exp_().mul_(-softmax_coef)
    # Added before the cast: near p = 1 the two terms cancel, and bf16 would keep nothing of the difference.
    if torch.compiler.is_compiling():
        columns = torch.arange(product.shape[1], device=product.device)
        gradient = gradient + torch.where(columns[None, :] == target[:, None], row.target_coef[:, None], 0.0)
    else:
        inside = (target >= 0) & (target < product.shape[1])
        coefficient = row.target_coef.where(inside, 0.0)
        gradient.scatter_add_(1, target.where(inside, 0)[:, None], coefficient[:, None])
    if cap is not None:
        gradient = gradient * (1 - (logits / cap).square())
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
                # No compiler, no headers, no writable cache …: the plain function gives the same result, slower.
                usable = False
        return function(*arguments)

    return call
