import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.stats.selection import corrected_effect


@pytest.mark.parametrize(("truth", "df"), [(2.0, 5), (3.0, 7), (3.0, 40)])
def test_half_of_what_is_found_is_corrected_to_less_than_the_truth(truth, df):
    """Of effects that are found, estimates are too large nearly always; corrected ones half of the time."""
    rng = np.random.default_rng(int(10 * truth) + df)
    errors = np.sqrt(rng.chisquare(df, 6000) / df)
    estimates = truth + rng.normal(size=6000)
    critical = stats.t.isf(0.025, df)
    found = estimates / errors > critical
    corrected = [
        corrected_effect(e, s, df, critical, 0.0)
        for e, s in zip(estimates[found][:1200], errors[found][:1200])
    ]
    # t about an effect in estimated errors is not quite non-central t about a fixed one: a tenth of leeway.
    assert np.mean(np.array(corrected) > truth) == pytest.approx(0.5, abs=0.1)
    assert np.mean(estimates[found] > truth) > np.mean(np.array(corrected) > truth)


@given(st.floats(0.0, 50.0), st.floats(1.0, 500.0), st.floats(1.5, 6.0), st.floats(0.0, 5.0))
def test_it_only_shrinks_and_keeps_the_sign(t, df, critical, least):
    found = corrected_effect(t, 1.0, df, critical, least)
    if t < max(critical, least):
        assert math.isnan(found)
    else:
        assert 0 <= found <= t
        assert corrected_effect(-t, 1.0, df, critical, least) == pytest.approx(-found)
        assert corrected_effect(3 * t, 3.0, df, critical, 3 * least) == pytest.approx(3 * found, abs=1e-4)


def test_clear_effects_stay():
    assert corrected_effect(0.2, 0.01, 12, 2.2, 0.02) == pytest.approx(0.2, rel=1e-3)
    assert corrected_effect(0.2, 0.0, 12, 2.2, 0.02) == 0.2
    assert corrected_effect(0.0221, 0.01, 12, 2.2, 0.0) < 0.002
