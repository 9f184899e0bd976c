from math import comb

import numpy as np
import pytest

from harness.stats.coverage import newly_reached


@pytest.mark.parametrize(("n", "k"), [(2, 1), (8, 7), (8, 3), (16, 4)])
@pytest.mark.parametrize(("before", "after"), [(0.0, 0.3), (0.05, 0.05), (0.3, 0.6), (1.0, 0.5)])
def test_both_parts_are_unbiased(n, k, before, after):
    """By enumeration over everything that n samples of the untrained model may show."""
    expected = np.zeros(2)
    for c in range(n + 1):
        parts = newly_reached([n], [c], [after], k)
        expected += comb(n, c) * before**c * (1 - before) ** (n - c) * np.array([p[0] for p in parts])
    new = (1 - before) ** k * (after - before)
    assert expected == pytest.approx([after - before - new, new], abs=1e-12)


def test_a_second_evaluation_of_the_same_model_gains_nowhere():
    """Splitting by what was seen would show 3 points of progress on questions never answered."""
    rng = np.random.default_rng(0)
    rates = rng.beta(0.3, 1.0, 20_000)
    first, second = rng.binomial(4, rates), rng.binomial(4, rates) / 4
    reached, new = newly_reached(np.full(20_000, 4), first, second, 3)
    assert second[first == 0].sum() / 20_000 > 0.03
    assert new.mean() == pytest.approx(0, abs=3 * new.std() / np.sqrt(20_000))
    assert reached.mean() == pytest.approx(0, abs=3 * reached.std() / np.sqrt(20_000))
    assert reached + new == pytest.approx(second - first / 4)


def test_k_must_leave_a_sample():
    with pytest.raises(ValueError, match="`k` must be between 1 and one less"):
        newly_reached([4], [1], [0.5], 4)
