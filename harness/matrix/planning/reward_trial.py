"""A recipe's own rewards on sample questions, before anything is spent: each in a process with limits of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from harness.data.mix import shares_of
from harness.data.problem import Problem
from harness.data.sources import SourceNotFound, load_source
from harness.rewards.builtin import REWARDS
from harness.rewards.composite import has_own_functions, validate_rewards
from harness.rewards.own import OwnRewards
from harness.rewards.types import Check, RewardContext, RewardInput
from harness.spec.data import DataSpec
from harness.spec.errors import SpecError
from harness.spec.recipe import Recipe

QUESTIONS = 200
"""Questions of each source that own rewards are tried on, spread over all it has."""

SECONDS = 5.0
"""Seconds after which a trial that has found nothing is over, the first questions apart."""

_AT_ONCE = 4
"""Questions in a batch."""


def try_rewards(recipe: Recipe, own: OwnRewards) -> None:
    """Calls the recipe's own rewards on sample completions to its training questions.

    Raises:
        UnknownReward: one is not there, or does not take its parameters.
        RewardFailed: one fails, ends its process, takes more than its limits, or gives no numbers.
    """
    if not has_own_functions(recipe.reward):
        return
    validate_rewards(recipe.reward, own.resolve)
    problems = sample_problems(recipe.data)
    cap = recipe.rollout.max_completion_tokens
    for function in recipe.reward.functions:
        if function.name in REWARDS:
            continue
        call, end = own.resolve(function), None
        for start in range(0, len(problems), _AT_ONCE):
            batch, checks = sample_batch(problems[start : start + _AT_ONCE], cap)
            call(batch, RewardContext(checks=checks))
            end = end or time.monotonic() + SECONDS
            if time.monotonic() > end:
                break


def sample_problems(data: DataSpec) -> list[Problem]:
    """Questions of every source, evenly spread; none of a source that cannot be read here."""
    found: list[Problem] = []
    for source, share in zip(data.sources, shares_of(data), strict=True):
        try:
            problems = load_source(source, split="train", count=max(1, share), seed=data.seed, extra=True)
        except (SourceNotFound, SpecError):  # told elsewhere, or taken for granted by a plan without a hub
            continue
        step = max(1, len(problems) // QUESTIONS)
        found += problems[::step][:QUESTIONS]
    # Of several sources by turns, so that a trial that is cut short has seen them all.
    return sorted(found, key=lambda problem: problem.row)


def sample_batch(problems: Sequence[Problem], cap: int) -> tuple[list[RewardInput], list[Check]]:
    """A group of completions to each question: right, wrong, empty, cut off without an answer."""
    batch, checks = [], []
    for group, problem in enumerate(problems):
        for text, tokens, check in _completions(problem, cap):
            batch.append(
                RewardInput(
                    text=text,
                    answer=problem.answer,
                    tokens=tokens,
                    cap=cap,
                    truncated=tokens == cap,
                    question=problem.question,
                    group=group,
                    columns=problem.columns,
                )
            )
            checks.append(check)
    return batch, checks


def _completions(problem: Problem, cap: int) -> Iterator[tuple[str, int, Check]]:
    thought = "<think>\nLet us see.\n</think>\n"
    right = f"{thought}<answer>\n\\boxed{{{problem.answer}}}\n</answer>"
    yield right, min(24, cap), Check(True, problem.answer, True)
    yield f"{thought}It is \\boxed{{-987654321}}.", min(20, cap), Check(False, "-987654321", True, "wrong")
    yield "", 1, Check(False, None, False, "no box")
    yield "<think>\nLet us see: π ≈ 3.14, so " * 3, cap, Check(False, None, False, "no box")
