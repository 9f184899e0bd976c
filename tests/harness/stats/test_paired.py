"""The interval rule against brute force, closed forms and simulated noise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from harness.stats.paired import burst_difference, compare, median_interval, student_interval


@pytest.mark.parametrize("n", [1, 2, 5, 6, 7, 9, 12])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_interval_is_the_narrowest_exact_one(n, level):
    """Brute force: every pattern of n values below and above the median is as likely as any other."""
    found = median_interval(np.arange(1, n + 1), level=level)
    below = [sum(signs) for signs in itertools.product((0, 1), repeat=n)]

    def coverage(k):
        """Of (x_k, x_(n+1−k)): at least k values below the median and at least k above."""
        return sum(k <= b <= n - k for b in below) / 2**n

    qualified = [k for k in range(1, n // 2 + 1) if coverage(k) >= level]
    k = max(qualified, default=1)
    assert (found.low, found.high) == (k, n + 1 - k)
    assert found.level == pytest.approx(coverage(k) if n > 1 else 0.0)
    assert found.median == (n + 1) / 2


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = rng.standard_cauchy((4000, 25)) + 0.3
    inside = [i.low <= 0.3 <= i.high for i in (median_interval(row) for row in draws)]
    exact = 1 - 2 * stats.binom.cdf(7, 25, 0.5) + 0.0
    assert median_interval(draws[0]).level == pytest.approx(exact)
    assert np.mean(inside) == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4000))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_students_interval_stands_in_where_values_are_few(n):
    rng = np.random.default_rng(n)
    found = [student_interval(row) for row in rng.normal(0.3, 1.0, (4000, n))]
    assert {i.level for i in found} == {0.95}
    assert np.mean([i.low <= 0.3 <= i.high for i in found]) == pytest.approx(0.95, abs=0.015)
    assert student_interval(np.arange(6.0)) == median_interval(np.arange(6.0))
    assert student_interval([1.0]).level == 0.0


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_what_is_not_finite_is_refused(values):
    with pytest.raises(ValueError, match="`values` must be finite"):
        median_interval(values)


@pytest.mark.parametrize(
    ("shift", "control", "decision"),
    [
        (0.05, 0.0, "worse"),
        (0.02, 0.0, "fine"),
        (-0.3, 0.0, "fine"),
        (0.0249, 0.0, "ambiguous"),
        # The baseline differs from itself by as much: nothing to hold against the candidate.
        (0.05, 0.05, "ambiguous"),
        (0.05, -0.05, "ambiguous"),
        (0.05, 0.08, "fine"),
        (0.12, 0.08, "worse"),
    ],
)
def test_decision(shift, control, decision):
    spread = np.linspace(-0.002, 0.002, 21)
    found = compare(shift + spread, control + spread, floor=0.025)
    assert found.decision == decision
    assert found.ratio == pytest.approx(math.exp(shift))
    assert found.tolerance == pytest.approx(max(0.025, found.noise))
    assert found.noise == pytest.approx(math.expm1(max(abs(control - 0.001), abs(control + 0.001))), abs=1e-3)


def test_noise_above_the_ceiling_passes_nothing_and_still_flags():
    spread = np.linspace(-0.001, 0.001, 21)
    assert compare(0.0 + spread, 0.05 + spread, floor=0.025, ceiling=0.04).decision == "ambiguous"
    assert compare(0.0 + spread, 0.03 + spread, floor=0.025, ceiling=0.04).decision == "fine"
    assert compare(0.2 + spread, 0.05 + spread, floor=0.025, ceiling=0.04).decision == "worse"


def test_a_burst_is_paired_round_by_round_and_forgets_outliers():
    drift = np.array([1.0, 2.0, 0.5, 3.0, 1.5, 1.0, 0.7, 1.1])
    candidate = drift * 1.05
    candidate[2] *= 40  # another process had the core
    candidate[5] /= 3
    assert burst_difference(drift, candidate) == pytest.approx(math.log(1.05))
