import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from harness.stats.bestof import (
    best_of_identical,
    best_of_mean,
    correct_distribution,
    expected_normal_maximum,
    question_rates,
)
from harness.stats.power import Components, Noise, detectable_effect, needed, planned_error

NOISE = Noise(run=0.02, slope=0.1, interaction=0.2, accuracy=0.5)


def test_planned_error_of_a_two_level_axis_is_the_formula():
    expected = 4 * 0.02**2 / 8 + 0.1**2 / 200 + 4 * 0.2**2 / (8 * 200) + 4 * 0.25 / (8 * 200 * 4)
    assert planned_error(NOISE, runs=8, questions=200, samples=4) == pytest.approx(math.sqrt(expected))


def test_more_samples_shrink_only_the_last_term():
    many = planned_error(NOISE, runs=8, questions=200, samples=10**9)
    assert many**2 == pytest.approx(4 * 0.02**2 / 8 + 0.1**2 / 200 + 4 * 0.2**2 / (8 * 200))


def test_detectable_effect():
    expected = (stats.t.ppf(0.975, 4) + stats.t.ppf(0.8, 4)) * 0.01
    assert detectable_effect(0.01, 4) == pytest.approx(expected)
    assert detectable_effect(0.01, 4, comparisons=3) > expected
    assert math.isnan(detectable_effect(0.01, 0))


def _parts(**change):
    parts = {
        "run": 4e-4,
        "slope": 0.0,
        "interaction": 0.0,
        "df_runs": 4,
        "runs": 8,
        "questions": 200,
        "seeds": 1,
        "blocked": True,
    }
    return Components(**{**parts, **change})


def test_seeds_needed_reach_the_target_and_one_fewer_do_not():
    seeds, questions = needed(_parts(), 0.02, alpha=0.05, power=0.8)
    assert questions == 200

    def reach(n):
        return detectable_effect(math.sqrt(4e-4 / n), 4 + 8 * (n - 1) - (n - 1))

    assert reach(seeds) <= 0.02 < reach(seeds - 1)


def test_seeds_of_paired_differences_take_no_degree_of_freedom():
    """One cell: n seeds leave n − 1 degrees of freedom, so that five are enough where blocks would leave none."""
    alone = _parts(run=1e-4, df_runs=0, runs=1, blocked=False)
    seeds, _ = needed(alone, 0.02, alpha=0.05, power=0.8)
    assert detectable_effect(math.sqrt(1e-4 / seeds), seeds - 1) <= 0.02
    assert detectable_effect(math.sqrt(1e-4 / (seeds - 1)), seeds - 2) > 0.02
    assert needed(_parts(run=1e-4, df_runs=0, runs=1), 0.02, alpha=0.05, power=0.8) == (None, None)


def test_questions_are_asked_for_where_seeds_cannot_help():
    seeds, questions = needed(_parts(slope=1e-3), 0.02, alpha=0.05, power=0.8)
    assert seeds is not None
    assert questions > 200
    assert needed(_parts(slope=1.0), 0.02, alpha=0.05, power=0.8) == (None, None)


def test_correct_distribution_by_enumeration():
    rates, samples = [0.2, 0.7, 1.0], [2, 1, 1]
    expected = np.zeros(5)
    for draws in product((0, 1), repeat=4):
        chances = [0.2, 0.2, 0.7, 1.0]
        expected[sum(draws)] += np.prod([p if d else 1 - p for p, d in zip(chances, draws)])
    assert correct_distribution(rates, samples) == pytest.approx(expected, abs=1e-12)


def test_normal_maximum():
    assert expected_normal_maximum(1) == 0
    assert expected_normal_maximum(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-6)
    assert expected_normal_maximum(3) == pytest.approx(1.5 / math.sqrt(math.pi), abs=1e-6)


@pytest.mark.parametrize(
    ("questions", "mean", "headline", "expected"), [(30, 0.300, 0.467, 0.46), (40, 0.70, 0.80, 0.81)]
)
def test_published_headlines_are_what_the_best_of_21_would_give(questions, mean, headline, expected):
    """Open-RS (arXiv 2503.16219): 46.7 % on AIME24, 80 % on AMC23, among 21 checkpoints, one sample a question."""
    rates, ones = np.full(questions, mean), np.ones(questions, dtype=int)
    guard = best_of_identical(21, mean, headline, rates=rates, samples=ones)
    assert guard.expected == pytest.approx(expected, abs=0.04)
    assert guard.best <= guard.upper
    assert guard.p_value > 0.2


def test_guard_against_simulation():
    rng = np.random.default_rng(0)
    rates, samples = rng.uniform(0, 1, 50), np.full(50, 4)
    best = (rng.binomial(4, rates, (4000, 10, 50)).sum(axis=2) / 200).max(axis=1)
    guard = best_of_identical(10, rates.mean(), 0.6, rates=rates, samples=samples)
    assert guard.expected == pytest.approx(best.mean(), abs=1e-3)
    assert guard.p_value == pytest.approx((best >= 0.6 - 1e-9).mean(), abs=0.03)
    variance = (4 * rates * (1 - rates)).sum() / 200**2
    normal = best_of_mean(10, 0.6, [(rates.mean(), variance)])
    assert normal.expected == pytest.approx(guard.expected, abs=2e-3)


def test_guard_of_degenerate_counts():
    assert best_of_identical(3, 1.0, 1.0, rates=[1.0], samples=[1]).p_value == 1
    assert best_of_mean(3, 1.0, [(1.0, 0.0)]).expected == 1
    assert math.isnan(best_of_identical(0, 0.5, 0.5, rates=[], samples=[]).expected)
    rates = question_rates([[1, 4], [1, 4]], [[1, 4], [0, 0]])
    assert rates == pytest.approx([0.5, 0.5])
