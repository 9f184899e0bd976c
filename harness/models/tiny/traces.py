"""Worked sums with the faults of an imperfect teacher: what `tiny` imitates before reinforcement learning.

Each fault leaves something for a reward to improve: skipped working costs accuracy, slips cost accuracy, a
missing mark costs the format reward, and a missing box costs both.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from harness.models.tiny.sums import draw_sum, held_out, sum_terms


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Probabilities of each fault in a trace."""

    skipped_working: float = 0.3
    """The answer without any working."""
    slip: float = 0.1
    """A wrong result somewhere in the working, carried on to the answer."""
    no_end_of_thought: float = 0.08
    """The answer without `</think>` before it."""
    no_box: float = 0.08
    """The answer outside of `\\boxed{}`."""


@dataclass(frozen=True)
class Trace:
    """A question and the completion to imitate, both without role marks."""

    question: str
    completion: str


def draw_trace(
    rng: random.Random, *, terms: tuple[int, ...], digits: tuple[int, ...], faults: Faults
) -> Trace:
    """A trace of a sum from the train split."""
    while True:
        question = draw_sum(rng, rng.choice(terms), rng.choice(digits))
        if not held_out(question):
            return Trace(question, _completion(rng, sum_terms(question), faults))


def _completion(rng: random.Random, terms: tuple[int, ...], faults: Faults) -> str:
    working = rng.random() >= faults.skipped_working
    # Two terms are one step: there a fault would only blur the easiest questions, so faults need a second one.
    long = len(terms) > 2
    slips = long and working and rng.random() < faults.slip
    slip_at = rng.randrange(1, len(terms)) if slips else 0
    lines, total = [], terms[0]
    for step, term in enumerate(terms[1:], start=1):
        result = total + term + (rng.choice((-10, -1, 1, 10)) if step == slip_at else 0)
        lines.append(f"{total}+{term}={max(result, 0)}\n")
        total = max(result, 0)
    thought = "".join(lines) if working else "\n"
    end = "" if rng.random() < faults.no_end_of_thought else "</think>\n"
    answer = f"{total}" if long and rng.random() < faults.no_box else f"\\boxed{{{total}}}"
    return f"{thought}{end}{answer}"
