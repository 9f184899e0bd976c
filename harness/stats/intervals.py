"""Intervals for one accuracy, and for the difference of two on the same questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its bounds; NaN where there is none."""

    estimate: float
    low: float
    high: float


NOTHING = Interval(math.nan, math.nan, math.nan)


def wilson(successes: float, trials: float, *, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion (Wilson 1927); `trials` may be an effective number.

    Args:
        successes: right answers, fractional where `trials` is effective.
        trials: answers.
        level: coverage.

    Returns:
        Fractions.
    """
    if trials <= 0:
        return NOTHING
    z = float(stats.norm.ppf(0.5 + level / 2))
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    low = 0.0 if p <= 0 else max(0.0, centre - half)
    high = 1.0 if p >= 1 else min(1.0, centre + half)
    return Interval(p, low, high)


def jeffreys(successes: float, trials: float, *, level: float = 0.95) -> Interval:
    """Equal-tailed Beta(½, ½) posterior interval (Brown, Cai and DasGupta 2001, section 4.1.1).

    The bounds are 0 and 1 where no and every answer is right, as that paper advises.
    """
    if trials <= 0:
        return NOTHING
    tail = (1 - level) / 2
    a, b = successes + 0.5, trials - successes + 0.5
    low = 0.0 if successes <= 0 else float(stats.beta.ppf(tail, a, b))
    high = 1.0 if successes >= trials else float(stats.beta.ppf(1 - tail, a, b))
    return Interval(successes / trials, low, high)


def accuracy_interval(samples: npt.ArrayLike, correct: npt.ArrayLike, *, level: float = 0.95) -> Interval:
    """Interval for a benchmark's accuracy that respects clustering of samples by question.

    One sample a question: Wilson's interval. Several: Wilson's interval on the effective number of samples,
    n* = p(1−p) / V · (z / t)², with V the variance of the mean over questions (samples of a question are not
    independent; Miller 2024, arXiv 2411.00640, section 2.2) and t on n_q − 1 degrees of freedom (the modified
    Wilson interval of Franco, Little, Louis and Slud 2019). n* is kept between the number of questions,
    as if a question's samples were copies, and the number of samples, as if they were independent.

    Args:
        samples: K, samples per question [Q].
        correct: right ones among them [Q].
        level: coverage.

    Returns:
        Fractions: the mean over questions of the share of right samples.
    """
    k = np.asarray(samples, dtype=np.float64)
    c = np.asarray(correct, dtype=np.float64)
    asked = k > 0
    k, c = k[asked], c[asked]
    questions = len(k)
    if questions == 0:
        return NOTHING
    share = c / k
    p = float(share.mean())
    if questions < 2 or k.max() == 1:
        return wilson(p * questions, questions, level=level)
    variance = float(share.var(ddof=1)) / questions
    z = float(stats.norm.ppf(0.5 + level / 2))
    t = float(stats.t.ppf(0.5 + level / 2, questions - 1))
    effective = p * (1 - p) / variance * (z / t) ** 2 if variance > 0 else questions
    trials = float(np.clip(effective, questions * (z / t) ** 2, k.sum()))
    inner = wilson(p * trials, trials, level=level)
    return Interval(p, inner.low, inner.high)


def paired_gain(before: npt.ArrayLike, after: npt.ArrayLike, *, level: float = 0.95) -> Interval:
    """Interval for the mean difference of two checkpoints on the same questions.

    It speaks of these two checkpoints and of questions like these, not of what another seed would give.
    The bounds are those of Agresti and Min 2005 (Statistics in Medicine 24:729), which add two
    pseudo-questions, here with differences ±1 of half weight each and 0 of weight one, so that identical
    answers do not give an interval of no width; t on Q − 1 degrees of freedom.

    Args:
        before: share of right samples per question [Q].
        after: the same for the other checkpoint [Q].
        level: coverage.

    Returns:
        Fractions: mean of `after − before`.
    """
    d = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    d = d[np.isfinite(d)]
    if len(d) == 0:
        return NOTHING
    estimate = float(d.mean())
    if len(d) == 1:
        return Interval(estimate, -1.0, 1.0)
    n = len(d) + 2
    centre = float(d.sum()) / n
    variance = (float(d @ d) + 1.0) / n - centre * centre
    half = float(stats.t.ppf(0.5 + level / 2, len(d) - 1)) * math.sqrt(variance / n)
    return Interval(estimate, max(-1.0, min(centre - half, estimate)), min(1.0, max(centre + half, estimate)))


def mean_interval(parts: Sequence[Interval]) -> Interval:
    """Interval for the mean of independent estimates, such as accuracies of several benchmarks.

    Distances from the estimates to their bounds add in squares, each side by itself, which keeps the
    asymmetry of Wilson's interval (MOVER, Zou and Donner 2008).
    """
    if not parts:
        return NOTHING
    estimate = sum(p.estimate for p in parts) / len(parts)
    below = math.sqrt(sum((p.estimate - p.low) ** 2 for p in parts)) / len(parts)
    above = math.sqrt(sum((p.high - p.estimate) ** 2 for p in parts)) / len(parts)
    return Interval(estimate, estimate - below, estimate + above)


def difference_interval(
    before: tuple[float, float], after: tuple[float, float], *, level: float = 0.95
) -> Interval:
    """Interval for the difference of two independent proportions, `after − before`.

    Newcombe's hybrid score interval (Newcombe 1998, Statistics in Medicine 17:873, method 10).

    Args:
        before, after: right answers and answers.
        level: coverage.
    """
    a, b = wilson(*before, level=level), wilson(*after, level=level)
    estimate = b.estimate - a.estimate
    low = math.hypot(b.estimate - b.low, a.high - a.estimate)
    high = math.hypot(b.high - b.estimate, a.estimate - a.low)
    return Interval(estimate, estimate - low, estimate + high)
