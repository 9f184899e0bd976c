from itertools import product

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from harness.stats.design import factorial_design, mean_design
from harness.stats.effects import AnswerNoise, run_effects, two_way_effects
from harness.stats.question_noise import question_covariance

ORDER = {"a": ["0", "1"], "b": ["0", "1", "2"]}
BASE = {"a": "0", "b": "0"}


def _levels(drop=()):
    cells = [c for c in product(ORDER["a"], ORDER["b"], (0, 1)) if c not in drop]
    return {"a": [c[0] for c in cells], "b": [c[1] for c in cells]}, [c[2] for c in cells]


def _weights(contrasts):
    return np.array([c.weights for c in contrasts])


@pytest.mark.parametrize("drop", [(), (("1", "2", 1),), (("0", "0", 0), ("1", "1", 1))])
def test_run_level_effects_are_ordinary_least_squares(drop):
    levels, seeds = _levels(drop)
    y = np.random.default_rng(0).normal(size=len(seeds))
    design = factorial_design(levels, ORDER, BASE, blocks=seeds)
    # The same model in treatment coding, by statsmodels.
    columns = [
        [a == "1" for a in levels["a"]],
        [b == "1" for b in levels["b"]],
        [b == "2" for b in levels["b"]],
    ]
    treatment = np.column_stack([np.ones(len(seeds)), *columns, seeds]).astype(float)
    fit = sm.OLS(y, treatment).fit()
    for axis, at in (("a", [1]), ("b", [2, 3])):
        ours = run_effects(y, design.matrix, _weights(design.contrasts[axis]))
        assert ours.effects == pytest.approx(fit.params[at])
        assert ours.errors == pytest.approx(fit.bse[at])
        assert ours.df == fit.df_resid


def test_interactions_leave_main_effects_averages_and_match_statsmodels():
    levels, seeds = _levels()
    y = np.random.default_rng(1).normal(size=len(seeds))
    design = factorial_design(levels, ORDER, BASE, blocks=seeds, interactions=[("a", "b")])
    a, b = (np.array(levels[k]) for k in "ab")
    cells = np.array([[(a == i) & (b == j) for j in ORDER["b"]] for i in ORDER["a"]])
    means = np.array([[y[cells[i, j]].mean() for j in range(3)] for i in range(2)])
    main = run_effects(y, design.matrix, _weights(design.contrasts["a"]))
    assert main.effects == pytest.approx([means[1].mean() - means[0].mean()])
    both = design.contrasts["a×b"]
    assert [(c.level, c.baseline) for c in both] == [("1×1", "0×0"), ("1×2", "0×0")]
    found = run_effects(y, design.matrix, _weights(both))
    expected = [(means[1, j] - means[0, j]) - (means[1, 0] - means[0, 0]) for j in (1, 2)]
    assert found.effects == pytest.approx(expected)
    assert found.df == 12 - 6 - 1


def test_levels_that_no_run_has_and_confounded_axes():
    design = factorial_design({"a": ["0", "0"], "b": ["1", "2"]}, ORDER, BASE)
    assert design.contrasts == {"a": (), "b": ()}
    confounded = factorial_design(
        {"a": ["0", "0", "1", "1"], "c": ["x", "x", "y", "y"]},
        {"a": ["0", "1"], "c": ["x", "y"]},
        {"a": "0", "c": "x"},
    )
    found = run_effects([1.0, 2.0, 3.0, 4.0], confounded.matrix, _weights(confounded.contrasts["a"]))
    assert np.isnan(found.effects).all()


def test_two_way_variance_by_hand():
    rng = np.random.default_rng(2)
    levels = {"a": ["0", "0", "1", "1"]}
    design = factorial_design(levels, {"a": ["0", "1"]}, {"a": "0"})
    y = rng.normal(size=(4, 5))
    found = two_way_effects(y, design.matrix, _weights(design.contrasts["a"]))
    means = y.mean(axis=1)
    slope = y[2:].mean(axis=0) - y[:2].mean(axis=0)
    within = np.concatenate([y[:2] - y[:2].mean(axis=0), y[2:] - y[2:].mean(axis=0)])
    ms_run = ((means[:2] - means[:2].mean()) ** 2).sum() + ((means[2:] - means[2:].mean()) ** 2).sum()
    v_run = ms_run / 2 * (1 / 2 + 1 / 2)
    v_q = slope.var(ddof=1) / 5
    centred = within - within.mean(axis=1, keepdims=True)
    v_obs = (centred**2).sum() / (2 * 4) / 5 * (1 / 2 + 1 / 2)
    assert found.effects == pytest.approx([slope.mean()])
    assert found.run_variance == pytest.approx([v_run])
    assert found.question_variance == pytest.approx([v_q])
    assert found.interaction_variance == pytest.approx([v_obs])
    fraction = np.random.default_rng(3).chisquare(2, 400_000) / 2
    v = np.maximum(v_run / fraction + max(v_q - v_obs, 0), 0.4 * v_q)
    draws = np.abs(np.random.default_rng(4).standard_t(4 / np.minimum(v_q / v, 1) ** 2) * np.sqrt(v))
    for level in (0.05, 0.01):
        shown = stats.t.isf(level / 2, found.t_df) * found.errors[0]
        assert shown == pytest.approx(np.quantile(draws, 1 - level), rel=0.02)
    assert (found.df, found.runs, found.questions) == (2, 4, 5)


def test_two_way_variance_is_right_on_average():
    """With run, question and run × question variation, V_run + V_q − V_obs is unbiased."""
    rng = np.random.default_rng(3)
    levels, seeds = _levels()
    design = factorial_design(levels, ORDER, BASE, blocks=seeds)
    weights = _weights(design.contrasts["a"])
    side = np.array([level == "1" for level in levels["a"]], dtype=float)
    estimates, variances = [], []
    for _ in range(2000):
        slope = rng.normal(0, 0.2, 20)
        y = rng.normal(0, 0.05, (12, 1)) + np.outer(side, slope) + rng.normal(0, 0.3, (12, 20))
        found = two_way_effects(y, design.matrix, weights)
        estimates.append(found.effects[0])
        variances.append(found.run_variance[0] + found.question_variance[0] - found.interaction_variance[0])
    assert np.mean(variances) == pytest.approx(np.var(estimates), rel=0.1)


def test_benchmarks_weigh_the_same_whatever_their_size():
    levels = {"a": ["0", "0", "1", "1"]}
    design = factorial_design(levels, {"a": ["0", "1"]}, {"a": "0"})
    rng = np.random.default_rng(4)
    small, large = rng.normal(size=(4, 3)), rng.normal(size=(4, 30))
    weights = _weights(design.contrasts["a"])
    both = two_way_effects(np.hstack([small, large]), design.matrix, weights, ["s"] * 3 + ["l"] * 30)
    parts = [two_way_effects(y, design.matrix, weights) for y in (small, large)]
    assert both.effects == pytest.approx(np.mean([p.effects for p in parts], axis=0))
    assert both.question_variance == pytest.approx(np.sum([p.question_variance for p in parts], axis=0) / 4)


def test_paired_differences_are_the_paired_t_test_when_questions_agree():
    rng = np.random.default_rng(5)
    # Hardly: where they agree to the last digit, the floor of their variance holds.
    differences = rng.normal(0.1, 0.05, (6, 1)) + np.resize([1e-10, -1e-10], (1, 40))
    design = mean_design(6, "steps", "20", "10")
    found = two_way_effects(differences, design.matrix, _weights(design.contrasts["steps"]))
    expected = stats.ttest_1samp(differences[:, 0], 0)
    assert found.df == 5
    assert found.effects[0] / found.errors[0] == pytest.approx(expected.statistic)


def test_several_responses_give_each_its_own_result_and_their_correlation():
    rng = np.random.default_rng(6)
    shared = rng.normal(size=(8, 50))
    y = np.array([rng.normal(size=(8, 50)) - shared, rng.normal(size=(8, 50)) - shared])
    design = mean_design(8, "steps", "x", "y")
    weights = _weights(design.contrasts["steps"])
    joint = two_way_effects(y, design.matrix, weights)
    for k in range(2):
        alone = two_way_effects(y[k], design.matrix, weights)
        assert joint.effects[k] == pytest.approx(alone.effects[0])
        # The response that needs fewer degrees of freedom gives them to both; intervals stay.
        assert joint.errors[k] * stats.t.isf(0.025, joint.t_df[k]) == pytest.approx(
            alone.errors[0] * stats.t.isf(0.025, alone.t_df[0]), rel=1e-5
        )
    assert 0.2 < joint.correlation[0, 1] < 0.8


def test_sampling_noise_floors_the_spread_of_runs():
    levels = {"a": ["0", "0", "1", "1"]}
    design = factorial_design(levels, {"a": ["0", "1"]}, {"a": "0"})
    weights = _weights(design.contrasts["a"])
    found = run_effects([0.5, 0.5, 0.6, 0.6], design.matrix, weights, AnswerNoise(variance=np.full(4, 0.01)))
    assert found.errors == pytest.approx([0.1])
    noisy = run_effects([0.1, 0.9, 0.2, 0.8], design.matrix, weights, AnswerNoise(variance=np.full(4, 1e-6)))
    assert noisy.errors == pytest.approx(run_effects([0.1, 0.9, 0.2, 0.8], design.matrix, weights).errors)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_answers_all_alike_still_leave_an_error(share):
    """Nobody right among n answers of each level: Wilson's interval of each ends at z²/n."""
    order = {"a": ["x", "y"]}
    design = factorial_design({"a": ["x", "y"] * 4}, order, {"a": "x"}, blocks=[0, 0, 1, 1, 2, 2, 3, 3])
    found = two_way_effects(np.full((8, 30), share), design.matrix, _weights(design.contrasts["a"]))
    assert found.effects == pytest.approx([0.0])
    z = stats.norm.ppf(0.975)
    assert found.errors[0] * z == pytest.approx(z**2 / (4 * 30), rel=0.03)
    apart = np.resize([[0.0], [1.0]], (8, 30))
    assert two_way_effects(apart, design.matrix, _weights(design.contrasts["a"])).errors == pytest.approx(
        found.errors
    )


def test_the_floor_leaves_variances_that_four_questions_make():
    rng = np.random.default_rng(7)
    b = np.zeros((1, 200))
    b[0, :4] = [0.01, -0.01, 0.01, -0.01]
    assert question_covariance(b, [1.0])[0, 0] == pytest.approx(np.var(b, ddof=1) / 200)
    b[0, 3] = 0.0
    assert question_covariance(b, [1.0])[0, 0] == pytest.approx(4 / 200**2)
    both = rng.normal(size=(2, 5))
    assert question_covariance(both, [1.0, 1.0]) == pytest.approx(np.cov(both) / 5)


def test_an_equality_that_no_answer_speaks_against_is_rarely_false():
    """One level right 2 times in 100, the other never, 5 or 30 questions: rarely within ±2 points of each other."""
    rng = np.random.default_rng(8)
    design = factorial_design(
        {"a": ["x", "y"] * 4}, {"a": ["x", "y"]}, {"a": "x"}, blocks=[0, 0, 1, 1, 2, 2, 3, 3]
    )
    for questions in (5, 30):
        equal = 0
        for _ in range(300):
            y = rng.binomial(1, np.resize([[0.0], [0.02]], (8, questions))).astype(float)
            found = two_way_effects(y, design.matrix, _weights(design.contrasts["a"]))
            reach = stats.t.isf(0.05, found.t_df) * found.errors[0]
            equal += abs(found.effects[0]) + reach < 0.02
        assert equal / 300 <= 0.05


@pytest.mark.parametrize(("runs", "questions"), [(1, 1), (1, 30), (2, 1), (2, 2)])
def test_too_little_data_gives_no_error_and_no_crash(runs, questions):
    design = mean_design(runs, "steps", "20", "10")
    found = two_way_effects(np.zeros((runs, questions)), design.matrix, _weights(design.contrasts["steps"]))
    assert found.effects == pytest.approx([0.0])
    assert found.df == min(runs - 1, questions - 1)
    assert np.isnan(found.errors[0]) == (found.df == 0)


def test_runs_enough_for_a_verdict_measure_their_noise_themselves():
    """p(1 − p)/n takes questions for alike; six runs that differ by less are believed down to a fifth of it."""
    design = factorial_design({"a": ["0", "1"] * 3}, {"a": ["0", "1"]}, {"a": "0"})
    weights = _weights(design.contrasts["a"])
    y = np.array([0.50, 0.61, 0.51, 0.60, 0.52, 0.62])
    spread = run_effects(y, design.matrix, weights).errors[0]
    bound = AnswerNoise(variance=np.full(6, 4 * spread**2 * 3 / 2))
    assert run_effects(y, design.matrix, weights, bound).errors[0] == pytest.approx(spread)
    wide = AnswerNoise(variance=np.full(6, 10 * spread**2 * 3 / 2))
    assert run_effects(y, design.matrix, weights, wide).errors[0] == pytest.approx(spread * np.sqrt(2))
    repeated = AnswerNoise(variance=np.full(6, 4 * spread**2 * 3 / 2), df=20)
    assert run_effects(y, design.matrix, weights, repeated).errors[0] == pytest.approx(2 * spread)


def test_what_was_measured_once_counts_once():
    """Eight runs against one evaluation of the untrained model: its noise does not shrink with runs."""
    rng = np.random.default_rng(11)
    gains = rng.normal(0.1, 0.02, 8)
    design = mean_design(8, "step", "last", "0")
    weights = _weights(design.contrasts["step"])
    once = AnswerNoise(variance=np.full(8, 1e-9), shared=0.03**2)
    found = run_effects(gains, design.matrix, weights, once)
    expected = gains.var(ddof=1) / 8 + 0.03**2
    assert found.errors[0] ** 2 == pytest.approx(expected)
    assert found.t_df[0] == pytest.approx(7 * (expected / (gains.var(ddof=1) / 8)) ** 2)


def test_verdicts_on_checkpoints_rest_on_questions_alone():
    rng = np.random.default_rng(12)
    levels = {"a": ["0", "0", "1", "1"]}
    design = factorial_design(levels, {"a": ["0", "1"]}, {"a": "0"})
    weights = _weights(design.contrasts["a"])
    y = rng.normal(size=(4, 50)) + rng.normal(0, 3, (4, 1))
    found = two_way_effects(y, design.matrix, weights, unit="checkpoint")
    differences = y[2:].mean(axis=0) - y[:2].mean(axis=0)
    expected = stats.ttest_1samp(differences, 0)
    assert (found.effects / found.errors)[0] == pytest.approx(expected.statistic)
    assert (found.df, found.t_df[0]) == (49, 49)
    answers = AnswerNoise(variance=np.full(4, 1e-4), df=36)
    scores = run_effects(y.mean(axis=1), design.matrix, weights, answers, unit="checkpoint")
    assert (scores.errors[0], scores.t_df[0], scores.df) == (pytest.approx(1e-2), 36, 36)


def test_clusters_are_what_is_counted():
    """Copies of questions add nothing, and neither do questions that rise and fall together."""
    rng = np.random.default_rng(13)
    levels = {"a": ["0", "0", "1", "1"] * 2}
    design = factorial_design(levels, {"a": ["0", "1"]}, {"a": "0"})
    weights = _weights(design.contrasts["a"])
    y = rng.normal(size=(8, 12))
    alone = two_way_effects(y, design.matrix, weights)
    copied = two_way_effects(
        np.repeat(y, 5, axis=1), design.matrix, weights, clusters=np.repeat(np.arange(12), 5)
    )
    for name in ("effects", "errors", "question_variance", "interaction_variance", "run_variance", "t_df"):
        assert getattr(copied, name) == pytest.approx(getattr(alone, name)), name
    assert (copied.clusters, copied.questions, copied.df) == (12, 60, alone.df)
    few = two_way_effects(y, design.matrix, weights, clusters=np.arange(12) // 4)
    assert (few.df, few.clusters) == (2, 3)


def test_the_share_of_drawing_answers_is_told():
    """Twelve runs × 400 questions of 4 samples: V_obs is p(1 − p)/K and what runs × questions add."""
    rng = np.random.default_rng(14)
    levels, seeds = _levels()
    design = factorial_design(levels, ORDER, BASE, blocks=seeds)
    p = np.clip(rng.uniform(0.2, 0.8, 400) + rng.normal(0, 0.1, (12, 400)), 0, 1)
    y = rng.binomial(4, p) / 4
    found = two_way_effects(y, design.matrix, _weights(design.contrasts["a"]), samples=4)
    expected = (p * (1 - p)).mean() / 4 * found.leverage[0] / 400
    assert found.sampling_variance[0] == pytest.approx(expected, rel=0.05)
    assert found.interaction_variance[0] == pytest.approx(expected + 0.01 * found.leverage[0] / 400, rel=0.1)
