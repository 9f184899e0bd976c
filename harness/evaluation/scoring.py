"""From completions on file to figures: no model and no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.rewards.answers import AnswerChecker
from harness.stats.clustered import mean_of_questions, share_interval
from harness.stats.intervals import accuracy_interval
from harness.stats.majority import NO_ANSWER, majority_at_k
from harness.stats.passk import pass_at_k
from harness.stats.repeats import count_repeats
from harness.store.records import EvaluatedCompletions, EvaluationScores, RepeatFigures

POWERS = (1, 2, 4, 8, 16, 32, 64, 128)
"""The k of pass@k and maj@k that are told, as far as there are samples."""


def scored(samples: pd.DataFrame, checker: AnswerChecker) -> pd.DataFrame:
    """The samples with the columns that follow from `question`, `text` and `gold`: `answer`, `correct`, `parsable`,
    and `answer_class`, a number for each distinct answer of a question by the project's equality, −1 for none.

    Args:
        samples: a row per completion, ordered by `question_index`.
        checker: decides which answers are right, and which are the same.
    """
    checks = checker.check_many(list(zip(samples["text"], samples["gold"])), samples["question"].tolist())
    judged = samples.assign(
        answer=pd.Series([check.answer for check in checks], index=samples.index, dtype=object),
        correct=np.array([check.correct for check in checks], dtype=bool),
        parsable=np.array([check.parsable for check in checks], dtype=bool),
    )
    classes = np.full(len(judged), NO_ANSWER, dtype=np.int32)
    questions = judged["question_index"].to_numpy()
    for index in np.unique(questions):
        rows = np.flatnonzero(questions == index)
        classes[rows] = _classes([checks[row] for row in rows], checker)
    return judged.assign(answer_class=classes)


def _classes(checks: Sequence[Any], checker: AnswerChecker) -> list[int]:
    """Class of each answer of one question: right ones are one class, others are compared among themselves."""
    distinct = list(dict.fromkeys(c.answer for c in checks if c.parsable and not c.correct))
    values = dict(zip(distinct, checker.values(distinct), strict=True))
    pairs = [
        (first, other)
        for i, other in enumerate(distinct)
        for first in distinct[:i]
        if not _apart(values[first], values[other])
    ]
    same = dict(zip(pairs, checker.same_many(pairs), strict=True))
    number: dict[str, int] = {}
    for i, other in enumerate(distinct):
        number[other] = next((number[first] for first in distinct[:i] if same.get((first, other))), i + 1)
    return [0 if c.correct else number[c.answer] if c.parsable else NO_ANSWER for c in checks]


def _apart(first: complex | None, second: complex | None) -> bool:
    """Whether two values differ by more than any rounding that the project's equality forgives."""
    if first is None or second is None:
        return False
    return abs(first - second) > 1e-4 + 0.01 * max(abs(first), abs(second))


def figures(samples: pd.DataFrame, *, top_p: float) -> EvaluationScores:
    """Every figure of an evaluation's scored samples, as it stands in the record.

    `intervals` holds the 95 % bounds of each by its dotted name.

    Args:
        samples: K rows a question, ordered by question and sample.
        top_p: nucleus threshold of the sampling.
    """
    questions = int(samples["question_index"].nunique())
    count = len(samples) // questions
    shape = (questions, count)
    correct = samples["correct"].to_numpy(dtype=bool).reshape(shape)
    classes = samples["answer_class"].to_numpy().reshape(shape)
    powers = [k for k in POWERS if k <= count]
    counts = correct.sum(axis=1)
    passes = {k: np.asarray(pass_at_k(count, counts, k)) for k in powers}
    # The record also tells the vote of all samples, where K is no power of two.
    majorities = {k: majority_at_k(classes, correct, k) for k in dict.fromkeys([*powers, count])}
    shares = {
        "truncated_share": samples["truncated"].to_numpy(dtype=bool).reshape(shape).sum(axis=1),
        "unparsable_share": (~samples["parsable"].to_numpy(dtype=bool)).reshape(shape).sum(axis=1),
    }
    lengths = samples["tokens"].to_numpy(dtype=np.float64).reshape(shape).mean(axis=1)
    tries = np.full(questions, count)
    intervals = {
        "accuracy": accuracy_interval(tries, counts),
        **{f"pass_at_k.{k}": share_interval(values, count // k) for k, values in passes.items()},
        **{f"majority_at_k.{k}": share_interval(values, count // k) for k, values in majorities.items()},
        **{f"completion.{name}": accuracy_interval(tries, values) for name, values in shares.items()},
        "completion.mean_tokens": mean_of_questions(lengths),
    }
    return EvaluationScores(
        questions=questions,
        samples=count,
        correct=int(correct.sum()),
        accuracy=float(samples["correct"].mean()),
        # Summed question by question, as in every record on file: a mean of the array differs in the last digit.
        pass_at_k={str(k): sum(values.tolist()) / questions for k, values in passes.items()},
        majority_at_k={str(k): float(majorities[k].mean()) for k in powers},
        majority_accuracy=float(majorities[count].mean()),
        completion=EvaluatedCompletions(
            mean_tokens=float(samples["tokens"].mean()),
            truncated_share=float(samples["truncated"].mean()),
            unparsable_share=float(1 - samples["parsable"].mean()),
        ),
        repeats=_repeats(samples, top_p),
        intervals={name: (value.low, value.high) for name, value in intervals.items()},
    )


def _repeats(samples: pd.DataFrame, top_p: float) -> RepeatFigures | None:
    """The account of identical samples; None where tokens were not kept."""
    if "token_ids" not in samples.columns or "logprob" not in samples.columns:
        return None
    groups = [group for _, group in samples.groupby("question_index", sort=True)]
    tokens = [[tuple(int(t) for t in ids) for ids in group["token_ids"]] for group in groups]
    values = [[float(v) for v in group["logprob"]] for group in groups]
    found = count_repeats(tokens, values, top_p=top_p)
    return RepeatFigures(
        pairs=found.pairs,
        identical_pairs=found.identical,
        expected_pairs=found.expected,
        p_value=found.p_value,
        flagged=found.flagged,
    )
