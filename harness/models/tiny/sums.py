"""Sums as questions, and the split that keeps held-out questions out of every training set.

`tiny`'s warm start and the `sums` source of the training and test sets share these definitions, so that a
question of a benchmark was seen neither before nor during reinforcement learning.
"""

from __future__ import annotations

import hashlib
import random

HELD_OUT_SHARE = 8
"""One question in this many belongs to the test split."""


def held_out(question: str) -> bool:
    """Whether a generated question belongs to the test split: a property of its text alone."""
    return hashlib.sha256(question.encode()).digest()[-1] % HELD_OUT_SHARE == 0


def sum_question(terms: tuple[int, ...]) -> str:
    """`(12, 7, 35)` as `12+7+35=`."""
    return "+".join(map(str, terms)) + "="


def sum_terms(question: str) -> tuple[int, ...]:
    """`12+7+35=` as `(12, 7, 35)`."""
    return tuple(int(term) for term in question.removesuffix("=").split("+"))


def draw_sum(rng: random.Random, terms: int, digits: int) -> str:
    """A sum of `terms` numbers, the longest of which has exactly `digits` digits."""
    while True:
        numbers = tuple(rng.randrange(10**digits) for _ in range(terms))
        if len(str(max(numbers))) == digits:
            return sum_question(numbers)
