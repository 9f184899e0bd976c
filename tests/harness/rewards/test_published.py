"""Normalisation of composites, and the rewards as Open-RS gave them."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.rewards.answers import AnswerChecker
from harness.rewards.builtin import REWARDS
from harness.rewards.composite import Composite, CompositeReward, normalised_by_group
from harness.rewards.types import Check, RewardContext, RewardInput
from harness.spec.lint.reward_rules import curve
from harness.spec.recipe import RewardFunctionSpec, RewardSpec

RIGHT, WRONG = Check(True, "1", True), Check(False, "2", True, "wrong")


def spec(*functions, normalization="none"):
    built = tuple(RewardFunctionSpec(name=name, weight=weight) for name, weight in functions)
    return RewardSpec(functions=built, normalization=normalization)


def scored(text, answer="1", group=0, tokens=10):
    return RewardInput(text=text, answer=answer, tokens=tokens, cap=100, truncated=False, group=group)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-10, 10)), min_size=1, max_size=20))
def test_normalised_values_have_mean_zero_and_deviation_one_in_each_group(entries):
    groups, values = [g for g, _ in entries], [v for _, v in entries]
    result = normalised_by_group(values, groups)
    for group in set(groups):
        own = [r for r, g in zip(result, groups, strict=True) if g == group]
        before = [v for v, g in zip(values, groups, strict=True) if g == group]
        assert statistics.fmean(own) == pytest.approx(0, abs=1e-6)
        if len(set(before)) == 1:
            assert own == [0.0] * len(own)
        elif statistics.stdev(before) > 0.1:
            assert statistics.stdev(own) == pytest.approx(1, rel=2e-3)


@given(st.floats(0.01, 100))
def test_a_functions_range_means_nothing_after_normalisation(weight):
    texts = ["\n</think>\n\\boxed{1}", "\\boxed{1}", "\n</think>\n2", "2"]
    checks = RewardContext(checks=[RIGHT, RIGHT, WRONG, WRONG])
    batch = [scored(text) for text in texts]
    one = Composite(spec(("accuracy", 1.0), ("format", 1.0), normalization="group")).score(batch, checks)
    assert one.total[1] == pytest.approx(one.total[2])  # right without layout, layout without the answer
    heavy = Composite(spec(("accuracy", weight), ("format", weight), normalization="group")).score(
        batch, checks
    )
    assert heavy.total == pytest.approx([weight * value for value in one.total])
    assert one.by_function["accuracy"] == [1.0, 1.0, 0.0, 0.0]


def test_accuracy_as_published_gives_credit_where_the_reference_cannot_be_parsed():
    batch = [
        scored("\\boxed{5}", "5"),
        scored("\\boxed{6}", "5"),
        scored("\\boxed{6}", "((^_"),
        scored("6", "5"),
    ]
    with AnswerChecker(timeout_seconds=20) as checker:
        published = CompositeReward(spec(("accuracy_open_rs", 1.0)), checker=checker).score(batch)
        ours = CompositeReward(spec(("accuracy", 1.0)), checker=checker).score(batch)
    assert published.total == [1.0, 0.0, 1.0, 0.0]
    assert ours.total == [1.0, 0.0, 0.0, 0.0]


def test_accuracy_as_published_is_not_symmetric():
    # The last side of an equation is looked at on the answer's side alone.
    batch = [scored("\\boxed{x+1=y+2}", "y+2")]
    with AnswerChecker(timeout_seconds=20) as checker:
        ours = CompositeReward(spec(("accuracy", 1.0)), checker=checker).score(batch)
        published = CompositeReward(spec(("accuracy_open_rs", 1.0)), checker=checker).score(batch)
    assert ours.total == [1.0]
    assert published.total == [0.0]


@pytest.mark.parametrize("name", [n for n, r in REWARDS.items() if r.direction and n != "cosine_characters"])
@settings(max_examples=20)
@given(cap=st.integers(2, 5000))
def test_declared_directions_hold_over_the_whole_range(name, cap):
    shape = curve(spec((name, 1.0)), cap)
    for values, sign in zip((shape.right, shape.wrong), REWARDS[name].direction, strict=True):
        assert all(sign * (later - now) >= -1e-9 for now, later in zip(values, values[1:], strict=False))


@pytest.mark.parametrize("name", REWARDS)
def test_no_reward_but_the_published_one_prefers_a_wrong_answer_or_counts_characters(name):
    from harness.rewards.own import OwnRewards
    from harness.spec.lint.reward_rules import _counts_characters

    shape = curve(spec((name, 1.0)), 3584)
    assert all(right >= wrong for right, wrong in zip(shape.right, shape.wrong, strict=True))
    assert _counts_characters(spec((name, 1.0)), 3584, OwnRewards()) is (name == "cosine_characters")
