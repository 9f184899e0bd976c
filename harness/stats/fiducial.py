"""The fiducial distribution of an effect whose variance has a part with few degrees of freedom, as a t."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

FloatArray = npt.NDArray[np.float64]

MOST_DF = 1e6
"""From here on t is normal to every digit shown."""
_NODES = 48
"""Of the quadrature over the variance between runs."""
_LEAST_OF_QUESTIONS = 0.4
"""A fiducial variance is at least this share of V_q. At 1, where runs differ by sampling noise alone, intervals cover
98.5 %; without a floor a contrast of runs that agree by chance would have next to no error."""
_MOST_NEWTON = 50
_LEVELS = (0.05, 0.01)
"""Two-sided levels at which t on t_df with the stated errors has the quantiles of the fiducial distribution."""


def fiducial_t(
    run: FloatArray,
    question: FloatArray,
    both: FloatArray,
    df_run: float,
    df_questions: float,
    known: npt.NDArray[np.bool_],
) -> tuple[FloatArray, float]:
    """Standard errors [M] and degrees of freedom of the t that stands for the fiducial distribution.

    By the generalised pivot (Weerahandi 1993) the variance between runs is w·V_run, with w ~ df/χ²_df. Given w, the
    variance is V(w) = max(w·V_run + max(V_q − V_obs, 0), 2/5 V_q) and the estimate t on the degrees of freedom that
    V_q has in it (Satterthwaite 1946). One t_df serves all contrasts, the least that the ratio of the two quantiles
    of one of them asks for; errors then give each its quantile at the first level.

    Args:
        run: V_run [M].
        question: V_q [M].
        both: V_obs [M].
        df_run: degrees of freedom of V_run.
        df_questions: of the questions, within benchmarks.
        known: contrasts that the runs determine [M]; the others have no say in t_df.

    Returns:
        Errors in the unit of the estimates, and t_df between the least and the greatest of the two; √V and the least
        of the two where one of them is 0.
    """
    least = min(df_run, df_questions)
    scale = np.maximum(run + np.maximum(question - both, 0.0), question)
    usable = known & (scale > 0)
    if least < 1 or not usable.any():
        return np.sqrt(np.maximum(scale, 0.0)), float(max(0, least))
    weights, factors = inverse_chi_square(df_run)
    excess = np.maximum(question - both, 0.0)[usable, None]
    v = np.maximum(factors * run[usable, None] + excess, _LEAST_OF_QUESTIONS * question[usable, None])
    share = np.minimum(question[usable, None] / v, 1.0)
    inner = np.minimum(df_questions / np.maximum(share**2, df_questions / MOST_DF), MOST_DF)
    near, far = (_quantile(level, weights, v, inner) for level in _LEVELS)
    t_df = _df_of_ratio(float((far / near).max()), least, max(df_questions, least))
    errors = np.sqrt(np.maximum(scale, 0.0))
    errors[usable] = near / _t_quantile(_LEVELS[0], t_df)
    return errors, t_df


def _quantile(level: float, weights: FloatArray, variances: FloatArray, df: FloatArray) -> FloatArray:
    """The x [M] that a mixture of t, with variances and df [M, K], exceeds in size with probability `level`.

    By Newton's method, which cannot fail: tails of symmetric unimodal distributions are convex.
    """
    root = np.sqrt(variances)
    height = np.exp(special.gammaln((df + 1) / 2) - special.gammaln(df / 2)) / (np.sqrt(df * math.pi) * root)
    x = np.sqrt(variances @ weights)
    for _ in range(_MOST_NEWTON):
        t = x[:, None] / root
        slope = 2 * (height * (1 + t**2 / df) ** (-(df + 1) / 2)) @ weights
        last, x = x, np.maximum(x + (2 * special.stdtr(df, -t) @ weights - level) / slope, x / 8)
        if (np.abs(x - last) <= 1e-7 * last).all():
            break
    return np.asarray(x)


def _df_of_ratio(ratio: float, least: float, most: float) -> float:
    """Degrees of freedom at which the two levels' quantiles of t have this ratio, within bounds."""

    def of(df: float) -> float:
        return float(_t_quantile(_LEVELS[1], df) / _t_quantile(_LEVELS[0], df))

    if ratio >= of(least):
        return float(least)
    if ratio <= of(most):
        return float(most)
    return float(optimize.brentq(lambda df: of(df) - ratio, least, most, xtol=1e-3))


def _t_quantile(level: float, df: float) -> float:
    """What t exceeds in size with probability `level`; `scipy.stats` takes a hundred times as long."""
    return float(-special.stdtrit(df, level / 2))


@lru_cache(maxsize=4096)
def inverse_chi_square(df: float) -> tuple[FloatArray, FloatArray]:
    """Weights and values [_NODES] of df/χ²_df, by Gauss–Legendre quadrature over the logarithm of χ²."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    low, high = np.log(stats.chi2.ppf([1e-7, 1 - 1e-9], df))
    squares = np.exp((high + low) / 2 + (high - low) / 2 * nodes)
    weights = weights * stats.chi2.pdf(squares, df) * squares
    return weights / weights.sum(), df / squares
