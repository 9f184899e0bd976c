"""Paired comparison of two versions on a noisy machine: is the one slower than the other by more than a tolerance?

Each pair is the logarithm of candidate over baseline, measured side by side. Medians, because a shared machine throws
outliers of any size; exact order-statistic intervals, because nothing is known about the noise but that pairs are
alike and independent; a tolerance from pairs of the baseline with itself, because the noise of a process as a whole
(its memory layout, say) is in no interval over pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

Decision = Literal["worse", "fine", "ambiguous"]


@dataclass(frozen=True)
class MedianInterval:
    """A median with an exact interval.

    Attributes:
        median: estimate.
        low, high: order statistics.
        level: coverage, at least what was asked for unless there are too few values, exact for continuous noise.
        count: values.
    """

    median: float
    low: float
    high: float
    level: float
    count: int


def median_interval(values: npt.ArrayLike, *, level: float = 0.95) -> MedianInterval:
    """Distribution-free interval for a median (Conover 1999, section 3.2).

    The k-th smallest and the k-th largest value, with the largest k for which 1 − 2·P(Bin(n, ½) < k) ≥ level; the
    smallest and the largest value where even these fall short.

    Args:
        values: independent draws [n].
        level: coverage wanted.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    n = len(x)
    if n == 0 or not np.isfinite(x).all():
        raise ValueError(f"`values` must be finite and at least one, got {n}")
    k = max(1, int(stats.binom.ppf((1 - level) / 2, n, 0.5)))
    # ppf gives the smallest k with P(Bin ≤ k) ≥ tail, so P(Bin < k) < tail: k is the largest that qualifies.
    covered = 1 - 2 * float(stats.binom.cdf(k - 1, n, 0.5))
    return MedianInterval(float(np.median(x)), float(x[k - 1]), float(x[n - k]), max(0.0, covered), n)


def student_interval(values: npt.ArrayLike, *, level: float = 0.95) -> MedianInterval:
    """`median_interval`; of two values or more that are too few for it, Student's interval for the mean instead.

    The extremes of five values cover their median with 93.75 % at most. That the noise is normal is assumed then:
    otherwise so few values could decide nothing.
    """
    found = median_interval(values, level=level)
    if found.level >= level or found.count < 2:
        return found
    x = np.asarray(values, dtype=np.float64)
    mean = float(x.mean())
    half = float(stats.t.ppf((1 + level) / 2, len(x) - 1) * stats.sem(x))
    return MedianInterval(mean, mean - half, mean + half, level, len(x))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What pairs say.

    Attributes:
        decision: `worse` by more than the tolerance, `fine`, or `ambiguous`.
        ratio: candidate over baseline.
        low, high: interval of the ratio.
        tolerance: largest ratio − 1 that passes.
        noise: what pairs of the baseline with itself do not exclude, as ratio − 1.
        level: coverage of the interval.
        pairs: pairs used.
    """

    decision: Decision
    ratio: float
    low: float
    high: float
    tolerance: float
    noise: float
    level: float
    pairs: int


def compare(
    differences: npt.ArrayLike,
    control: npt.ArrayLike = (),
    *,
    floor: float,
    level: float = 0.95,
    ceiling: float = math.inf,
    interval: Callable[..., MedianInterval] = median_interval,
) -> Comparison:
    """The interval rule.

    The tolerance τ is `floor`, or the bound of the interval for pairs of the baseline with itself that is farther
    from zero, if that is more: a difference that two copies of the same code may show is not held against the
    candidate. `worse` iff the lower bound of the median difference exceeds log(1 + τ), `fine` iff the upper bound is
    below it and τ is at most `ceiling`.

    Args:
        differences: log(candidate / baseline) of each pair [n]; more is worse.
        control: log(baseline / baseline) of each pair [m]; empty where there is none.
        floor: least tolerance, as ratio − 1.
        level: coverage of the intervals.
        ceiling: a tolerance above this, as ratio − 1, passes nothing: noise must not hide what is looked for.
        interval: `median_interval`, or `student_interval` where there may be few pairs.
    """
    found = interval(differences, level=level)
    noise = 0.0
    if np.size(control):
        own = interval(control, level=level)
        noise = math.expm1(max(abs(own.low), abs(own.high)))
    tolerance = max(floor, noise)
    threshold = math.log1p(tolerance)
    decision: Decision = "ambiguous"
    if found.low > threshold:
        decision = "worse"
    elif found.high < threshold and tolerance <= ceiling:
        decision = "fine"
    return Comparison(
        decision=decision,
        ratio=math.exp(found.median),
        low=math.exp(found.low),
        high=math.exp(found.high),
        tolerance=tolerance,
        noise=noise,
        level=found.level,
        pairs=found.count,
    )


def burst_difference(baseline: npt.ArrayLike, candidate: npt.ArrayLike) -> float:
    """log(candidate / baseline) of one burst of turns.

    Turns that follow each other within milliseconds share the machine's mood: each turn of the one is held against
    the other's of the same round, and a burst of rounds, which are not independent of each other, gives one pair,
    their mean without a quarter at each end.

    Args:
        baseline: seconds by round [T].
        candidate: the same rounds [T].
    """
    ratios = np.log(np.asarray(candidate, dtype=np.float64)) - np.log(np.asarray(baseline, dtype=np.float64))
    return float(stats.trim_mean(ratios, 0.25))
