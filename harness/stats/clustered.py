"""Intervals for figures that are means over questions: pass@k, maj@k, lengths."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

from harness.stats.intervals import NOTHING, Interval, accuracy_interval


def share_interval(values: npt.ArrayLike, tries: int, *, level: float = 0.95) -> Interval:
    """Interval for the mean over questions of an estimated probability, such as pass@k or maj@k.

    Args:
        values: estimate per question in [0, 1], [Q].
        tries: how many independent tries of a question the estimate rests on: K // k of pass@k from K samples.
        level: coverage.

    Returns:
        Fractions: `accuracy_interval` of questions with so many tries, of which the share `values` succeeded.
    """
    shares = np.asarray(values, dtype=np.float64)
    return accuracy_interval(np.full(shares.shape, tries), shares * tries, level=level)


def mean_of_questions(values: npt.ArrayLike, *, level: float = 0.95) -> Interval:
    """Student's t interval for the mean over questions of any figure [Q]; no bounds for a single question."""
    figures = np.asarray(values, dtype=np.float64)
    if len(figures) == 0:
        return NOTHING
    mean = float(figures.mean())
    if len(figures) == 1:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf(0.5 + level / 2, len(figures) - 1)) * float(figures.std(ddof=1))
    half /= math.sqrt(len(figures))
    return Interval(mean, mean - half, mean + half)
