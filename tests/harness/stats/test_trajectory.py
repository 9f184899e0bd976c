import numpy as np
import pytest
from scipy import stats

from harness.stats.multiplicity import dunnett_critical, dunnett_p, greatest_critical, greatest_p
from harness.stats.trajectory import (
    curve_of_one_run,
    curve_of_one_run_scores,
    curve_of_run_scores,
    curve_of_runs,
    read_trajectory,
    splits,
)

RULES = {"alpha": 0.05, "power": 0.8, "delta": 0.02}


def _published(percent, questions=500):
    y = np.array(percent) / 100
    p = float(y.mean())
    curve = curve_of_one_run_scores(y, np.full(len(y), p * (1 - p) / questions), questions)
    return read_trajectory(curve, range(100, 100 * len(y) + 1, 100), **RULES)


def test_scan_statistic_against_brute_force():
    """Experiment 1 of Open-RS on MATH-500: the p-value of the scan by drawing flat curves."""
    y = np.array([83.8, 79.8, 75.6, 82.0, 79.8]) / 100
    found = _published(100 * y)
    contrasts = splits(5)
    scale = np.linalg.norm(contrasts, axis=1)
    noise = np.sqrt(y.mean() * (1 - y.mean()) / 500)
    observed = (-(contrasts @ y) / (scale * noise)).max()
    draws = np.random.default_rng(0).standard_normal((200_000, 5))
    brute = ((-(draws @ contrasts.T) / scale).max(axis=1) >= observed).mean()
    assert found.p_value == pytest.approx(brute, abs=0.002)
    assert (found.peak, found.change, found.verdict) == (100, 100, "hurts")
    assert found.effect == pytest.approx(np.mean([79.8, 75.6, 82.0, 79.8]) / 100 - 0.838)
    assert (found.ci_high < 0) == (found.p_value < 0.05)


def test_one_sided_maximum_of_independent_and_of_one():
    assert greatest_p([1.7], np.eye(1), 9) == pytest.approx(stats.t.sf(1.7, 9))
    assert greatest_p([1.7, 0.2, -1.0], np.eye(3), 10**6) == pytest.approx(
        1 - stats.norm.cdf(1.7) ** 3, abs=1e-3
    )
    assert greatest_p([-0.4, -2.0], np.eye(2), 9) == 1.0
    shape = np.full((3, 3), 0.5) + 0.5 * np.eye(3)
    critical = greatest_critical(shape, 12, 0.05)
    assert greatest_p([critical, 0, 0], shape, 12) == pytest.approx(0.05, abs=1e-3)
    assert critical < dunnett_critical(shape, 12, 0.05)


def test_a_rise_before_the_peak_does_not_hide_the_decline():
    rng = np.random.default_rng(1)
    ease = rng.normal(0, 1.5, 400)
    shape = np.array([0.0, 0.5, 1.0, 1.0, 0.4, 0.4])
    p = 1 / (1 + np.exp(-(ease + shape[:, None] + rng.normal(0, 0.03, (6, 6, 1)))))
    found = read_trajectory(curve_of_runs(rng.binomial(8, p) / 8), [10, 20, 30, 40, 50, 60], **RULES)
    assert found.rise_to in (20, 30)
    assert found.peak in (30, 40)
    assert (found.change, found.verdict) == (40, "hurts")
    assert found.change_low <= 40 <= found.change_high
    assert found.df == 5


def test_a_rise_alone_and_a_flat_curve_do_not_degrade():
    rng = np.random.default_rng(2)
    ease = rng.normal(0, 1.5, 600)
    for shape in ([0, 0.3, 0.6, 0.9], [0, 0, 0, 0]):
        p = 1 / (1 + np.exp(-(ease + np.array(shape)[:, None] + rng.normal(0, 0.02, (8, 4, 1)))))
        found = read_trajectory(curve_of_runs(rng.binomial(16, p) / 16), [1, 2, 3, 4], **RULES)
        assert found.verdict == "no meaningful effect", shape


def test_question_pairs_of_one_run_are_a_paired_t_test():
    rng = np.random.default_rng(3)
    y = rng.binomial(4, [[0.6] * 80, [0.4] * 80]) / 4
    found = read_trajectory(curve_of_one_run(y), [5, 9], **RULES)
    reference = stats.ttest_rel(y[1], y[0], alternative="less")
    assert found.p_value == pytest.approx(reference.pvalue, rel=1e-6)
    assert found.df == 79


def test_the_set_of_a_change_holds_all_steps_where_no_single_change_fits():
    noise = np.full(6, 1e-6)
    for shape, expected in (
        ([0.6, 0.6, 0.6, 0.4, 0.4, 0.4], (3, 3)),
        ([0.6, 0.6, 0.5, 0.5, 0.4, 0.4], (1, 5)),
    ):
        found = read_trajectory(curve_of_one_run_scores(shape, noise, 500), range(1, 7), **RULES)
        assert found.verdict == "hurts"
        assert (found.change_low, found.change_high) == expected


def test_two_sided_scan_is_dunnetts():
    shape = np.full((3, 3), 0.5) + 0.5 * np.eye(3)
    t = [1.2, -2.4, 0.3]
    assert greatest_p(t, shape, 12, two_sided=True) == pytest.approx(dunnett_p(t, shape, 12).min())


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_curves_of_answers_all_alike_do_not_show_that_nothing_declines(share):
    for curve in (
        curve_of_runs(np.full((6, 3, 10), share)),
        curve_of_one_run(np.full((3, 30), share)),
        curve_of_one_run(np.full((3, 60), share), np.repeat([0, 1], 30)),
    ):
        found = read_trajectory(curve, [1, 2, 3], **RULES)
        assert (found.effect, found.verdict) == (pytest.approx(0), "inconclusive")
        assert found.ci_low < -0.02
    many = read_trajectory(curve_of_one_run(np.full((3, 500), share)), [1, 2, 3], **RULES)
    assert many.verdict == "no meaningful effect"


def test_runs_known_by_accuracy_alone():
    accuracy = np.array([[0.60, 0.64, 0.50], [0.61, 0.66, 0.53], [0.58, 0.63, 0.50], [0.62, 0.65, 0.52]])
    found = read_trajectory(curve_of_run_scores(accuracy, np.full((4, 3), 1e-5)), [1, 2, 3], **RULES)
    assert (found.df, found.peak, found.verdict) == (3, 2, "hurts")
    two = read_trajectory(curve_of_run_scores(accuracy[:2], np.full((2, 3), 1e-5)), [1, 2, 3], **RULES)
    assert (two.df, two.verdict) == (1, "inconclusive"), "never a verdict below three degrees of freedom"
    one = read_trajectory(curve_of_run_scores(accuracy[:1], np.full((1, 3), 1e-5)), [1, 2, 3], **RULES)
    assert (one.df, one.verdict) == (0, "inconclusive")
    assert np.isnan(one.p_value)
