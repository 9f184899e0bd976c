"""Many comparisons at once: Dunnett within an axis, Holm over axes, Benjamini–Hochberg for the rest."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

FloatArray = npt.NDArray[np.float64]

_DIRECTIONS = 4096
"""Directions over which the multivariate t is averaged: errors of probabilities stay below 1e-3."""
_SEED = 20250320
"""Of the quasi-random directions: the same input gives the same digits."""


def dunnett_p(t: npt.ArrayLike, correlation: npt.ArrayLike, df: npt.ArrayLike) -> FloatArray:
    """Two-sided p-values of many-to-one comparisons: P(max |T| ≥ |t|) for T multivariate t (Dunnett 1955).

    scipy's `dunnett` wants the raw samples of a one-way layout; here t comes from a factorial fit.

    Args:
        t: statistics [M]; NaN gives NaN.
        correlation: of the estimates [M, M].
        df: degrees of freedom, at least 1: one number, or each comparison's own [M], as where levels differ in
            spread: then a comparison is held against the multivariate t of its own (Hasler and Hothorn 2008).

    Returns:
        Single-step adjusted p-values [M], between the unadjusted and Bonferroni's.
    """
    values = np.abs(np.asarray(t, dtype=np.float64))
    own = np.broadcast_to(np.asarray(df, dtype=np.float64), values.shape)
    known = np.isfinite(values) | np.isinf(values)
    single = 2 * stats.t.sf(np.where(known, values, 0.0), own)
    count = int(known.sum())
    shape = np.asarray(correlation, dtype=np.float64)[np.ix_(known, known)]
    result = np.full(values.shape, math.nan)
    for i in np.flatnonzero(known):
        joint = (
            single[i] if count == 1 or values[i] in (0, math.inf) else _exceeding(values[i], shape, own[i])
        )
        result[i] = min(1.0, float(np.clip(joint, single[i], count * single[i])))
    return result


def dunnett_critical(correlation: npt.ArrayLike, df: float, alpha: float) -> float:
    """The c with P(max |T| ≥ c) = alpha.

    Args:
        correlation: of the estimates [M, M].
        df: degrees of freedom, at least 1.
        alpha: error rate of the M comparisons together.
    """
    shape = np.asarray(correlation, dtype=np.float64)
    single = float(stats.t.isf(alpha / 2, df))
    count = shape.shape[0]
    if count == 1:
        return single
    bonferroni = float(stats.t.isf(alpha / (2 * count), df))

    def excess(c: float) -> float:
        return _exceeding(c, shape, df) - alpha

    if excess(single) <= 0:
        return single
    if excess(bonferroni) >= 0:
        return bonferroni
    return float(optimize.brentq(excess, single, bonferroni, xtol=1e-4))


def greatest_p(t: npt.ArrayLike, correlation: npt.ArrayLike, df: float, *, two_sided: bool = False) -> float:
    """P(max T ≥ max t), or of their sizes, for T multivariate t: the p-value of a scan over change points.

    Args:
        t: statistics [M], none NaN; positive in the direction of a one-sided alternative.
        correlation: of the estimates [M, M].
        df: degrees of freedom, at least 1.
        two_sided: whether changes in both directions are looked for: the least of `dunnett_p`.
    """
    values = np.asarray(t, dtype=np.float64)
    best = float(np.abs(values).max() if two_sided else values.max())
    if best == math.inf:
        return 0.0
    if best <= 0:
        return 1.0
    single = float(stats.t.sf(best, df)) * (2 if two_sided else 1)
    joint = _exceeding(best, np.asarray(correlation, dtype=np.float64), df, one_sided=not two_sided)
    return float(np.clip(joint, single, min(1.0, len(values) * single)))


def greatest_critical(correlation: npt.ArrayLike, df: float, alpha: float) -> float:
    """The c with one-sided P(max T ≥ c) = alpha.

    Args:
        correlation: of the estimates [M, M].
        df: degrees of freedom, at least 1.
        alpha: error rate of the M comparisons together, below one half.
    """
    shape = np.asarray(correlation, dtype=np.float64)
    single = float(stats.t.isf(alpha, df))
    bonferroni = float(stats.t.isf(alpha / shape.shape[0], df))

    def excess(c: float) -> float:
        return _exceeding(c, shape, df, one_sided=True) - alpha

    if shape.shape[0] == 1 or excess(single) <= 0:
        return single
    if excess(bonferroni) >= 0:
        return bonferroni
    return float(optimize.brentq(excess, single, bonferroni, xtol=1e-4))


def _exceeding(bound: float, correlation: FloatArray, df: float, *, one_sided: bool = False) -> float:
    """P(max |T_i| ≥ bound), or P(max T_i ≥ bound) if one-sided; bound > 0.

    T = (r / s)·Lu with a direction u on the sphere, r² ~ χ²_M and s² ~ χ²_df/df, all independent, so that
    r²/(M s²) ~ F(M, df): given u the probability is F's tail, and only directions are averaged. Smooth and
    increasing in the bound, unlike counts of draws.
    """
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    size = correlation.shape[0]
    along = _directions(size) @ root.T
    reach = np.maximum((along if one_sided else np.abs(along)).max(axis=1), 0.0)
    # A direction along which a singular correlation does not move never exceeds the bound.
    ratio = np.full(len(reach), math.inf)
    np.divide(bound * bound, size * reach * reach, out=ratio, where=reach > 1e-12)
    return float(stats.f.sf(ratio, size, df).mean())


@cache
def _directions(size: int) -> FloatArray:
    """Points spread evenly over the unit sphere [_DIRECTIONS, size]."""
    draws = stats.qmc.MultivariateNormalQMC(np.zeros(size), rng=np.random.default_rng(_SEED)).random(
        _DIRECTIONS
    )
    return np.asarray(draws / np.linalg.norm(draws, axis=1, keepdims=True))


def holm(p: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Holm's step-down adjustment (Holm 1979).

    Args:
        p: p-values of a family; NaN stands outside it.

    Returns:
        Adjusted p-values, and the factor that Holm's step applied to each raw one.
    """
    values = np.asarray(p, dtype=np.float64)
    adjusted, factors = np.full(values.shape, math.nan), np.full(values.shape, math.nan)
    order = [int(i) for i in np.argsort(values, kind="stable") if not math.isnan(values[i])]
    running = 0.0
    for rank, i in enumerate(order):
        factors[i] = len(order) - rank
        running = max(running, min(1.0, factors[i] * values[i]))
        adjusted[i] = running
    return adjusted, factors


def holm_factors(p: npt.ArrayLike, alpha: float) -> FloatArray:
    """The factors by which intervals widen so that they exclude zero exactly where Holm rejects.

    A rejected hypothesis keeps its step's factor; all others get that of the step where Holm stopped.
    """
    adjusted, factors = holm(p)
    kept = adjusted[~np.isnan(adjusted)] >= alpha
    if kept.any():
        stop = float(np.max(factors[~np.isnan(adjusted)][kept]))
        factors = np.where(adjusted >= alpha, stop, factors)
    return factors


def benjamini_hochberg(p: npt.ArrayLike, alpha: float) -> tuple[FloatArray, float]:
    """False-discovery adjustment, and the level of intervals that goes with it.

    Args:
        p: p-values of a family; NaN stands outside it.
        alpha: false-discovery rate.

    Returns:
        Adjusted p-values (Benjamini and Hochberg 1995), and the error rate of each interval, alpha × (number
        found) / (number tested), so that intervals exclude zero where p_adjusted < alpha (Benjamini and
        Yekutieli 2005).
    """
    values = np.asarray(p, dtype=np.float64)
    known = ~np.isnan(values)
    adjusted = np.full(values.shape, math.nan)
    if not known.any():
        return adjusted, alpha
    adjusted[known] = stats.false_discovery_control(values[known], method="bh")
    found = max(1, int((adjusted[known] < alpha).sum()))
    return adjusted, alpha * found / int(known.sum())
