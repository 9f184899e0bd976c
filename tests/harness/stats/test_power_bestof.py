import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from harness.stats.bestof import (
    RunNoise,
    best_of_identical,
    best_of_mean,
    correct_distribution,
    expected_normal_maximum,
    question_rates,
)
from harness.stats.power import (
    Aim,
    Components,
    Noise,
    detectable_effect,
    detectable_gain,
    needed,
    planned_error,
    purchases,
    seeds_range,
)

AIM = Aim(alpha=0.05, power=0.8)
NOISE = Noise(run=0.02, slope=0.1, interaction=0.2, accuracy=0.5)


def test_planned_error_of_a_two_level_axis_is_the_formula():
    expected = 4 * 0.02**2 / 8 + 0.1**2 / 200 + 4 * 0.2**2 / (8 * 200) + 4 * 0.25 / (8 * 200 * 4)
    assert planned_error(NOISE, runs=8, questions=200, samples=4) == pytest.approx(math.sqrt(expected))


def test_more_samples_shrink_only_the_last_term():
    many = planned_error(NOISE, runs=8, questions=200, samples=10**9)
    assert many**2 == pytest.approx(4 * 0.02**2 / 8 + 0.1**2 / 200 + 4 * 0.2**2 / (8 * 200))


def test_detectable_effect():
    found = detectable_effect(0.01, 4)
    assert stats.nct.sf(stats.t.ppf(0.975, 4), 4, found / 0.01) == pytest.approx(0.8)
    assert detectable_effect(0.01, 4, comparisons=3) > found
    assert math.isnan(detectable_effect(0.01, 0))
    assert detectable_effect(0.01, 1e5) == pytest.approx(0.01 * (1.95996 + 0.84162), rel=1e-4)


@pytest.mark.parametrize("df", [3, 4, 12, 200])
def test_effects_that_studies_state_are_found_as_often_as_they_say(df):
    """A study states an effect from its own error, and another study looks for it: 80 % on average over both."""
    rng = np.random.default_rng(df)
    stated = np.array([detectable_effect(1.0, df, estimated=True)]) * np.sqrt(rng.chisquare(df, 200_000) / df)
    t = (stated + rng.normal(size=200_000)) / np.sqrt(rng.chisquare(df, 200_000) / df)
    assert (t > stats.t.ppf(0.975, df)).mean() == pytest.approx(0.8, abs=0.004)


def _parts(**change):
    parts = {
        "run": 4e-4,
        "slope": 0.0,
        "interaction": 0.0,
        "sampling": math.nan,
        "df_runs": 4,
        "run_df": 4.0,
        "runs": 8,
        "questions": 200,
        "seeds": 1,
        "blocked": True,
    }
    return Components(**{**parts, **change})


def test_seeds_needed_reach_the_target_and_one_fewer_do_not():
    seeds, questions = needed(_parts(), 0.02, AIM)
    assert questions == 200

    def reach(n):
        return detectable_effect(math.sqrt(4e-4 / n), 4 + 8 * (n - 1) - (n - 1))

    assert reach(seeds) <= 0.02 < reach(seeds - 1)


def test_seeds_of_paired_differences_take_no_degree_of_freedom():
    """One cell: n seeds leave n − 1 degrees of freedom, so that five are enough where blocks would leave none."""
    alone = _parts(run=1e-4, df_runs=0, runs=1, blocked=False)
    seeds, _ = needed(alone, 0.02, AIM)
    assert detectable_effect(math.sqrt(1e-4 / seeds), seeds - 1) <= 0.02
    assert detectable_effect(math.sqrt(1e-4 / (seeds - 1)), seeds - 2) > 0.02
    assert needed(_parts(run=1e-4, df_runs=0, runs=1), 0.02, AIM) == (None, None)


def test_questions_are_asked_for_where_seeds_cannot_help():
    seeds, questions = needed(_parts(slope=1e-3), 0.02, AIM)
    assert seeds is not None
    assert questions > 200
    assert needed(_parts(slope=1.0), 0.02, AIM) == (None, None)


@pytest.mark.parametrize("rate", [0.03, 0.3, 0.5, 0.9])
def test_a_gain_carries_the_noise_of_where_it_ends(rate):
    gain = detectable_gain(0.05, rate)
    v = rate * (1 - rate)
    factor = math.sqrt((v + (rate + gain) * (1 - rate - gain)) / (2 * v))
    assert gain == pytest.approx(0.05 * (factor if factor > 1 else (3 + factor) / 4))
    assert (gain > 0.05) == (rate < 0.4)
    assert math.isinf(detectable_gain(0.3, 0.95))
    assert detectable_gain(0.05, 0.0) == 0.05


def test_a_number_of_seeds_is_a_range():
    """The variance between runs, measured with four degrees of freedom, is 0.5 to 3.8 times its estimate."""
    seeds, _ = needed(_parts(), 0.02, AIM)
    low, high = seeds_range(_parts(), 0.02, AIM)
    assert low < seeds < high
    assert high == needed(_parts(run=4e-4 * 4 / stats.chi2.ppf(0.1, 4)), 0.02, AIM)[0]
    assert seeds_range(_parts(run=4e-3), 0.02, AIM)[1] is None
    sure = _parts(df_runs=4000, run_df=4000.0)
    low, high = seeds_range(sure, 0.02, AIM)
    assert low <= needed(sure, 0.02, AIM)[0] <= high <= low + 1


def test_purchases_shrink_what_they_buy():
    parts = _parts(run=1e-4, slope=2e-4, interaction=2e-4, sampling=1.5e-4, df_runs=12, run_df=12.0)
    now = detectable_effect(math.sqrt(5e-4), 12, estimated=True)
    bought = purchases(parts, AIM)
    assert max(bought.one_more_seed, bought.twice_the_questions, bought.twice_the_samples) < now
    assert bought.twice_the_questions == pytest.approx(detectable_effect(math.sqrt(3e-4), 12, estimated=True))
    assert bought.twice_the_samples == pytest.approx(
        detectable_effect(math.sqrt(4.25e-4), 12, estimated=True)
    )
    one_more = detectable_effect(math.sqrt(1.5e-4 + 2e-4), 12 + 8 - 1, estimated=True)
    assert bought.one_more_seed == pytest.approx(one_more)
    assert math.isnan(purchases(_parts(), AIM).twice_the_samples)


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


@pytest.mark.parametrize("deviation", [0.01, 0.025])
def test_the_guard_counts_what_seeds_alone_do(deviation):
    """Eight checkpoints that nothing but the seed tells apart, 500 questions: above chance in 5 % of cases."""
    rng = np.random.default_rng(1)
    rates, ones = np.full(500, 0.6), np.ones(500, dtype=int)
    scores = rng.binomial(500, 0.6 + rng.normal(0, deviation, (200, 8))) / 500
    known = RunNoise(deviation**2, None)
    guards = [best_of_identical(8, 0.6, s.max(), rates=rates, samples=ones, run_noise=known) for s in scores]
    assert guards[0].expected == pytest.approx(scores.max(axis=1).mean(), abs=5e-3)
    assert np.mean([not g.chance for g in guards]) <= 0.05 + 2.4 * math.sqrt(0.05 * 0.95 / 200)
    bare = [best_of_identical(8, 0.6, s.max(), rates=rates, samples=ones) for s in scores]
    assert sum(not g.chance for g in bare) > sum(not g.chance for g in guards)
    spread = 0.24 / 500
    means = [best_of_mean(8, s.max(), [(0.6, spread)], run_noise=known).p_value for s in scores]
    assert means == pytest.approx([g.p_value for g in guards], abs=0.05)


def test_noise_between_runs_that_was_measured_is_as_uncertain_as_its_degrees_of_freedom():
    rng = np.random.default_rng(2)
    false = []
    for _ in range(800):
        scores = 0.6 + rng.normal(0, 0.02, 8)
        noise = RunNoise.of(4e-4 * rng.chisquare(4) / 4, 0.0, 4, assumed=0.01)
        false.append(best_of_mean(8, scores.max(), [(0.6, 1e-8)], run_noise=noise).p_value < 0.05)
    assert np.mean(false) <= 0.05 + 2.4 * math.sqrt(0.05 * 0.95 / 800)
    assert RunNoise.of(1.0, 0.0, 2, assumed=0.01) == RunNoise(1e-4, None)
    assert RunNoise.of(1e-4, 2e-4, 5, assumed=0.01) == RunNoise(0.0, 5)


def test_guard_of_degenerate_counts():
    assert best_of_identical(3, 1.0, 1.0, rates=[1.0], samples=[1]).p_value == 1
    assert best_of_mean(3, 1.0, [(1.0, 0.0)]).expected == 1
    assert math.isnan(best_of_identical(0, 0.5, 0.5, rates=[], samples=[]).expected)
    rates = question_rates([[1, 4], [1, 4]], [[1, 4], [0, 0]])
    assert rates == pytest.approx([0.5, 0.5])
