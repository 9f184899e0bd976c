import math
from dataclasses import replace

import numpy as np
import pytest

from harness.stats.contrasts import Effects
from harness.stats.design import Contrast, factorial_design
from harness.stats.effects import two_way_effects
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
        sampling_variance=np.full(size, math.nan),
        leverage=np.full(size, 4 / runs),
        df=df,
        verdict_df=np.full(size, df),
        run_df=np.full(size, float(df)),
        t_df=np.full(size, float(df)),
        noise=("pooled",) * size,
        runs=runs,
        questions=200,
        clusters=200,
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
                assert j.equivalence_low <= j.effect <= j.equivalence_high
                if len(tests) == 1:
                    assert j.ci_low <= j.equivalence_low


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


def test_equalities_are_controlled_over_their_family():
    """Six levels, each exactly delta from the baseline: any false equality in at most 5 %; one by one in 16 %."""
    rng = np.random.default_rng(3)
    false = single = 0
    for _ in range(150):
        draws = 0.02 + rng.normal(0, 0.006, 6) * 1.0
        tests = [_test(str(i), [d], 0.006, df=1000) for i, d in enumerate(draws)]
        words = [j.verdict for j in judge_primary(tests, VerdictSettings())]
        false += "no meaningful effect" in words
        alone = [judge_primary([t], VerdictSettings())[0].verdict for t in tests]
        single += "no meaningful effect" in alone
    assert false / 150 <= 0.05 + 2.4 * math.sqrt(0.05 * 0.95 / 150)
    assert single / 150 > 0.1


def test_what_is_found_is_told_with_its_correction():
    found = judge_primary([_test("a", [0.05], 0.02)], VerdictSettings())[0]
    assert found.verdict == "works"
    assert 0 <= found.corrected_effect < 0.03, "barely significant: selection explains most of it"
    clear = judge_primary([_test("a", [0.5], 0.02)], VerdictSettings())[0]
    assert clear.corrected_effect == pytest.approx(0.5, rel=1e-3)
    assert math.isnan(judge_primary([_test("a", [0.01], 0.02)], VerdictSettings())[0].corrected_effect)


def test_effects_that_are_not_possible_are_not_promised():
    test = _test("a", [0.01], 0.1)
    near = judge_primary([replace(test, rate=0.8)], VerdictSettings())[0]
    assert near.beyond_possible
    assert math.isnan(near.detectable_effect)
    far = judge_primary([replace(test, rate=0.2)], VerdictSettings())[0]
    assert not far.beyond_possible
    assert far.detectable_effect > judge_primary([test], VerdictSettings())[0].detectable_effect
