"""The answer checker against golds, their equivalent forms, and perturbed answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from harness.data.champ import load_champ
from harness.rewards.answers import AnswerChecker
from harness.rewards.exact import as_number, as_words, normalised
from harness.rewards.plain_math import latex_of


@pytest.fixture(scope="module")
def checker():
    with AnswerChecker(timeout_seconds=20) as checker:
        yield checker


def boxed(answer: str) -> str:
    return f"so it is\n</think>\n\\boxed{{{answer}}}"


def number_forms(value: int) -> list[str]:
    """Ways to write an integer, the last two for the algebra system."""
    sign, size = ("-", -value) if value < 0 else ("", value)
    return [
        f"{value}.0",
        f"${value}$",
        f"\\text{{{value}}}",
        f"{sign}\\frac{{{3 * size}}}{{3}}",
        f" {sign}{size:,} ".replace(",", "{,}"),
        f"{value - 7} + 7",
        f"\\frac{{{2 * value}}}{{2}} + 0",
    ]


def expression_forms(latex: str) -> list[str]:
    """Ways to write an expression."""
    return [
        latex,
        f"\\({latex}\\)",
        f"\\left({latex}\\right)",
        f"0 + \\left({latex}\\right)",
        f"\\frac{{2 \\cdot \\left({latex}\\right)}}{{2}}",
        f"1 \\cdot \\left({latex}\\right)",
    ]


def word_forms(text: str) -> list[str]:
    """Ways to write an answer in words."""
    return [
        text,
        f"\\text{{{text}}}",
        f"\\textbf{{{text}}}",
        f"{text}.",
        text.upper(),
        f"\\mathrm{{{text}}}",
    ]


def forms(gold: str) -> tuple[list[str], list[str]]:
    """Equivalent and perturbed forms of a reference answer."""
    if as_words(gold) is not None:
        return word_forms(gold), [f"not {gold}", "17", "perhaps"]
    value = as_number(normalised(gold))
    if value is not None and value.denominator == 1:
        whole = int(value)
        return number_forms(whole), [str(whole + 1), str(-whole - 1), f"{whole}.5", f"{whole} + 10^{{-2}}"]
    latex = latex_of(gold)
    return expression_forms(latex), [
        f"\\left({latex}\\right) + 1",
        f"3 \\cdot \\left({latex}\\right) + 2",
        f"-\\left({latex}\\right) - 5",
    ]


# Lists, equations, intervals, ± and dots: no value that arithmetic can be done on.
STATEMENTS = ("=", ",", "±", "...", "[")


def champ_golds() -> list[str]:
    golds = sorted({problem.answer for problem in load_champ()})
    return [gold for gold in golds if as_words(gold) or not any(mark in gold for mark in STATEMENTS)]


def assert_judged(checker: AnswerChecker, golds: list[str]) -> None:
    for gold in golds:
        right, wrong = forms(gold)
        assert len(right) >= 5
        checks = checker.check_many([(boxed(form), gold) for form in right])
        assert [form for form, check in zip(right, checks, strict=True) if not check.correct] == [], gold
        checks = checker.check_many([(boxed(form), gold) for form in wrong])
        assert [form for form, check in zip(wrong, checks, strict=True) if check.correct] == [], gold


def test_some_champ_answers_in_five_forms_and_perturbed(checker):
    assert_judged(checker, champ_golds()[::12])


@pytest.mark.slow
def test_every_champ_answer_in_five_forms_and_perturbed(checker):
    golds = champ_golds()
    assert len(golds) > 120
    assert_judged(checker, golds)


def test_generated_integers_in_five_forms_and_perturbed(checker):
    for gold in (0, 1, -1, 7, -12, 54, 297, 1234, -99999):
        assert_judged(checker, [str(gold)])


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        ("1, 3", ["3, 1", "1,3", "\\{1, 3\\}", "1 \\text{ and } 3", "3,\\,1"], ["1", "1, 4", "1, 3, 5"]),
        ("a=3, b=-4", ["a=3,b=-4", "b=-4, a=3", "a = 3, \\quad b = -4"], ["a=3, b=4", "a=-4, b=3", "a=3"]),
        ("[-1, 1]", ["[-1,1]", "\\left[-1, 1\\right]", "$[-1,1]$"], ["(-1, 1)", "[-1, 2]", "[-1, 1)"]),
        ("1/3", ["\\frac13", "0.333333", "\\frac{2}{6}", "3^{-1}"], ["0.33", "3", "\\frac{1}{30}"]),
        ("2^{10}", ["1024", "4^5", "2^5 \\cdot 32"], ["2^{11}", "20", "210"]),
        ("C(n, 2)", ["\\binom{n}{2}", "\\frac{n(n-1)}{2}", "\\frac{n^2-n}{2}"], ["\\frac{n(n+1)}{2}", "n^2"]),
    ],
)
def test_expressions(checker, gold, right, wrong):
    assert all(check.correct for check in checker.check_many([(boxed(a), gold) for a in right]))
    assert not any(check.correct for check in checker.check_many([(boxed(a), gold) for a in wrong]))


def test_reasons(checker):
    assert checker.check("\\boxed{54}", "54").reason == ""
    assert checker.check("54", "54").reason == "no box"
    assert checker.check(boxed("55"), "54").reason == "wrong"
    assert checker.check(boxed("1" * 5000), "54").reason == "too long"
    assert checker.check(boxed("\\frac{"), "54").reason == "no box"
    assert checker.check(boxed("^^("), "54").reason == "unparsable answer"
    assert checker.check(boxed(""), "54").reason == "unparsable answer"


@pytest.mark.parametrize("gold", ["", "  ", "((", "^^^_", "x" * 5000])
def test_an_unreadable_reference_is_never_right(checker, gold):
    for answer in ("1", "x", "", "^", "()"):
        check = checker.check(boxed(answer), gold)
        assert not check.correct
        if answer:
            assert check.reason in ("unparsable reference", "unparsable answer")


def test_plain_answers_start_no_process_and_are_fast():
    with AnswerChecker() as checker:
        pairs = [(boxed(str(i)), str(i + i % 2)) for i in range(4000)]
        start = time.process_time()
        checks = checker.check_many(pairs)
        assert time.process_time() - start < 2.0  # measured: 0.3 s
        assert sum(check.correct for check in checks) == 2000
        assert all(worker._process is None for worker in checker._workers)


def test_a_worker_killed_from_outside_is_replaced():
    with AnswerChecker(timeout_seconds=20) as checker:
        assert checker.check(boxed("1+x"), "x+1").correct
        process = checker._workers[0]._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert checker.check(boxed("y+1"), "1+y").correct
        assert not checker.check(boxed("y+2"), "1+y").correct


def test_workers_end_with_their_checker():
    with AnswerChecker(timeout_seconds=20, workers=2) as checker:
        checks = checker.check_many([(boxed(f"{i}+x"), f"x+{i}") for i in range(6)])
        assert all(check.correct for check in checks)
        processes = [worker._process for worker in checker._workers]
    assert all(process is None or process.poll() is not None for process in processes)


def test_no_torch_is_imported():
    code = (
        "import sys, harness.rewards.composite, harness.rewards.worker\n"
        "assert not {'torch', 'triton', 'transformers', 'sympy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["timeout_seconds", "workers", "memory_mib"])
def test_settings_must_be_positive(name):
    with pytest.raises(ValueError, match=rf"`{name}` must be > 0, got 0"):
        AnswerChecker(**{name: 0})
