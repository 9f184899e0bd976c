"""What an effect would be after correction for having been reported because it was significant (type M)."""

from __future__ import annotations

import math

from scipy import optimize, special

_MOST_DF = 2000.0


def corrected_effect(effect: float, standard_error: float, df: float, critical: float, least: float) -> float:
    """The median-unbiased estimate of an effect, given that it was found.

    Of small studies those are seen that overestimate: an effect of one standard error is significant only where it is
    estimated at two or more (Gelman and Carlin 2014, type M error). The corrected effect θ is the one for which half
    of the significant estimates are larger than this one: P(T ≥ t | |T| ≥ c) = ½ for the non-central T about θ, the
    median-unbiased estimate under truncation.

    Args:
        effect: estimate.
        standard_error: of it.
        df: degrees of freedom of t.
        critical: of |t| for significance.
        least: size from which an effect counts as found, in the unit of `effect`.

    Returns:
        Of the sign of `effect`, no larger, down to zero; NaN where the effect was not found.
    """
    if not (math.isfinite(effect) and math.isfinite(standard_error) and df >= 1):
        return math.nan
    if standard_error <= 0:
        return effect if abs(effect) >= least else math.nan
    t, threshold = abs(effect) / standard_error, max(critical, least / standard_error)
    if t < threshold:
        return math.nan

    def above(x: float, centre: float) -> float:
        return float(1 - special.nctdtr(min(df, _MOST_DF), centre, x))

    def excess(centre: float) -> float:
        found = above(threshold, centre) + float(special.nctdtr(min(df, _MOST_DF), centre, -threshold))
        return above(t, centre) / found - 0.5 if found > 0 else -0.5

    if excess(0.0) >= 0:
        return 0.0
    # Far above the threshold selection matters no more, and tails are beyond the precision of the distribution.
    centre = t if excess(t) < 0 else float(optimize.brentq(excess, 0.0, t, xtol=1e-6))
    return math.copysign(min(centre, t) * standard_error, effect)
