"""Rewards that look at how long a completion is. Lengths are tokens, unless a name says characters."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from harness.rewards.published import published_credit
from harness.rewards.registry import Direction, reward
from harness.rewards.types import RewardContext, RewardInput


@reward("cosine", direction=Direction(right=-1, wrong=1))
def cosine(
    batch: Sequence[RewardInput],
    context: RewardContext,
    *,
    min_value_correct: float = 0.5,
    max_value_correct: float = 1.0,
    min_value_wrong: float = -1.0,
    max_value_wrong: float = -0.5,
    truncated_value: float | None = None,
    max_tokens: int | None = None,
) -> list[float]:
    """Accuracy that prefers short right answers and long wrong ones (arXiv 2502.03373, section 4.1).

    With L tokens clamped to [0, L_max], a right answer earns lo + ½(hi − lo)(1 + cos(πL/L_max)) with
    (lo, hi) = (min_value_correct, max_value_correct), falling in L; a wrong one the same with
    (max_value_wrong, min_value_wrong), rising in L. A completion that the cap cut off earns no credit for its
    length: without a right answer it gets `truncated_value`.

    Args:
        batch: the completions.
        context: their answer checks.
        min_value_correct: right answer of L_max tokens.
        max_value_correct: right answer of no tokens.
        min_value_wrong: wrong answer of no tokens.
        max_value_wrong: wrong answer of L_max tokens.
        truncated_value: truncated completion without a right answer; `min_value_wrong` if None.
        max_tokens: L_max; the run's cap if None.

    Raises:
        ValueError: a minimum exceeds its maximum, or `max_tokens` is < 1.
    """
    _ordered("correct", min_value_correct, max_value_correct)
    _ordered("wrong", min_value_wrong, max_value_wrong)
    _positive("max_tokens", max_tokens)
    cut = min_value_wrong if truncated_value is None else truncated_value
    rewards = []
    for item, check in zip(batch, context.checks, strict=True):
        limit = max_tokens if max_tokens is not None else item.cap
        progress = min(item.tokens, limit) / limit
        if check.correct:
            rewards.append(_cosine(min_value_correct, max_value_correct, progress))
        elif item.truncated:
            rewards.append(cut)
        else:
            rewards.append(_cosine(max_value_wrong, min_value_wrong, progress))
    return rewards


# It is said to do so and does not: `harness.lint` tells.
@reward("cosine_characters", direction=Direction(right=-1, wrong=1))
def cosine_characters(
    batch: Sequence[RewardInput],
    context: RewardContext,
    *,
    min_value_correct: float = 0.5,
    max_value_correct: float = 1.0,
    min_value_wrong: float = 0.0,
    max_value_wrong: float = -0.5,
    max_characters: int = 3584,
) -> list[float]:
    """The cosine reward as Open-RS ran it (arXiv 2503.16219, experiment 3), kept to reproduce the study.

    It differs from `cosine` by defects: length is counted in characters without a clamp against a cap meant in
    tokens, so the reward rises and falls several times over the range of lengths; the default range of wrong
    answers is inverted, so that short wrong answers lose less than long ones; and answers are credited as
    `accuracy_open_rs` does.

    Args:
        batch: the completions.
        context: their answer checks.
        min_value_correct: right answer of `max_characters` characters, or of 3, 5, … times as many.
        max_value_correct: right answer of no characters, or of 2, 4, … times `max_characters`.
        min_value_wrong: wrong answer of no characters.
        max_value_wrong: wrong answer of `max_characters` characters.
        max_characters: half of the period.

    Raises:
        ValueError: `max_characters` is < 1.
    """
    _positive("max_characters", max_characters)
    rewards = []
    for item, credit in zip(batch, published_credit(batch, context), strict=True):
        if credit.value is not None:
            rewards.append(credit.value)
            continue
        progress = len(item.text) / max_characters
        low, high = (
            (min_value_correct, max_value_correct) if credit.correct else (max_value_wrong, min_value_wrong)
        )
        rewards.append(_cosine(low, high, progress))
    return rewards


@reward("length", direction=Direction(right=-1, wrong=-1))
def length(batch: Sequence[RewardInput], context: RewardContext) -> list[float]:
    """Group-relative length reward in [−0.5, 0.5] (Kimi k1.5, arXiv 2501.12599, section 2.3.3).

    λ = 0.5 − (L − L_min)/(L_max − L_min) over the completions of a group; a right answer earns λ, a wrong one
    min(0, λ). Zero where all completions of a group have the same length.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for item in batch:
        groups[item.group].append(item.tokens)
    rewards = []
    for item, check in zip(batch, context.checks, strict=True):
        shortest, longest = min(groups[item.group]), max(groups[item.group])
        if shortest == longest:
            rewards.append(0.0)
            continue
        value = 0.5 - (item.tokens - shortest) / (longest - shortest)
        rewards.append(value if check.correct else min(0.0, value))
    return rewards


@reward("soft_overlong", direction=Direction(right=-1, wrong=-1))
def soft_overlong(
    batch: Sequence[RewardInput],
    context: RewardContext,
    *,
    buffer_tokens: int | None = None,
    max_tokens: int | None = None,
) -> list[float]:
    """Soft overlong punishment in [−1, 0] (DAPO, arXiv 2503.14476, equation 13).

    0 up to L_max − C tokens, (L_max − C − L)/C in the buffer of C tokens, −1 beyond L_max.

    Args:
        batch: the completions.
        context: unused.
        buffer_tokens: C, at most L_max; a fifth of L_max, rounded up, if None.
        max_tokens: L_max; the run's cap if None.

    Raises:
        ValueError: `buffer_tokens` or `max_tokens` is < 1.
    """
    _positive("max_tokens", max_tokens)
    _positive("buffer_tokens", buffer_tokens)
    rewards = []
    for item in batch:
        limit = max_tokens if max_tokens is not None else item.cap
        buffer = min(buffer_tokens, limit) if buffer_tokens is not None else -(-limit // 5)
        rewards.append(min(0.0, max(-1.0, (limit - buffer - item.tokens) / buffer)))
    return rewards


def _cosine(low: float, high: float, progress: float) -> float:
    return low + 0.5 * (high - low) * (1.0 + math.cos(math.pi * progress))


def _ordered(kind: str, low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"`min_value_{kind}` must be <= `max_value_{kind}`, got {low} > {high}")


def _positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"`{name}` must be >= 1, got {value}")
