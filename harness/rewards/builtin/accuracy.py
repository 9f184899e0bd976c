"""Rewards for a right answer."""

from __future__ import annotations

from collections.abc import Sequence

from harness.rewards.published import published_credit
from harness.rewards.registry import reward
from harness.rewards.types import RewardContext, RewardInput


@reward("accuracy")
def accuracy(batch: Sequence[RewardInput], context: RewardContext) -> list[float]:
    """1 for a right final answer, else 0."""
    return [float(check.correct) for check in context.checks]


@reward("accuracy_open_rs")
def accuracy_open_rs(batch: Sequence[RewardInput], context: RewardContext) -> list[float]:
    """Accuracy as Open-RS ran it (arXiv 2503.16219), kept to reproduce the study.

    It differs from `accuracy` in two ways, both defects: answer and reference change places in the comparison,
    which is not symmetric, and a reference that cannot be parsed earns 1 whatever the answer.
    """
    return [
        credit.value if credit.value is not None else float(credit.correct)
        for credit in published_credit(batch, context)
    ]
