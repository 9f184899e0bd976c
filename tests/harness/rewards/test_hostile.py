"""Answers meant to hang, kill, bloat or fool the checker."""

from __future__ import annotations

import time

import psutil
import pytest

from harness.rewards.answers import AnswerChecker
from tests.campaigns.answers import spent_seconds

HOSTILE = {
    "power tower": "9^{9^{9^{9^{9}}}}",
    "symbolic tower": "x^{x^{x^{x^{x^{x^x}}}}}",
    "huge factorial": "(10^{9})!",
    "factorial of factorial": "((99!)!)!",
    "huge exponent": "2^{10^{12}} - 2^{10^{12}} + 1",
    "huge binomial": "\\binom{10^{9}}{5 \\cdot 10^{8}}",
    "endless sum": "\\sum_{i=1}^{10^{9}} \\frac{1}{i^2+i+1}",
    "endless product": "\\prod_{i=1}^{10^{7}} i",
    "hard integral": "\\int_0^1 x^x \\sin(x^{x}) e^{e^x} dx",
    "expansion": "(a+b+c+d+e+f+g)^{200} - (a+b+c+d+e+f+g)^{199}",
    "nested roots": "\\sqrt{2+" * 60 + "2" + "}" * 60,
    "nested fractions": "\\frac{1}{1+" * 80 + "1" + "}" * 80,
    "nested braces": "{" * 400 + "1" + "}" * 400,
    "nested parentheses": "(" * 490 + "1" + ")" * 490,
    "open parentheses": "(" * 900,
    "open fraction": "\\frac" * 200,
    "unbalanced latex": "\\left( \\begin{matrix} 1 & 2 \\\\ \\right]",
    "megabyte of digits": "7" * 1_000_000,
    "megabyte of letters": "x" * 1_000_000,
    "control characters": "\x00\x01\x02\x1b[31m5\x7f",
    "newlines": "5\n\n\n5",
    "json breaker": '5"}\n{"ready": true}',
    "python": "__import__('os').system('touch hacked')",
    "python format": "{0.__class__.__mro__}",
    "look-alike digits": "５４",
    "arabic digits": "٥٤",
    "zero width": "5\u200b4",
    "right to left": "\u202e45",
    "nan": "\\text{nan}",
    "infinity": "\\infty",
    "not a number": "0/0",
    "division by zero": "\\frac{54}{0}",
    "big matrix": "\\begin{pmatrix}" + " & ".join(["x^2"] * 60) + "\\end{pmatrix}",
    "long chain": "=".join(["x"] * 200),
    "long list": ",".join(str(i) for i in range(250)),
    "trigonometric": "\\sin(\\cos(\\tan(\\sin(\\cos(\\tan(10^{50}))))))",
    "surrogate": "\ud800",
    "dollar signs": "$" * 500,
    "backslashes": "\\" * 500,
}


LIMIT_SECONDS = 0.75
"""A tenth of it is enough for every fair answer here, and what hangs takes all of it."""


@pytest.fixture(scope="module")
def checker():
    with AnswerChecker(timeout_seconds=LIMIT_SECONDS) as checker:
        assert checker.check("\\boxed{1+x}", "x+1").correct  # start-up is not part of an answer's time
        yield checker


@pytest.mark.parametrize("gold", ["54", "x^2+1"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_answer_is_wrong_and_costs_little_time(checker, kind, gold):
    wait_until_ready(checker)
    start = spent_seconds(checker)
    check = checker.check(f"</think>\n\\boxed{{{HOSTILE[kind]}}}", gold)
    assert spent_seconds(checker) - start < 2 * LIMIT_SECONDS
    assert not check.correct
    assert check.reason


def wait_until_ready(checker: AnswerChecker) -> None:
    """The first worker imports before it answers: that time is not this answer's."""
    assert checker.check("\\boxed{y+2}", "2+y").correct
    checker.forget()


def test_the_next_answer_after_a_hang_does_not_wait_for_imports(checker):
    wait_until_ready(checker)
    process = checker.workers[0].process
    for number in range(3):
        assert checker.check(f"\\boxed{{{HOSTILE['power tower']}+{number}}}", "x+1").reason
        start = time.monotonic()
        assert checker.check(f"\\boxed{{x+{number}+1}}", f"{number}+1+x").correct
        assert time.monotonic() - start < 1.0
    assert checker.workers[0].process is process


def test_the_checker_still_works_afterwards(checker):
    assert checker.check("\\boxed{\\frac{2x}{2}+1}", "x+1").correct
    assert not checker.check("\\boxed{\\frac{2x}{2}+2}", "x+1").correct


def test_memory_is_bounded(checker):
    # 2^(2^33) takes a gibibyte in binary alone, and more in every step towards it.
    check = checker.check("\\boxed{2^{2^{33}} \\cdot 3}", "x+1")
    assert not check.correct
    wait_until_ready(checker)
    process = checker.workers[0].process
    assert process is not None
    (fork,) = psutil.Process(process.pid).children()
    assert fork.memory_info().rss < 1 << 30


def test_hostile_references_are_no_danger_either(checker):
    for kind in ("power tower", "huge factorial", "nested roots", "unbalanced latex", "surrogate"):
        wait_until_ready(checker)
        start = spent_seconds(checker)
        assert not checker.check("\\boxed{7}", HOSTILE[kind]).correct
        assert spent_seconds(checker) - start < 2 * LIMIT_SECONDS
