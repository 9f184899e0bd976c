"""How Open-RS gave credit for an answer (arXiv 2503.16219, its `accuracy_reward`), kept to reproduce the study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.rewards.boxed import final_answer
from harness.rewards.types import RewardContext, RewardInput


@dataclass(frozen=True)
class Credit:
    """The published credit of a completion.

    Attributes:
        correct: the comparison's outcome.
        value: a reward that is fixed whatever the answer; None where `correct` decides.
    """

    correct: bool
    value: float | None = None


def published_credit(batch: Sequence[RewardInput], context: RewardContext) -> list[Credit]:
    """Credit with answer and reference in each other's place, and 1 for a reference that cannot be parsed.

    Without a checker in the context the given checks stand for the comparison.
    """
    unparsable = [check.reason == "unparsable reference" for check in context.checks]
    if context.checker is None:
        swapped = [check.correct for check in context.checks]
    else:
        # What cannot be boxed cannot be asked for, nor be right.
        answers = [final_answer(item.text) for item in batch]
        asked = [
            (f"\\boxed{{{item.answer}}}", answer or "") for item, answer in zip(batch, answers, strict=True)
        ]
        found = context.checker.check_many(asked)
        swapped = [bool(answer) and check.correct for answer, check in zip(answers, found, strict=True)]
    return [
        Credit(correct, 1.0 if skipped else None)
        for correct, skipped in zip(swapped, unparsable, strict=True)
    ]
