from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.stats.contrasts import solve
from harness.stats.design import factorial_design
from harness.stats.effects import run_effects, two_way_effects
from harness.stats.multiplicity import dunnett_p
from harness.stats.run_noise import methods, partition


def _one_way(counts):
    levels = [str(i) for i, n in enumerate(counts) for _ in range(n)]
    order = {"a": [str(i) for i in range(len(counts))]}
    design = factorial_design({"a": levels}, order, {"a": "0"})
    return design.matrix, np.array([c.weights for c in design.contrasts["a"]]), levels


@pytest.mark.parametrize("counts", [(4, 4, 4), (5, 3, 4), (3, 9, 5, 3), (4, 20)])
def test_in_a_one_way_layout_it_is_welch(counts):
    matrix, weights, levels = _one_way(counts)
    rng = np.random.default_rng(sum(counts))
    y = np.concatenate([rng.normal(i, 1 + 3 * i, n) for i, n in enumerate(counts)])
    found = run_effects(y, matrix, weights, levels=levels)
    parts = np.split(y, np.cumsum(counts)[:-1])
    for m, part in enumerate(parts[1:]):
        welch = stats.ttest_ind(part, parts[0], equal_var=False)
        assert found.noise[m] == "by level"
        # The reference is found by quadrature, to five digits.
        assert found.effects[m] / found.errors[m] == pytest.approx(welch.statistic, rel=1e-5)
        assert found.t_df[m] == pytest.approx(welch.df, rel=1e-5)
        p = 2 * stats.t.sf(abs(found.effects[m] / found.errors[m]), found.t_df[m])
        assert p == pytest.approx(welch.pvalue, rel=1e-3, abs=1e-9)


def test_two_levels_of_equal_weight_are_pooled_whatever_their_spread():
    matrix, weights, levels = _one_way((4, 4))
    y = np.array([0.0, 0.1, -0.1, 0.05, 3.0, -3.0, 9.0, 1.0])
    found = run_effects(y, matrix, weights, levels=levels)
    assert found.noise == ("pooled",)
    assert found.errors[0] == pytest.approx(run_effects(y, matrix, weights).errors[0])
    welch = stats.ttest_ind(y[4:], y[:4], equal_var=False)
    assert found.effects[0] / found.errors[0] == pytest.approx(welch.statistic)


@pytest.mark.parametrize(
    ("counts", "method", "verdict_df"),
    [
        ((2,) * 6, "both", 6),
        ((3,) * 6, "by level", 4),
        ((1, 5), "pooled", 4),
        ((1, 3, 3), "pooled", 4),
        ((3, 6), "pooled", 7),
        ((3, 7), "by level", 3),
    ],
)
def test_the_rule_knows_the_design_alone(counts, method, verdict_df):
    matrix, weights, levels = _one_way(counts)
    for seed in range(3):
        y = np.random.default_rng(seed).normal(size=sum(counts)) * (1 + 5 * seed)
        found = run_effects(y, matrix, weights, levels=levels)
        assert set(found.noise) == {method}
        assert set(found.verdict_df.tolist()) == {verdict_df}


def test_with_too_few_runs_the_more_careful_interval_holds():
    matrix, weights, levels = _one_way((2,) * 6)
    rng = np.random.default_rng(4)
    for _ in range(20):
        y = rng.normal(size=12)
        both, pooled = (run_effects(y, matrix, weights, levels=given) for given in (levels, ()))
        reach = [stats.t.isf(0.005, e.t_df) * e.errors for e in (both, pooled)]
        assert (reach[0] >= reach[1] * (1 - 1e-6)).all()


def test_an_unstable_level_leaves_the_others_alone():
    """Six levels × 3 seeds, one of them with six times the others' spread: their contrasts do not widen with it."""
    matrix, weights, levels = _one_way((3,) * 6)
    rng = np.random.default_rng(5)
    y = rng.normal(size=18)
    calm = run_effects(y, matrix, weights, levels=levels)
    y[9:12] += np.array([-20.0, 20.0, 0.0])
    wild = run_effects(y, matrix, weights, levels=levels)
    others = [0, 1, 3, 4]
    assert wild.errors[others] == pytest.approx(calm.errors[others])
    assert wild.errors[2] > 5 * calm.errors[2]


def test_residuals_of_a_factorial_design_are_traced_exactly():
    """Degrees of freedom of equal levels are 2·E²/Var of the estimated variance, found by simulation."""
    cells = list(product("01", "012", "01"))
    order = {"a": ["0", "1"], "b": ["0", "1", "2"]}
    levels = {"a": [c[0] for c in cells], "b": [c[1] for c in cells]}
    design = factorial_design(levels, order, {"a": "0", "b": "0"}, blocks=[c[2] for c in cells])
    weights = np.array([c.weights for c in design.contrasts["b"]])
    inverse, per_run, _, _ = solve(design.matrix, weights)
    parts = partition(design.matrix, inverse, per_run, levels["b"])
    (method, df), _ = methods(parts)
    y = np.random.default_rng(6).normal(size=(40_000, 12))
    residual = y @ parts.residual_maker
    spread = (residual**2) @ parts.members.T / parts.df
    variance = spread @ parts.shares()[0]
    assert method == "by level"
    assert variance.mean() == pytest.approx((per_run[0] ** 2).sum(), rel=0.01)
    assert df == pytest.approx(2 * variance.mean() ** 2 / variance.var(), rel=0.03)


@given(st.permutations(range(12)), st.integers(0, 100))
def test_no_answer_depends_on_the_order_of_runs(order, seed):
    matrix, weights, levels = _one_way((3,) * 4)
    y = np.random.default_rng(seed).normal(size=(12, 20))
    one = two_way_effects(y, matrix, weights, levels=levels)
    other = two_way_effects(y[order], matrix[order], weights, levels=[levels[i] for i in order])
    for name in ("effects", "errors", "t_df"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-6), name


def test_each_comparison_is_held_against_its_own_t():
    shape = np.full((2, 2), 0.5) + 0.5 * np.eye(2)
    own = dunnett_p([2.5, 2.5], shape, [3.0, 30.0])
    assert own == pytest.approx([dunnett_p([2.5, 2.5], shape, df)[0] for df in (3.0, 30.0)])
