import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.stats.fiducial import fiducial_t

KNOWN = np.array([True])


def _of(run, question, both, df_run, df_questions):
    errors, df = fiducial_t(
        *(np.array([float(v)]) for v in (run, question, both)), df_run, df_questions, KNOWN
    )
    return float(errors[0]), df


@pytest.mark.parametrize("df", [1, 2, 3, 4, 12, 60])
def test_of_runs_alone_it_is_their_t(df):
    assert _of(4.0, 0.0, 0.0, df, 99) == pytest.approx((2.0, df), rel=1e-5)


@pytest.mark.parametrize("questions", [29, 499])
def test_without_noise_between_runs_it_is_the_t_of_questions(questions):
    error, df = _of(0.0, 4.0, 0.0, 4, questions)
    assert (error, df) == (pytest.approx(2.0, rel=1e-5), pytest.approx(questions, rel=1e-3))


@pytest.mark.parametrize(
    "case",
    [(1, 1, 1, 4, 99), (0.3, 1, 0.9, 4, 29), (5, 1, 0.7, 4, 29), (2, 3, 0.5, 12, 499), (1, 2, 0.9, 3, 99)],
)
def test_quantiles_are_those_of_draws(case):
    run, question, both, df_run, df_questions = case
    rng = np.random.default_rng(0)
    v = np.maximum(df_run / rng.chisquare(df_run, 10**6) * run + max(question - both, 0), 0.4 * question)
    draws = np.abs(rng.standard_t(df_questions / np.minimum(question / v, 1) ** 2) * np.sqrt(v))
    error, df = _of(*case)
    for level, off in ((0.1, 0.03), (0.05, 0.01), (0.05 / 3, 0.01), (0.01, 0.01)):
        assert stats.t.isf(level / 2, df) * error == pytest.approx(np.quantile(draws, 1 - level), rel=off)


@given(
    run=st.floats(0, 1e3),
    question=st.floats(1e-6, 1e3),
    share=st.floats(0, 2),
    df_run=st.integers(1, 200),
    df_questions=st.integers(1, 2000),
    scale=st.floats(1e-3, 1e3),
)
def test_it_scales_and_stays_between_its_parts(run, question, share, df_run, df_questions, scale):
    both = share * question
    error, df = _of(run, question, both, df_run, df_questions)
    assert np.isfinite(error)
    assert min(df_run, df_questions) <= df <= max(df_run, df_questions)
    # No narrower than the floor, no wider than both parts with the fewest degrees of freedom.
    reach = stats.t.isf(0.025, df) * error
    assert reach >= 0.999 * stats.norm.isf(0.025) * np.sqrt(0.4 * question)
    assert reach <= 1.001 * stats.t.isf(0.025, min(df_run, df_questions)) * np.sqrt(run + question)
    bigger = _of(run * scale, question * scale, both * scale, df_run, df_questions)
    assert bigger == pytest.approx((error * np.sqrt(scale), df), rel=1e-3)


def test_more_noise_between_runs_widens_intervals():
    reach = [
        (lambda e, df: stats.t.isf(0.025, df) * e)(*_of(r, 1.0, 0.8, 4, 99))
        for r in np.geomspace(0.01, 100, 30)
    ]
    assert (np.diff(reach) >= -1e-6).all()
    assert reach[0] < stats.t.isf(0.025, 99)
