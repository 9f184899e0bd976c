"""Token sampling whose draws depend on the request's seed and the position alone.

One uniform number per request and position, from a counter-based generator, put through the inverse of the
cumulative distribution: the same request gives the same sample in any batch and after any restart, and runs
that share seeds share their random numbers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def uniforms(seeds: np.ndarray, position: int) -> np.ndarray:
    """One number in [0, 1) per seed for a token position.

    Args:
        seeds: uint64 [B].
        position: 0-based position in the completion.

    Returns:
        float64 [B]. The finaliser is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), applied twice.
    """
    with np.errstate(over="ignore"):
        x = _mix(seeds + np.uint64(0x9E3779B97F4A7C15) * np.uint64(position + 1))
        x = _mix(x ^ seeds)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def sample(
    logits: Tensor, seeds: np.ndarray, position: int, *, temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    """Samples a token per row.

    Args:
        logits: [B, V], any floating dtype.
        seeds: uint64 [B].
        position: 0-based position in the completion.
        temperature: 0 takes the most likely token.
        top_p: the smallest set of most likely tokens whose mass reaches this is sampled from.

    Returns:
        tokens int64 [B], and their log-probs fp32 [B] under the tempered distribution before top-p.
    """
    logprobs = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
    if temperature == 0:
        tokens = logprobs.argmax(-1)
    else:
        draws = torch.from_numpy(uniforms(seeds, position)).to(logits.device)
        tokens = _inverse_cdf(logprobs, draws, top_p)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def _inverse_cdf(logprobs: Tensor, draws: Tensor, top_p: float) -> Tensor:
    # fp64: in fp32 the running sum over a large vocabulary loses the tail.
    probabilities = logprobs.double().exp()
    if top_p < 1:
        ordered, order = torch.sort(probabilities, dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        ordered = ordered.masked_fill(before >= top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    cumulative = probabilities.cumsum(-1)
    # Strictly above the draw, so that a token of zero probability is never taken.
    tokens = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return tokens.clamp_(max=logprobs.shape[-1] - 1)
