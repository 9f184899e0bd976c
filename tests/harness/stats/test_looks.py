import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.stats.looks import UNDECLARED_SHARE, Looks, nominal_levels, spent


def test_bounds_of_four_equal_looks_are_the_published_ones():
    """Two-sided O'Brien–Fleming-type spending at 5 %: Proschan, Lan and Wittes 2006, table 5.2."""
    information = [0.25, 0.5, 0.75, 1.0]
    goals = np.diff([0.0, *(spent(t, 0.05) for t in information)]).tolist()
    bounds = [-stats.norm.ppf(level / 2) for level in nominal_levels(information, goals)]
    assert bounds == pytest.approx([4.333, 2.963, 2.359, 2.014], abs=2e-3)


def test_crossing_by_simulation():
    information, goals = [2.0, 3.0, 7.0], [0.02, 0.02, 0.02]
    levels = nominal_levels(information, goals)
    steps = np.random.default_rng(0).normal(size=(400_000, 3)) * np.sqrt(np.diff([0, *information]))
    z = np.abs(steps.cumsum(axis=1) / np.sqrt(information))
    crossed = z > stats.norm.isf(np.array(levels) / 2)
    first = np.where(crossed.any(axis=1), crossed.argmax(axis=1), -1)
    assert [np.mean(first == k) for k in range(3)] == pytest.approx(goals, abs=1e-3)


def test_a_single_look_has_all_of_alpha():
    assert Looks(alpha=0.05, information=(8,)).level == pytest.approx(0.05)
    assert Looks(alpha=0.05, information=(8,), declared=(8,)).level == pytest.approx(0.05)
    assert Looks(alpha=0.05, information=(8,), declared=(8,)).left == 0


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8, unique=True), st.floats(0.01, 0.1))
def test_what_is_spent_and_what_is_left_add_up(information, alpha):
    information = tuple(sorted(information))
    open_end = Looks(alpha=alpha, information=information)
    goals = open_end._goals()
    assert sum(goals) + open_end.left == pytest.approx(alpha * (1 + UNDECLARED_SHARE))
    declared = Looks(alpha=alpha, information=information, declared=information)
    assert sum(declared._goals()) == pytest.approx(alpha)
    assert all(0 <= level <= alpha + 1e-9 for level in (open_end.level, declared.level))


def test_beyond_the_declared_looks_nothing_is_left():
    late = Looks(alpha=0.05, information=(4, 8, 12), declared=(4, 8))
    assert (late.level, late.left) == (0.0, 0.0)
    with pytest.raises(ValueError, match="must increase"):
        nominal_levels([2, 2], [0.01, 0.01])


@pytest.mark.parametrize("declared", [(), tuple(range(3, 11))])
def test_adding_seeds_until_a_verdict_keeps_its_rate(declared):
    """Two levels, 3 to 10 seeds, a look at each, stopping at the first that is significant: 14 % at 5 % each."""
    rng = np.random.default_rng(1)
    y = rng.normal(size=(20_000, 2, 10))
    false = np.zeros(len(y), dtype=bool)
    for n in range(3, 11):
        level = Looks(alpha=0.05, information=tuple(range(3, n + 1)), declared=declared).level
        t = stats.ttest_ind(y[:, 1, :n], y[:, 0, :n], axis=1)
        false |= t.pvalue < level
    assert false.mean() <= 0.055 + 2.4 * math.sqrt(0.06 * 0.94 / len(y))
