"""Whether samples that should be independent repeat each other more often than chance allows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

P_VALUE = 1e-6
"""Chance excess above which repeats are flagged: many evaluations are looked at."""
SHARE = 0.01
"""Smallest excess, as a share of all pairs, that is flagged: less does no harm to any figure."""


@dataclass(frozen=True)
class Repeats:
    """Identical completions among samples of the same question.

    Attributes:
        pairs: pairs of samples of a question.
        identical: pairs with the same tokens.
        expected: how many of them chance explains, from the completions' own probabilities.
        p_value: of the excess, one-sided; NaN where it cannot be told (one sample a question).
        flagged: the excess is beyond chance and large enough to matter: seeds are not distinct, or are ignored.
    """

    pairs: int
    identical: int
    expected: float
    p_value: float
    flagged: bool


def count_repeats(
    completions: Sequence[Sequence[tuple[int, ...]]],
    logprobs: Sequence[Sequence[float]],
    *,
    top_p: float = 1.0,
) -> Repeats:
    """Compares the identical pairs of every question with what independent sampling gives.

    Given one sample y, another is the same with probability p(y), so (K − 1)/2 · Σ_i p(y_i) is an unbiased
    estimate of a question's identical pairs, and observed minus expected has mean zero over questions. Its t test
    is the verdict. A nucleus threshold makes tokens likelier than their log-probs say, by 1/top_p a token at most.

    Args:
        completions: token ids of each sample of each question.
        logprobs: log-probability of each of them under the sampling distribution, before top-p.
        top_p: the nucleus threshold that was sampled with.
    """
    excess: list[float] = []
    pairs = identical = 0
    expected = 0.0
    for samples, values in zip(completions, logprobs, strict=True):
        count = len(samples)
        if count < 2:
            continue
        same = sum(n * (n - 1) // 2 for n in Counter(samples).values())
        widest = [
            min(0.0, value - math.log(top_p) * len(tokens))
            for value, tokens in zip(values, samples, strict=True)
        ]
        chance = (count - 1) / 2 * math.fsum(map(math.exp, widest))
        pairs += count * (count - 1) // 2
        identical += same
        expected += chance
        excess.append(same - chance)
    p_value = _p_value(np.array(excess), identical, expected)
    flagged = p_value < P_VALUE and identical - expected > SHARE * pairs
    return Repeats(pairs, identical, expected, p_value, bool(flagged))


def _p_value(excess: np.ndarray, identical: int, expected: float) -> float:
    if len(excess) == 0:
        return math.nan
    mean = float(excess.mean())
    if mean <= 0:
        return 1.0
    error = float(excess.std(ddof=1)) / math.sqrt(len(excess)) if len(excess) > 1 else 0.0
    if error < 1e-9 * mean:
        # No spread to judge by: one question alone, or all alike. Markov's bound needs none.
        return min(1.0, expected / identical)
    return float(stats.t.sf(mean / error, len(excess) - 1))
