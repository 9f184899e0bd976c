"""Answers that copy the question, which computer algebra calls right."""

from __future__ import annotations

import pytest

from harness.rewards.answers import AnswerChecker
from harness.rewards.unevaluated import is_unevaluated

SUM = "State the final answer to the following arithmetic problem: {} ="
COPIES = [
    (SUM.format("7 - 8"), "-1", ["7 - 8", "7-8", "(7 - 8)", "7 - 8 + 0", "-8 + 7", "7 - 8 ="]),
    (SUM.format("1 - 2"), "-1", ["1 - 2", "1-2", "-2 + 1"]),
    (SUM.format("0 + 2"), "2", ["0 + 2"]),
    (SUM.format("4 - 4"), "0", ["4 - 4"]),
    (SUM.format("6 + 4"), "10", ["9 + 1", "20 / 2", "\\frac{20}{2} + 0"]),
    ("What is 3 * 4?", "12", ["3 * 4", "3 \\cdot 4", "3 \\times 4", "4 \\cdot 3", "3 \\cdot 2 \\cdot 2"]),
    ("What is 6 / 3?", "2", ["6/3", "6 / 3", "\\frac{6}{3}"]),
    ("Simplify $\\frac{92}{524}$.", "\\frac{23}{131}", ["\\frac{92}{524}"]),
    ("Expand $(x+1)(x+2)$.", "x^2+3x+2", ["(x+1)(x+2)", "(x + 1)(x + 2)"]),
    ("Tom has 7 apples and gets 8 more. How many?", "15", ["7 + 8"]),
]
DONE = [
    (SUM.format("7 - 8"), "-1", ["-1", "-1.0", "7 - 8 = -1"]),
    ("What is 1 / 2 as a fraction?", "\\frac{1}{2}", ["1/2", "\\frac12", "0.5", "2/4"]),
    ("What is the side of a square of area 49?", "7", ["\\sqrt{49}"]),
    ("Which is larger, 2^3 or 3^2 + 1?", "3^2+1", ["3^2+1", "3^2 + 1"]),
    ("How many subsets has a set of 10?", "1024", ["1024", "2^{10}", "1{,}024"]),
    ("What is the speed of light in m/s, to one digit?", "300000000", ["3 \\times 10^8", "3 \\cdot 10^{8}"]),
    ("How small is it?", "0.0045", ["4.5e-3", "4.5E-3", "4.5 \\times 10^{-3}", "4.5*10^-3 \\text{ m}"]),
    ("How much energy?", "12", ["12 \\text{ kg}\\cdot\\text{m}^2/\\text{s}^2", "12\\ \\mathrm{N\\cdot m}"]),
    ("How far is it?", "5000", ["5{,}000 \\text{ m}", "5 \\text{ thousand}"]),
    ("How fast is light?", "3e8", ["3 \\times 10^8 \\text{ m/s}", "3.0 \\cdot 10^{8} m/s"]),
    ("How long is half of 3/3 of an hour?", "0.5", ["1/2 \\text{ hour}", "\\frac{1}{2} h"]),
    ("How many metres?", "1500", ["1.5 \\times 10^3 \\text{ m}"]),
    ("Solve $x^2 = 8$ for $x > 0$.", "2\\sqrt{2}", ["2\\sqrt{2}", "2 \\sqrt2"]),
    ("What is 5 + 7?", "12", ["12 + 0", "12"]),
]


@pytest.mark.parametrize(("question", "gold", "answers"), COPIES)
def test_what_leaves_the_question_undone(question, gold, answers):
    for answer in answers:
        assert is_unevaluated(question, gold, answer), answer


@pytest.mark.parametrize(("question", "gold", "answers"), DONE)
def test_what_does_not(question, gold, answers):
    for answer in answers:
        assert not is_unevaluated(question, gold, answer), answer


def test_the_checker_calls_a_copy_wrong_where_it_knows_the_question():
    question = SUM.format("7 - 8")
    with AnswerChecker() as checker:
        assert checker.check("\\boxed{7 - 8}", "-1").correct
        check = checker.check("\\boxed{7 - 8}", "-1", question)
        assert (check.correct, check.parsable, check.reason) == (False, True, "left undone")
        assert checker.check("\\boxed{-1}", "-1", question).correct
