import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from harness.stats.intervals import (
    Interval,
    accuracy_interval,
    jeffreys,
    mean_interval,
    paired_gain,
    wilson,
)


@pytest.mark.parametrize(("right", "asked"), [(0, 1), (1, 1), (0, 30), (9, 30), (30, 30), (411, 500)])
def test_wilson_and_jeffreys_agree_with_statsmodels(right, asked):
    low, high = proportion_confint(right, asked, method="wilson")
    ours = wilson(right, asked)
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=1e-12)
    low, high = proportion_confint(right, asked, method="jeffreys")
    ours = jeffreys(right, asked)
    assert (ours.low, ours.high) == pytest.approx(
        (0.0 if right == 0 else low, 1.0 if right == asked else high), abs=1e-12
    )


def test_one_sample_a_question_gives_wilsons_interval():
    correct = np.array([1] * 9 + [0] * 21)
    assert accuracy_interval(np.ones(30), correct) == wilson(9, 30)


def test_copies_of_one_answer_add_nothing_and_independent_samples_do():
    correct = np.array([1] * 60 + [0] * 140)
    single = accuracy_interval(np.ones(200), correct)
    copies = accuracy_interval(np.full(200, 4), 4 * correct)
    assert copies.high - copies.low == pytest.approx(single.high - single.low, rel=0.02)
    spread = np.random.default_rng(0).binomial(4, 0.3, 200)
    independent = accuracy_interval(np.full(200, 4), spread)
    assert (independent.high - independent.low) == pytest.approx((single.high - single.low) / 2, rel=0.15)


@pytest.mark.parametrize("concentration", [0.5, 4.0], ids=["questions differ a lot", "questions alike"])
def test_clustered_interval_covers(concentration):
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(600):
        rates = rng.beta(0.3 * concentration, 0.7 * concentration, 40)
        found = accuracy_interval(np.full(40, 4), rng.binomial(4, rates))
        hits += found.low <= 0.3 <= found.high
    assert 0.925 <= hits / 600 <= 0.985


@pytest.mark.parametrize(
    ("samples", "correct", "estimate"),
    [
        ([4], [4], 1.0),
        ([4], [0], 0.0),
        ([4, 4], [2, 2], 0.5),
        ([4] * 30, [4] * 30, 1.0),
        ([0, 4], [0, 1], 0.25),
    ],
    ids=[
        "one question, all right",
        "one question, none",
        "no spread",
        "all right",
        "a question without samples",
    ],
)
def test_degenerate_counts_give_a_proper_interval(samples, correct, estimate):
    found = accuracy_interval(samples, correct)
    assert found.estimate == estimate
    assert 0 <= found.low <= estimate <= found.high <= 1
    assert found.high - found.low > 0.05


def test_nothing_gives_nothing():
    assert math.isnan(accuracy_interval([], []).estimate)
    assert math.isnan(wilson(0, 0).low)
    assert math.isnan(mean_interval([]).estimate)
    assert math.isnan(paired_gain([math.nan], [0.5]).estimate)


def test_paired_gain_is_close_to_the_t_interval_on_many_questions():
    rng = np.random.default_rng(2)
    before = rng.binomial(4, 0.5, 800) / 4
    after = rng.binomial(4, 0.6, 800) / 4
    found = paired_gain(before, after)
    low, high = stats.ttest_1samp(after - before, 0).confidence_interval()
    assert found.estimate == pytest.approx((after - before).mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=3e-3)


def test_paired_gain_of_equal_answers_has_a_width_and_one_question_says_nothing():
    same = paired_gain(np.ones(30), np.ones(30))
    assert same.low < 0 == same.estimate < same.high
    assert paired_gain([0.0], [1.0]) == Interval(1.0, -1.0, 1.0)


def test_paired_gain_covers_with_thirty_questions():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(600):
        ease = rng.normal(0, 1.5, 30)
        p0, p1 = 1 / (1 + np.exp(-ease)), 1 / (1 + np.exp(-ease - 0.8))
        found = paired_gain(rng.binomial(1, p0), rng.binomial(1, p1))
        # The truth for questions like these, by averaging over the normal distribution of their ease.
        hits += found.low <= _true_gain() <= found.high
    assert 0.925 <= hits / 600 <= 0.985


def _true_gain():
    z = stats.norm.ppf((np.arange(2000) + 0.5) / 2000) * 1.5
    return float((1 / (1 + np.exp(-z - 0.8)) - 1 / (1 + np.exp(-z))).mean())


def test_mean_interval_adds_distances_in_squares():
    found = mean_interval([Interval(0.5, 0.4, 0.7), Interval(0.7, 0.7, 0.7)])
    assert (found.estimate, found.low, found.high) == pytest.approx((0.6, 0.55, 0.7))
