"""Training length seen as a curve: where accuracy peaks, whether it degrades afterwards, and from where on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from harness.stats.effects import AnswerNoise, run_effects, two_way_effects
from harness.stats.multiplicity import greatest_critical, greatest_p
from harness.stats.question_noise import question_covariance
from harness.stats.verdicts import MIN_DF, VerdictWord

FloatArray = npt.NDArray[np.float64]

_CHANGE_LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """Contrasts of a curve's checkpoints.

    Attributes:
        effects: [M].
        errors: standard errors [M]; NaN where df is 0.
        correlation: [M, M].
        df: that decides whether a verdict is given.
        t_df: of t.
    """

    effects: FloatArray
    errors: FloatArray
    correlation: FloatArray
    df: int
    t_df: float


Curve = Callable[[FloatArray], Estimate]
"""From contrasts over checkpoints [M, T] to their estimates."""


def curve_of_runs(y: npt.ArrayLike, strata: npt.ArrayLike | None = None) -> Curve:
    """The mean curve of several runs over the same questions, two-way uncertainty, df = min(R, …) − 1.

    Args:
        y: share of right samples [R, T, Q], complete.
        strata: benchmark of every question [Q].
    """
    values = np.asarray(y, dtype=np.float64)

    def estimate(contrasts: FloatArray) -> Estimate:
        responses = np.einsum("mt,rtq->mrq", contrasts, values)
        e = two_way_effects(responses, np.ones((len(values), 1)), [[1.0]], strata)
        return Estimate(e.effects, e.errors, e.correlation, e.df, float(e.t_df.min()))

    return estimate


def curve_of_run_scores(y: npt.ArrayLike, variance: npt.ArrayLike) -> Curve:
    """The mean curve of several runs of which only accuracies are known.

    Args:
        y: accuracies [R, T].
        variance: sampling variance of each, p(1 − p)/n: a floor.
    """
    values, noise = np.asarray(y, dtype=np.float64), np.asarray(variance, dtype=np.float64)

    def estimate(contrasts: FloatArray) -> Estimate:
        answers = AnswerNoise(variance=(contrasts**2) @ noise.T)
        e = run_effects(contrasts @ values.T, np.ones((len(values), 1)), [[1.0]], answers)
        return Estimate(e.effects, e.errors, e.correlation, e.df, float(e.t_df.min()))

    return estimate


def curve_of_one_run(y: npt.ArrayLike, strata: npt.ArrayLike | None = None) -> Curve:
    """One run's own curve: paired by question. It speaks of this run, not of what another seed would give.

    Args:
        y: share of right samples [T, Q], complete.
        strata: benchmark of every question [Q].
    """
    values = np.asarray(y, dtype=np.float64)
    labels = np.zeros(values.shape[1]) if strata is None else np.asarray(strata)
    groups = [np.flatnonzero(labels == s) for s in dict.fromkeys(labels.tolist())]

    def estimate(contrasts: FloatArray) -> Estimate:
        own = contrasts @ values
        effects = np.mean([own[:, g].mean(axis=1) for g in groups], axis=0)
        covariance = (
            sum(
                question_covariance(own[:, g], 1.0) if len(g) > 1 else np.full((len(own),) * 2, math.nan)
                for g in groups
            )
            / len(groups) ** 2
        )
        return _estimate(effects, np.asarray(covariance), values.shape[1] - len(groups))

    return estimate


def curve_of_one_run_scores(accuracy: npt.ArrayLike, variance: npt.ArrayLike, samples: int) -> Curve:
    """One run of which only accuracies are known: sampling noise alone, checkpoints independent.

    The same questions are asked at every checkpoint, so that differences vary less than this says.

    Args:
        accuracy: [T].
        variance: of each under the hypothesis that they are equal [T].
        samples: answers a checkpoint, for the degrees of freedom.
    """
    values, noise = np.asarray(accuracy, dtype=np.float64), np.asarray(variance, dtype=np.float64)

    def estimate(contrasts: FloatArray) -> Estimate:
        return _estimate(contrasts @ values, (contrasts * noise) @ contrasts.T, max(0, samples - 1))

    return estimate


def _estimate(effects: FloatArray, covariance: FloatArray, df: int) -> Estimate:
    errors = np.sqrt(np.diag(covariance))
    safe = np.where(errors > 0, errors, 1.0)
    correlation = np.clip(covariance / np.outer(safe, safe), -1.0, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return Estimate(effects, errors if df > 0 else np.full_like(errors, math.nan), correlation, df, float(df))


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """What a curve says. Fractions; NaN where not determined.

    Attributes:
        steps: training steps of its checkpoints.
        means: accuracy at each.
        peak: step of the highest mean.
        peak_low, peak_high: first and last step that the data cannot tell from the best (Dunnett against it).
        rise_to: checkpoints before this step are left out as a significant rise; the first step if none is.
        change: last step before the decline that the scan finds.
        change_low, change_high: 95 % set of that step: where no change is found before it, nor after it.
        effect: mean of the checkpoints after the change minus that of those up to it: chosen as the steepest
            decline, so that it tends to overstate it.
        standard_error, ci_low, ci_high: of it; simultaneous over all possible changes: the upper end is a
            1 − alpha bound.
        p_value: one-sided, of any decline, adjusted for the scan.
        p_adjusted: the same with Holm over the curves of one benchmark.
        verdict: *hurts* if it degrades by at least delta, *no meaningful effect* if every possible decline is
            shown to be smaller, otherwise *inconclusive*.
        detectable_effect: decline at that change that would be found with the stated power.
        df: degrees of freedom.
    """

    steps: tuple[int, ...]
    means: tuple[float, ...]
    peak: int
    peak_low: int
    peak_high: int
    rise_to: int
    change: int
    change_low: int
    change_high: int
    effect: float
    standard_error: float
    ci_low: float
    ci_high: float
    p_value: float
    p_adjusted: float
    verdict: VerdictWord
    detectable_effect: float
    df: int


def splits(count: int) -> FloatArray:
    """Mean of the checkpoints after every possible change minus that of those before it [T − 1, T]."""
    k = np.arange(1, count)[:, None]
    after = np.arange(count)[None, :] >= k
    return np.asarray(np.where(after, 1 / (count - k), -1 / k))


def _splits_of(start: int, stop: int, count: int) -> FloatArray:
    """The splits of a part of `count` checkpoints [stop − start − 1, count]."""
    weights = np.zeros((stop - start - 1, count))
    weights[:, start:stop] = splits(stop - start)
    return weights


def read_trajectory(
    curve: Curve, steps: Sequence[int], *, alpha: float, power: float, delta: float
) -> Trajectory:
    """Peak, decline and change point of one curve of at least two checkpoints.

    The decline is the one-sided maximum of the standardised differences between later and earlier checkpoints
    over all splits (Hinkley 1970; its distribution is the multivariate t of the splits). A rise hides a later
    decline from it, so that while the curve rises significantly by the same test, the checkpoints before the
    rise are left out (binary segmentation, Vostrikova 1981); the error of doing so wrongly is alpha.
    """
    count = len(steps)
    means = curve(np.eye(count)).effects
    start = _after_rise(curve, count, alpha)
    found = curve(_splits_of(start, count, count))
    low, high = _peak_set(curve, means, alpha)
    fixed: dict[str, Any] = {
        "steps": tuple(int(s) for s in steps),
        "means": tuple(means.tolist()),
        "peak": int(steps[int(np.argmax(means))]),
        "peak_low": int(steps[low]),
        "peak_high": int(steps[high]),
        "rise_to": int(steps[start]),
        "df": found.df,
    }
    t = _statistics(found)
    if found.df < 1 or not np.isfinite(found.errors).all():
        k = int(np.argmin(found.effects))
        return Trajectory(
            **fixed, change=int(steps[start + k]), change_low=int(steps[start]), change_high=int(steps[-2]),
            effect=float(found.effects[k]), standard_error=math.nan, ci_low=math.nan, ci_high=math.nan,
            p_value=math.nan, p_adjusted=math.nan, verdict="inconclusive", detectable_effect=math.nan,
        )  # fmt: skip
    k = int(np.argmax(-t))
    p = greatest_p(-t, found.correlation, found.t_df)
    inside = _change_set(curve, start, count, k)
    critical = greatest_critical(found.correlation, found.t_df, alpha)
    effect, error = float(found.effects[k]), float(found.errors[k])
    made = Trajectory(
        **fixed,
        change=int(steps[start + k]),
        change_low=int(steps[start + min(inside)]),
        change_high=int(steps[start + max(inside)]),
        effect=effect,
        standard_error=error,
        ci_low=effect - critical * error,
        ci_high=effect + critical * error,
        p_value=p,
        p_adjusted=p,
        verdict="inconclusive",
        detectable_effect=(critical + float(stats.t.ppf(power, found.t_df))) * error,
    )
    shown_small = bool((found.effects - float(stats.t.isf(alpha, found.t_df)) * found.errors > -delta).all())
    return _judged(made, alpha, delta, shown_small)


def _judged(made: Trajectory, alpha: float, delta: float, small: bool) -> Trajectory:
    verdict: VerdictWord = "inconclusive"
    if made.df >= MIN_DF:
        if made.p_adjusted < alpha and made.effect <= -delta:
            verdict = "hurts"
        elif small:
            verdict = "no meaningful effect"
    return replace(made, verdict=verdict)


def adjusted(made: Trajectory, p: float, *, alpha: float, delta: float) -> Trajectory:
    """The same with a p-value adjusted for the curves beside it; only *hurts* can be lost by it."""
    return _judged(replace(made, p_adjusted=p), alpha, delta, made.verdict == "no meaningful effect")


def _statistics(found: Estimate) -> FloatArray:
    safe = np.where(found.errors > 0, found.errors, 1.0)
    without = np.where(found.effects == 0, 0.0, np.copysign(math.inf, found.effects))
    return np.asarray(np.where(found.errors > 0, found.effects / safe, without))


def _after_rise(curve: Curve, count: int, alpha: float) -> int:
    """Index of the first checkpoint after the last significant rise that leaves two or more."""
    start = 0
    while count - start > 2:
        found = curve(_splits_of(start, count, count))
        if found.df < MIN_DF or not np.isfinite(found.errors).all():
            return start
        t = _statistics(found)
        k = int(np.argmax(t))
        if greatest_p(t, found.correlation, found.t_df) >= alpha or count - (start + k + 1) < 2:
            return start
        start += k + 1
    return start


def _change_set(curve: Curve, start: int, count: int, best: int) -> list[int]:
    """Splits of the checkpoints from `start` on that the data allow, and the best one; all where they allow none.

    If accuracy changes once, it is level on both sides of that change. A split is kept unless the two-sided scan over
    the splits of both sides finds a change there (Worsley 1986, Biometrika 73:91, by inverting tests). Differences
    of two splits' t² would not do: each t has a variance of its own from few runs, so that they are no likelihood
    ratios.
    """
    every = range(count - start - 1)
    allowed = []
    for k in every:
        change = start + k + 1
        sides = np.vstack([_splits_of(start, change, count), _splits_of(change, count, count)])
        if not len(sides):
            return list(every)
        found = curve(sides)
        p = greatest_p(_statistics(found), found.correlation, found.t_df, two_sided=True)
        if p >= 1 - _CHANGE_LEVEL:
            allowed.append(k)
    return [best, *allowed] if allowed else list(every)


def _peak_set(curve: Curve, means: FloatArray, alpha: float) -> tuple[int, int]:
    """Indices of the first and last checkpoint not worse than the best one, Dunnett against it, one-sided."""
    count, best = len(means), int(np.argmax(means))
    others = [i for i in range(count) if i != best]
    weights = np.zeros((len(others), count))
    weights[:, best] = 1.0
    weights[range(len(others)), others] = -1.0
    found = curve(weights)
    if found.df < 1 or not np.isfinite(found.errors).all():
        return 0, count - 1
    critical = greatest_critical(found.correlation, found.t_df, alpha)
    kept = [best, *(o for o, t in zip(others, _statistics(found)) if t < critical)]
    return min(kept), max(kept)
