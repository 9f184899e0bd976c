"""The answer checker against golds, their equivalent forms, and perturbed answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from harness.rewards.answers import AnswerChecker
from tests.campaigns.answer_forms import number_forms, number_perturbed


@pytest.fixture(scope="module")
def checker():
    with AnswerChecker(timeout_seconds=20) as checker:
        yield checker


def boxed(answer: str) -> str:
    return f"so it is\n</think>\n\\boxed{{{answer}}}"


def test_generated_integers_in_five_forms_and_perturbed(checker):
    for gold in (0, 1, -1, 7, -12, 54, 297, 1234, -99999):
        forms, perturbed = number_forms(gold), number_perturbed(gold)
        assert all(
            check.correct for check in checker.check_many([(boxed(form), str(gold)) for form in forms])
        )
        assert not any(
            check.correct for check in checker.check_many([(boxed(p), str(gold)) for p in perturbed])
        )


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        ("5", ["x=5", "3+2=5", "a+b=5", "f(2)=5", "2+3=4+1=5"], ["6=5", "1=5=5", "5=6", "4, 5"]),
        ("12", ["3(4)", "12.00"], ["1 2", "1\\;2", "12.0000001"]),
        ("1000", ["1 000", "1,000", "1\\,000", "1{,}000", "10^3"], ["1 0 0 0", "1, 000"]),
        ("7/3", ["2 1/3", "2\\frac{1}{3}", "2+1/3"], ["2(1/3)", "21/3", "2/3"]),
        ("2/3", ["2(1/3)", "2 \\cdot \\frac13"], ["2 1/3", "2\\frac{1}{3}"]),
        ("-7/3", ["-2 1/3"], ["-2 + 1/3"]),
        ("9.7 \\times 10^{5}", ["970000", "97 \\times 10^{4}", "970{,}000"], ["970001", "9.7"]),
        ("376, 625", ["625, 376", "376,625"], ["376625", "376"]),
    ],
)
def test_what_the_algebra_system_would_let_pass(checker, gold, right, wrong):
    assert [a for a in right if not checker.check(boxed(a), gold).correct] == []
    assert [a for a in wrong if checker.check(boxed(a), gold).correct] == []


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        ("1, 3", ["3, 1", "1,3", "\\{1, 3\\}", "1 \\text{ and } 3", "3,\\,1"], ["1", "1, 4", "1, 3, 5"]),
        ("a=3, b=-4", ["a=3,b=-4", "b=-4, a=3", "a = 3, \\quad b = -4"], ["a=3, b=4", "a=-4, b=3", "a=3"]),
        ("[-1, 1]", ["[-1,1]", "\\left[-1, 1\\right]", "$[-1,1]$"], ["(-1, 1)", "[-1, 2]", "[-1, 1)"]),
        ("1/3", ["\\frac13", "0.333333", "\\frac{2}{6}", "3^{-1}"], ["0.33", "3", "\\frac{1}{30}"]),
        ("2^{10}", ["1024", "4^5", "2^5 \\cdot 32"], ["2^{11}", "20", "210"]),
        ("5.4 \\text{ cents}", ["5.4", "5.40", "\\frac{27}{5}"], ["5.5", "54"]),
        ("30 \\text{ degrees}", ["30^\\circ", "30"], ["31^\\circ", "0.5"]),
        ("12 \\text{ and } 15", ["12, 15", "15,12", "12 and 15"], ["12", "12, 16", "1215"]),
        ("x=1 \\text{ or } x=2", ["1, 2", "x=1, x=2", "x = 2 or x = 1"], ["1", "1, 3"]),
        (
            "\\frac{abc}{ab+bc+ca}",
            ["\\frac{abc}{ab+ac+bc}"],
            ["\\frac{abc}{ab+ac+2bc}", "\\frac{ab}{ab+bc+ca}"],
        ),
        ("\\log_2 3", ["\\frac{\\ln 3}{\\ln 2}", "\\log_{2}{3}"], ["\\log_3 2", "\\log 3"]),
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
        assert all(worker.process is None for worker in checker.workers)


def test_a_worker_killed_from_outside_is_replaced():
    with AnswerChecker(timeout_seconds=20) as checker:
        assert checker.check(boxed("1+x"), "x+1").correct
        process = checker.workers[0].process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert checker.check(boxed("y+1"), "1+y").correct
        assert not checker.check(boxed("y+2"), "1+y").correct


def test_a_fork_killed_from_outside_costs_no_answer_its_verdict():
    with AnswerChecker(timeout_seconds=20) as checker:
        assert checker.check(boxed("1+x"), "x+1").correct
        fork = checker.workers[0].fork_pid
        assert fork is not None
        os.kill(fork, signal.SIGKILL)
        assert checker.check(boxed("\\frac{2y}{2}"), "y").correct


def test_a_crash_is_not_remembered_and_a_timeout_is(monkeypatch):
    with AnswerChecker() as checker:
        asked = []

        def ask(request):
            asked.append(request["answer"])
            return {"failure": reasons[min(len(asked), len(reasons)) - 1]}

        monkeypatch.setattr(checker.workers[0], "ask", ask)
        reasons = ["crashed the checker"]
        for _ in range(2):
            assert checker.check(boxed("2+y"), "x+1").reason == "crashed the checker"
        assert len(asked) == 4  # each time once more
        reasons, asked[:] = ["timed out"], []
        for _ in range(16):
            assert checker.check(boxed("3+y"), "x+1").reason == "timed out"
        assert len(asked) == 1


def test_time_that_a_worker_stands_still_is_not_its_answers():
    with AnswerChecker(timeout_seconds=0.5) as checker:
        assert checker.check(boxed("1+x"), "x+1").correct
        fork = checker.workers[0].fork_pid
        assert fork is not None
        os.kill(fork, signal.SIGSTOP)
        waking = threading.Timer(1.0, os.kill, (fork, signal.SIGCONT))
        waking.start()
        assert checker.check(boxed("\\frac{2y}{2}"), "y").correct
        waking.join()
        assert checker.check(boxed("9^{9^{9^{9}}}"), "x+1").reason == "timed out"


def test_workers_end_with_their_checker():
    with AnswerChecker(timeout_seconds=20, workers=2) as checker:
        checks = checker.check_many([(boxed(f"{i}+x"), f"x+{i}") for i in range(6)])
        assert all(check.correct for check in checks)
        started = [worker.process.pid for worker in checker.workers if worker.process is not None]
        forks = [worker.fork_pid for worker in checker.workers if worker.fork_pid is not None]
    assert started
    assert len(forks) == len(started)
    deadline = time.monotonic() + 5
    while any(psutil.pid_exists(p) for p in (*started, *forks)) and time.monotonic() < deadline:
        time.sleep(0.01)  # an orphan is reaped by init
    assert not any(psutil.pid_exists(p) for p in (*started, *forks))


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
