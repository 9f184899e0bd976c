import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from harness.stats.selection import corrected_effect


@pytest.mark.parametrize(("truth", "df"), [(2.0, 5), (3.0, 7), (3.0, 40)])
def test_half_of_what_is_found_is_corrected_to_less_than_the_truth(truth, df):
    """Of effects that are found, in standard errors, most estimates are too large; of corrected ones half are."""
    rng = np.random.default_rng(int(10 * truth) + df)
    t = (truth + rng.normal(size=6000)) / np.sqrt(rng.chisquare(df, 6000) / df)
    critical = stats.t.isf(0.025, df)
    found = t[t > critical][:1500]
    corrected = np.array([corrected_effect(v, 1.0, df, critical, 0.0) for v in found])
    assert np.mean(corrected > truth) == pytest.approx(0.5, abs=3 * 0.5 / np.sqrt(len(found)))
    assert np.mean(found > truth) > 0.6


@given(st.floats(0.0, 50.0), st.floats(1.0, 500.0), st.floats(1.5, 6.0), st.floats(0.0, 5.0))
def test_it_only_shrinks_and_keeps_the_sign(t, df, critical, least):
    assume(abs(t - max(critical, least)) > 1e-6)
    found = corrected_effect(t, 1.0, df, critical, least)
    if t < max(critical, least):
        assert math.isnan(found)
    else:
        assert 0 <= found <= t
        assert corrected_effect(-t, 1.0, df, critical, least) == pytest.approx(-found)
        assert corrected_effect(3 * t, 3.0, df, critical, 3 * least) == pytest.approx(
            3 * found, rel=0.01, abs=1e-4
        )


def test_clear_effects_stay():
    assert corrected_effect(0.2, 0.01, 12, 2.2, 0.02) == pytest.approx(0.2, rel=1e-3)
    assert corrected_effect(0.2, 0.0, 12, 2.2, 0.02) == 0.2
    assert corrected_effect(0.0221, 0.01, 12, 2.2, 0.0) < 0.002
