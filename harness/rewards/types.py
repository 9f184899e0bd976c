"""What reward functions take and return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class RewardInput:
    """One completion, as reward functions get it.

    Attributes:
        text: the completion without special tokens; what the prompt opened of it is not part of it.
        answer: reference answer.
        tokens: length in tokens, the end-of-sequence token included.
        cap: the run's length cap, in tokens.
        truncated: whether the cap ended it.
        question: the question.
        group: number of its group: completions of one prompt share it.
        columns: the other columns of the question's row, as far as JSON can hold them, by name. Each source of a
            mix has its own columns; a source that has none leaves this empty.
        opened: what the prompt opened of the completion: `<think>` and the white space after it, in which the chat
            templates of some reasoning models end. `opened + text` is what stands in the assistant's turn.
    """

    text: str
    answer: str
    tokens: int
    cap: int
    truncated: bool
    question: str = ""
    group: int = 0
    columns: Mapping[str, Any] = field(default_factory=dict)
    opened: str = ""


@dataclass(frozen=True)
class Check:
    """Whether a completion holds the right answer.

    Attributes:
        correct: the final answer equals the reference.
        answer: the final answer as written; None where no box is closed.
        parsable: the final answer could be read.
        reason: empty where correct, else why not: `wrong`; `no box`; `unparsable answer`; `unparsable reference`;
            `too long`; `timed out`; `crashed the checker`; `left undone`, of an answer that has the reference's value
            but leaves to be worked out what its question asks for.
    """

    correct: bool
    answer: str | None
    parsable: bool
    reason: str = ""


@dataclass(frozen=True)
class RewardContext:
    """What all reward functions of a composite share for one batch.

    Attributes:
        checks: answer check of each completion, in the batch's order.
        checker: for functions that compare answers of their own; None where there is none.
    """

    checks: Sequence[Check]
    checker: Checker | None = None


class Checker(Protocol):
    """What compares answers: `harness.rewards.answers.AnswerChecker`."""

    def check_many(self, pairs: Sequence[tuple[str, str]]) -> list[Check]: ...


class RewardFunction(Protocol):
    """Scores a batch; keyword parameters come from the recipe's `params`."""

    def __call__(
        self, batch: Sequence[RewardInput], context: RewardContext, /, **params: object
    ) -> list[float]: ...
