"""Pairs of reference and answer by kind: `answers.csv` after public reports, `siblings.csv` their relatives.

The policy behind the verdicts stands in docs/answers.md.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import pytest

from harness.rewards.answers import AnswerChecker

ASSETS = Path(__file__).parent / "assets"


def pairs(name: str) -> dict[str, list[tuple[str, str, bool]]]:
    """Reference, answer and whether it is right, by kind."""
    kinds = defaultdict(list)
    with (ASSETS / name).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            kinds[row["kind"]].append((row["reference"], row["boxed_answer"], row["wanted"] == "right"))
    return dict(kinds)


FILES = ("answers.csv", "siblings.csv")
CASES = [(name, kind) for name in FILES for kind in pairs(name)]


@pytest.fixture(scope="module")
def checker():
    with AnswerChecker(timeout_seconds=20) as checker:
        yield checker


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_answer_is_judged_as_wanted(checker, name, kind):
    rows = pairs(name)[kind]
    checks = checker.check_many([(f"</think>\n\\boxed{{{answer}}}", gold) for gold, answer, _ in rows])
    misjudged = [row for row, check in zip(rows, checks, strict=True) if check.correct is not row[2]]
    assert misjudged == []


def test_every_kind_has_answers_of_both_verdicts():
    for kind, rows in pairs("siblings.csv").items():
        assert {right for *_, right in rows} == {True, False}, kind
