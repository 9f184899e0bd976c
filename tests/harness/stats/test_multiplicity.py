import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from harness.stats.multiplicity import benjamini_hochberg, dunnett_critical, dunnett_p, holm, holm_factors

P_VALUES = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=8)


@settings(max_examples=30)
@given(P_VALUES)
def test_holm_and_benjamini_hochberg_agree_with_statsmodels(p):
    assert holm(p)[0] == pytest.approx(multipletests(p, method="holm")[1])
    assert benjamini_hochberg(p, 0.05)[0] == pytest.approx(multipletests(p, method="fdr_bh")[1])


@given(P_VALUES)
def test_interval_levels_agree_with_adjusted_p_values(p):
    adjusted, _ = holm(p)
    factors = holm_factors(p, 0.05)
    assert [x < 0.05 / f for x, f in zip(p, factors)] == [bool(a < 0.05) for a in adjusted]
    adjusted, rate = benjamini_hochberg(p, 0.05)
    # Equality of floats at the boundary is not the point here.
    near = [abs(a - 0.05) < 1e-9 for a in adjusted]
    assert all(n or (x <= rate) == (a < 0.05) for x, a, n in zip(p, adjusted, near))


def test_what_has_no_p_value_stands_outside_the_family():
    adjusted, factors = holm([0.01, math.nan, 0.02])
    assert adjusted[[0, 2]] == pytest.approx([0.02, 0.02])
    assert math.isnan(adjusted[1])
    assert math.isnan(factors[1])
    assert benjamini_hochberg([math.nan], 0.05)[1] == 0.05


def test_dunnett_agrees_with_scipy_in_a_one_way_layout():
    rng = np.random.default_rng(0)
    groups = [rng.normal(mean, 1, 6) for mean in (0, 0.8, 1.5, -0.3)]
    control, *others = groups
    pooled = math.sqrt(np.mean([g.var(ddof=1) for g in groups]) * 2 / 6)
    t = [(g.mean() - control.mean()) / pooled for g in others]
    shape = np.full((3, 3), 0.5) + 0.5 * np.eye(3)
    expected = stats.dunnett(*others, control=control, rng=np.random.default_rng(1)).pvalue
    assert dunnett_p(t, shape, 20) == pytest.approx(expected, abs=2e-3)


def test_dunnett_critical_value_is_the_tabulated_one():
    shape = np.full((3, 3), 0.5) + 0.5 * np.eye(3)
    # Dunnett 1964, table for two-sided comparisons of three treatments, alpha 0.05, 20 degrees of freedom.
    assert dunnett_critical(shape, 20, 0.05) == pytest.approx(2.54, abs=0.005)
    assert dunnett_critical(np.eye(1), 7, 0.05) == pytest.approx(stats.t.isf(0.025, 7))


@pytest.mark.parametrize("rho", [-1.0, 0.0, 1.0])
def test_extreme_correlations_stay_between_unadjusted_and_bonferroni(rho):
    shape = np.array([[1.0, rho], [rho, 1.0]])
    single = 2 * stats.t.sf(2.5, 5)
    p = dunnett_p([2.5, -2.5], shape, 5)
    assert ((p >= single - 1e-12) & (p <= 2 * single + 1e-12)).all()
    assert stats.t.isf(0.025, 5) <= dunnett_critical(shape, 5, 0.05) <= stats.t.isf(0.0125, 5)


def test_perfectly_correlated_comparisons_are_one_comparison():
    assert dunnett_p([2.5, 2.5], np.ones((2, 2)), 5) == pytest.approx(2 * stats.t.sf(2.5, 5), rel=1e-3)
    assert dunnett_critical(np.ones((2, 2)), 5, 0.05) == pytest.approx(stats.t.isf(0.025, 5), rel=1e-3)


def test_effects_without_noise_or_without_estimate():
    p = dunnett_p([np.inf, 0.0, math.nan], np.eye(3), 4)
    assert p[0] == 0
    assert p[1] == pytest.approx(1)
    assert math.isnan(p[2])
