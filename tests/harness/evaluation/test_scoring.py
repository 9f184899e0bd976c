"""Voting classes: which answers of a question are the same."""

from __future__ import annotations

import pandas as pd
import pytest

from harness.evaluation.scoring import scored
from harness.rewards.answers import AnswerChecker


@pytest.fixture(scope="module")
def checker():
    with AnswerChecker(timeout_seconds=20) as checker:
        yield checker


def classes(answers, gold, checker):
    rows = [
        {"question_index": 0, "question": "Which?", "text": f"\\boxed{{{answer}}}", "gold": gold}
        for answer in answers
    ]
    return scored(pd.DataFrame(rows), checker)["answer_class"].tolist()


def test_the_same_wrong_answer_in_other_words_is_one_class(checker):
    same = [
        ["5", "5.0", "10/2", "x = 5", "\\sqrt{25}"],
        ["x+y", "y+x"],
        ["1/3", "0.333333"],
        ["50\\%", "0.5"],
    ]
    same += [["1, 2", "\\{2, 1\\}"], ["Monday", "\\text{monday}"], ["\\sqrt{2}", "\\frac{2}{\\sqrt{2}}"]]
    found = classes([answer for group in same for answer in group], "7", checker)
    for group in same:
        first, *rest = (found.pop(0) for _ in group)
        assert rest == [first] * len(rest), group
        assert first not in found
    assert found == []


def test_expressions_of_different_value_are_told_apart_without_comparing_each_pair(checker, monkeypatch):
    answers = [f"\\frac{{{i + 1}\\sqrt{{{i % 7 + 2}}}}}{{{i % 5 + 3}}}+\\pi" for i in range(32)]
    answers += [f"{i}x^2+y" for i in range(3, 9)]
    compared = []
    ask = checker.ask
    monkeypatch.setattr(checker, "ask", lambda request: compared.append("gold" in request) or ask(request))
    assert len(set(classes(answers, "\\sqrt{99}", checker))) == len(answers)
    assert sum(compared) < 4 * len(answers)  # of 703 pairs
