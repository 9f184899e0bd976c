"""The weighted sum, the user's own functions, and what is wrong with a reward section."""

from __future__ import annotations

import re
import sys

import pytest

from harness.rewards.composite import CompositeReward, UnknownReward, validate_rewards
from harness.rewards.types import RewardInput
from harness.spec.recipe import RewardFunctionSpec, RewardSpec


def spec(*functions) -> RewardSpec:
    return RewardSpec(functions=tuple(RewardFunctionSpec(**function) for function in functions))


def batch() -> list[RewardInput]:
    texts = ["1+2=3\n</think>\n\\boxed{3}", "1+2=4\n</think>\n\\boxed{4}", "3", "\\boxed{3}"]
    return [RewardInput(text, "3", 10 * i, 40, i == 2, group=i // 2) for i, text in enumerate(texts)]


def test_total_is_the_weighted_sum():
    both = spec({"name": "accuracy", "weight": 2.0}, {"name": "format", "weight": 0.5})
    with CompositeReward(both) as reward:
        scores = reward.score(batch())
    assert scores.by_function == {"accuracy": [1.0, 0.0, 0.0, 1.0], "format": [1.0, 1.0, 0.0, 0.0]}
    assert scores.total == [2.5, 0.5, 0.0, 2.0]
    assert scores.correct == [True, False, False, True]
    assert [check.reason for check in scores.checks] == ["", "wrong", "no box", ""]


def test_an_empty_batch():
    with CompositeReward(spec({"name": "accuracy"})) as reward:
        assert reward.score([]).total == []


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "def shortest(batch, context, *, scale: float = 1.0):\n"
        "    return [-scale * item.tokens for item in batch]\n"
        "def broken(batch, context):\n"
        "    return [float('nan')] * len(batch)\n"
        "def short(batch, context):\n"
        "    return [0.0]\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_rewards", None)


@pytest.mark.usefixtures("user_module")
def test_functions_of_the_user():
    own = spec({"name": "my_rewards:shortest", "weight": 0.5, "params": {"scale": 2}}, {"name": "accuracy"})
    with CompositeReward(own) as reward:
        assert reward.score(batch()).total == [1.0, -10.0, -20.0, -29.0]
    for name, message in (("broken", "not finite"), ("short", "1 values for 4 completions")):
        with (
            CompositeReward(spec({"name": f"my_rewards:{name}"})) as reward,
            pytest.raises(ValueError, match=message),
        ):
            reward.score(batch())
    with pytest.raises(UnknownReward, match='did you mean "my_rewards:shortest"'):
        validate_rewards(spec({"name": "my_rewards:shortst"}))
    with pytest.raises(UnknownReward, match='did you mean "scale"'):
        validate_rewards(spec({"name": "my_rewards:shortest", "params": {"scal": 2}}))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ({"name": "acuracy"}, "no reward 'acuracy'\n  did you mean \"accuracy\"?"),
        (
            {"name": "cosine", "params": {"max_token": 9}},
            "reward 'cosine' has no parameter 'max_token'\n  did you mean",
        ),
        ({"name": "accuracy", "params": {"x": 1}}, "it takes no parameters"),
        ({"name": "cosine", "params": {"max_tokens": "9"}}, "`max_tokens` must be a valid integer, got '9'"),
        (
            {"name": "repetition", "params": {"ngram_size": True}},
            "`ngram_size` must be a valid integer, got True",
        ),
        (
            {"name": "repetition", "params": {"ngram_size": 0}},
            "reward 'repetition': `ngram_size` must be >= 1, got 0",
        ),
        ({"name": "no.such.module:f"}, "put the folder of the module on PYTHONPATH"),
        ({"name": "json:lods"}, 'did you mean "json:loads"?'),
    ],
)
def test_mistakes_in_a_reward_section(function, message):
    with pytest.raises(UnknownReward, match=re.escape(message)):
        validate_rewards(spec(function))
    with pytest.raises(UnknownReward):
        CompositeReward(spec(function))


TYPED = """
from typing import Annotated, Literal
from pydantic import Field
class Judge: ...
def typed(
    batch, context, *, share: Annotated[float, Field(ge=0, le=1)] = 0.5, kind: Literal["soft", "hard"] = "soft",
    marks: tuple[int, ...] = (), judge: Judge | None = None, needed: str,
):
    return [0.0] * len(batch)
def open_ended(batch, context, **params):
    return [0.0] * len(batch)
def lone(batch):
    return [0.0] * len(batch)
"""


@pytest.fixture
def typed_module(tmp_path, monkeypatch):
    (tmp_path / "typed_rewards.py").write_text(TYPED, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("typed_rewards", None)


@pytest.mark.usefixtures("typed_module")
@pytest.mark.parametrize(
    "params",
    [
        {"share": 1, "kind": "hard", "marks": [1, 2]},
        {"marks": []},
        {"judge": "any text"},  # what no YAML value can be is left to the function
        {"needed": "\ud800"},
    ],
)
def test_values_that_fit_the_annotations_of_a_users_reward(params):
    validate_rewards(spec({"name": "typed_rewards:typed", "params": {"needed": "x", **params}}))
    validate_rewards(spec({"name": "typed_rewards:open_ended", "params": params}))


@pytest.mark.usefixtures("typed_module")
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"share": 1.5}, "`share` must be less than or equal to 1, got 1.5"),
        ({"share": True}, "`share` must be a valid number, got True"),
        ({"kind": "mild"}, "`kind` must be 'soft' or 'hard', got 'mild'"),
        ({"marks": ["a", "b"]}, "`marks` must be a valid integer, got ['a', 'b']"),
        ({"needed": 3}, "`needed` must be a valid string, got 3"),
        ({"ned": "x"}, "has no parameter 'ned'\n  did you mean \"needed\"?"),
        ({}, "needs the parameter 'needed'\n  add `params: {needed: …}`"),
    ],
)
def test_values_that_do_not_fit_them(params, message):
    with pytest.raises(UnknownReward, match=re.escape(message)):
        validate_rewards(spec({"name": "typed_rewards:typed", "params": params}))


@pytest.mark.usefixtures("typed_module")
def test_a_reward_takes_a_batch_and_its_context():
    with pytest.raises(UnknownReward, match=r"takes \(batch\), not a batch of completions and its context"):
        validate_rewards(spec({"name": "typed_rewards:lone"}))
