"""Own rewards in a process of their own: mistakes, ends, endless loops, memory, processes; nothing is left."""

from __future__ import annotations

import time
from types import SimpleNamespace

import psutil
import pytest

from harness.limited_process import MARK_VARIABLE, Limits
from harness.rewards.calls import call_reward
from harness.rewards.errors import RewardFailed, UnknownReward
from harness.rewards.own import OwnRewards
from harness.rewards.types import Check, RewardContext, RewardInput
from harness.spec.recipe import RewardFunctionSpec

MODULE = """
import os, sys, time

def lengths(batch, context, *, scale: float = 1.0):
    return [scale * len(item.text) for item in batch]

def trl_style(completions, **kwargs):
    return [1.0 for _ in completions]

def wrong_length(batch, context):
    return [1.0 for item in batch if "seven" not in item.answer]

def one_row(batch, context):
    return [float(int(item.answer)) for item in batch]

def one_row_of_texts(batch, context):
    for item in batch:
        pass
    answers = [item.answer for item in batch]
    return [float(int(answer)) for answer in answers]

def leaves(batch, context):
    sys.exit("enough")

def leaves_at_once(batch, context):
    os._exit(0)

def never(batch, context):
    while True:
        pass

def daemons(batch, context):
    for _ in range(100):
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
    return [0.0 for _ in batch]

def one_daemon(batch, context):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    return [0.0 for _ in batch]

def eats(batch, context):
    held = []
    while True:
        held.append(b"x" * (16 << 20))

def texts(batch, context): return ["0.5" for _ in batch]
def nones(batch, context): return [None for _ in batch]
def nans(batch, context): return [float("nan") for _ in batch]
def nothing(batch, context): return None
def a_number(batch, context): return 1.0
def a_scalar(batch, context): return __import__("numpy").float32(1)
def an_array(batch, context): return __import__("numpy").arange(len(batch), dtype="float32")
def booleans(batch, context): return [item.answer == "4" for item in batch]
"""

BATCH = [
    RewardInput(
        text=f"it is {answer}", answer=answer, tokens=3, cap=8, truncated=False, question=f"{answer} = ?"
    )
    for answer in ("4", "5", "seven", "8")
]
CONTEXT = RewardContext(checks=[Check(True, item.answer, True) for item in BATCH])


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Calls a function of the module in a limited process."""
    (tmp_path / "mine_to_try.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    def ask_(name, *, seconds=30.0, **params):
        spec = RewardFunctionSpec(name=f"mine_to_try:{name}", params=params)
        with OwnRewards(Limits(memory_gib=0.5, processes=16), call_seconds=seconds) as own:
            return own.resolve(spec)(BATCH, CONTEXT)

    return ask_


def test_values_come_back(ask):
    assert ask("lengths", scale=0.5) == [3.5, 3.5, 5.5, 3.5]
    assert ask("an_array") == [0.0, 1.0, 2.0, 3.0]
    assert ask("booleans") == [1.0, 0.0, 0.0, 0.0]


def test_a_signature_that_is_not_ours(ask):
    with pytest.raises(UnknownReward, match=r"takes \(completions, \*\*kwargs\), not a batch") as caught:
        ask("trl_style")
    assert "(batch, context, **params)" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wrong_length", ["gave 3 values for 4 completions"]),
        ("one_row", ["ValueError: invalid literal", "mine_to_try.py:14", "'seven = ?'", "'it is seven'"]),
        ("one_row_of_texts", ["ValueError: invalid literal", "'seven = ?'", "'it is seven'"]),
        ("texts", ["gave '0.5' (str), no number", "'4 = ?'"]),
        ("nones", ["gave None, no number", "'it is 4'"]),
        ("nans", ["gave nan, which is not finite", "'it is 4'"]),
        ("nothing", ["gave None in place of a list"]),
        ("a_number", ["gave 1.0 (float) in place of a list"]),
        ("a_scalar", ["(float32) in place of a list"]),
        ("leaves", ["calls sys.exit('enough')", "mine_to_try.py"]),
        ("leaves_at_once", ["ended its process with exit code 0"]),
        ("daemons", ["started more than 16 processes"]),
        ("eats", ["took more than 0.5 GiB of memory"]),
    ],
)
def test_what_fails_is_named(ask, name, words):
    with pytest.raises(RewardFailed) as caught:
        ask(name)
    message = str(caught.value)
    assert f"reward 'mine_to_try:{name}'" in message
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


def test_what_never_returns_is_ended_in_time(ask):
    start = time.monotonic()
    with pytest.raises(
        RewardFailed, match=r"did not return within 1 s on 4 completions \(HARNESS_REWARD_SECONDS"
    ):
        ask("never", seconds=1.0)
    assert time.monotonic() - start < 30


def test_nothing_is_left_that_a_reward_started(ask, monkeypatch):
    # Other tests have limited processes too, beside this one.
    monkeypatch.setattr(
        "harness.limited_process.uuid", SimpleNamespace(uuid4=lambda: SimpleNamespace(hex="mine"))
    )
    assert ask("one_daemon") == [0.0] * 4

    def marked():
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK_VARIABLE) == "mine":
                    yield process.pid
            except (psutil.Error, OSError):
                continue

    assert list(marked()) == []


def test_a_run_names_reward_question_and_completion_too():
    def counts(batch, context):
        return [1 / (item.answer != "5") for item in batch]

    with pytest.raises(RewardFailed, match="ZeroDivisionError") as caught:
        call_reward("mine:counts", counts, BATCH, CONTEXT, {})
    assert (caught.value.question, caught.value.completion) == ("5 = ?", "it is 5")
    assert caught.value.place.startswith("test_own.py:")


def test_a_batch_that_fails_only_as_a_whole_names_no_completion():
    def of_groups(batch, context):
        if len(batch) > 1:
            raise RuntimeError("two")
        return [0.0]

    with pytest.raises(RewardFailed, match="RuntimeError: two on a batch of 4 completions"):
        call_reward("mine:of_groups", of_groups, BATCH, CONTEXT, {})
