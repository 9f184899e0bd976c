import math

import numpy as np
import pytest

from harness.stats.design import Contrast, factorial_design
from harness.stats.effects import Effects, two_way_effects
from harness.stats.verdicts import Test, VerdictSettings, decide, judge_primary, judge_secondary

Test.__test__ = False  # its name is not an invitation to pytest


@pytest.mark.parametrize(
    ("effect", "interval", "equivalence", "verdict"),
    [
        (0.05, (0.01, 0.09), (0.02, 0.08), "works"),
        (-0.05, (-0.09, -0.01), (-0.08, -0.02), "hurts"),
        (0.01, (0.005, 0.015), (0.006, 0.014), "no meaningful effect"),
        (0.00, (-0.03, 0.03), (-0.015, 0.015), "no meaningful effect"),
        (0.01, (0.001, 0.025), (0.002, 0.022), "inconclusive"),
        (0.05, (-0.01, 0.11), (0.0, 0.10), "inconclusive"),
        (0.02, (0.02, 0.02), (0.02, 0.02), "works"),
        (math.nan, (math.nan, math.nan), (math.nan, math.nan), "inconclusive"),
    ],
    ids=[
        "clear gain",
        "clear loss",
        "certain but small",
        "certainly nothing",
        "small, perhaps more",
        "large, perhaps nothing",
        "exactly delta",
        "not determined",
    ],
)
def test_rule(effect, interval, equivalence, verdict):
    assert decide(effect, interval, equivalence, delta=0.02, df=4) == verdict
    assert decide(effect, interval, equivalence, delta=0.02, df=2) == "inconclusive"


def test_less_is_better_where_it_is():
    assert decide(-0.5, (-0.6, -0.4), (-0.6, -0.4), delta=0.05, df=4, better=-1) == "works"


def _effects(effects, error, df=7, runs=8):
    size = len(effects)
    variance = np.full(size, error**2)
    return Effects(
        effects=np.array(effects),
        errors=np.full(size, error),
        correlation=np.full((size, size), 0.5) + 0.5 * np.eye(size),
        run_variance=variance,
        question_variance=np.zeros(size),
        interaction_variance=np.zeros(size),
        leverage=np.full(size, 4 / runs),
        df=df,
        t_df=df,
        runs=runs,
        questions=200,
    )


def _test(axis, effects, error, **more):
    contrasts = tuple(Contrast(str(i + 1), "0", np.ones(1)) for i in range(len(effects)))
    return Test(axis=axis, contrasts=contrasts, effects=_effects(effects, error, **more), delta=0.02)


def test_adjusted_intervals_exclude_zero_exactly_where_adjusted_p_is_below_alpha():
    rng = np.random.default_rng(0)
    for _ in range(25):
        tests = [_test(str(i), rng.normal(0, 0.05, 1 + i % 3).tolist(), 0.015) for i in range(4)]
        for judge in (judge_primary, judge_secondary):
            for j in judge(tests, VerdictSettings()):
                excluded = j.ci_low > 0 or j.ci_high < 0
                assert excluded == (j.p_adjusted < 0.05)
                assert j.p_value <= j.p_adjusted + 1e-12
                assert j.ci_low <= j.equivalence_low <= j.effect <= j.equivalence_high <= j.ci_high


def test_more_axes_make_the_same_evidence_weaker():
    alone = judge_primary([_test("a", [0.05], 0.02)], VerdictSettings())[0]
    among = judge_primary(
        [_test("a", [0.05], 0.02), _test("b", [0.0], 0.02), _test("c", [0.0], 0.02)], VerdictSettings()
    )[0]
    assert alone.verdict == "works"
    assert among.verdict == "inconclusive"
    assert among.p_adjusted == pytest.approx(3 * alone.p_adjusted)
    assert among.detectable_effect > alone.detectable_effect


def test_below_three_degrees_of_freedom_says_what_it_would_take():
    j = judge_primary([_test("a", [0.3], 0.001, df=2, runs=4)], VerdictSettings())[0]
    assert j.verdict == "inconclusive"
    assert j.p_adjusted < 0.05
    assert j.seeds_needed == 2


def test_without_degrees_of_freedom_nothing_is_claimed():
    design = factorial_design({"a": ["0", "1"]}, {"a": ["0", "1"]}, {"a": "0"})
    contrasts = design.contrasts["a"]
    effects = two_way_effects(
        np.array([[0.0, 0.5], [1.0, 1.0]]), design.matrix, [c.weights for c in contrasts]
    )
    j = judge_primary([Test(axis="a", contrasts=contrasts, effects=effects, delta=0.02)], VerdictSettings())[
        0
    ]
    assert j.effect == pytest.approx(0.75)
    assert j.verdict == "inconclusive"
    assert all(math.isnan(v) for v in (j.ci_low, j.ci_high, j.p_adjusted, j.detectable_effect))


def test_runs_without_any_noise():
    same = judge_primary([_test("a", [0.0], 0.0)], VerdictSettings())[0]
    assert same.verdict == "no meaningful effect"
    assert same.p_adjusted == pytest.approx(1)
    apart = judge_primary([_test("a", [0.1], 0.0)], VerdictSettings())[0]
    assert apart.verdict == "works"
    assert apart.p_adjusted == 0


def test_no_tests_no_verdicts():
    assert judge_primary([], VerdictSettings()) == judge_secondary([], VerdictSettings()) == []
