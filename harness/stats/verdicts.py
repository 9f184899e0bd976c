"""Verdicts: works, hurts, no meaningful effect, inconclusive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from harness.stats.design import Contrast
from harness.stats.effects import Effects
from harness.stats.multiplicity import (
    benjamini_hochberg,
    dunnett_critical,
    dunnett_p,
    holm,
    holm_factors,
)
from harness.stats.power import MIN_DF, Components, detectable_effect, needed

VerdictWord = Literal["works", "hurts", "no meaningful effect", "inconclusive"]


@dataclass(frozen=True, kw_only=True)
class VerdictSettings:
    """What counts as an effect.

    Attributes:
        alpha: error rate of the family.
        power: at which detectable effects are stated.
        seeds: seeds that the matrix has, for how many it would take.
    """

    alpha: float = 0.05
    power: float = 0.8
    seeds: int = 1


@dataclass(frozen=True, kw_only=True)
class Test:
    """One question to the data: every level of an axis against the baseline.

    Attributes:
        axis: its name.
        contrasts: the levels [M].
        effects: their joint estimate.
        delta: smallest effect that matters, in the unit of the estimates.
        better: +1 where more is better, −1 where less is.
        assumed_run: standard deviation between runs for the detectable effect where no residual degree of
            freedom measures it; None where none may be assumed.
        blocked: whether seeds are blocks of the design.
    """

    axis: str
    contrasts: tuple[Contrast, ...]
    effects: Effects
    delta: float
    better: int = 1
    assumed_run: float | None = None
    blocked: bool = False


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One level's verdict. Effects and bounds in the unit of the estimates; NaN where not determined.

    Attributes:
        axis, level, baseline: what was compared.
        effect: estimate.
        standard_error: its two-way standard error.
        ci_low, ci_high: adjusted interval: it excludes zero where p_adjusted < alpha.
        equivalence_low, equivalence_high: unadjusted 1 − 2·alpha interval (90 %).
        p_value, p_adjusted: two-sided, before and after adjustment for multiplicity.
        verdict: the word.
        detectable_effect: found with the stated power at the first, strictest step of the adjustment.
        assumed: whether that and what it would take rest on assumed noise between runs, because no degree of
            freedom measures it: then what `MIN_DF` degrees of freedom would show with as many runs.
        runs, questions, df: what it rests on.
        t_df: degrees of freedom of the t behind interval and p.
        seeds_needed, questions_needed: what would detect an effect of delta; None where nothing reasonable
            would, or where the variance is not known.
        delta: smallest effect that matters.
    """

    axis: str
    level: str
    baseline: str
    effect: float
    standard_error: float
    ci_low: float
    ci_high: float
    equivalence_low: float
    equivalence_high: float
    p_value: float
    p_adjusted: float
    verdict: VerdictWord
    detectable_effect: float
    assumed: bool
    runs: int
    questions: int
    df: int
    t_df: float
    seeds_needed: int | None
    questions_needed: int | None
    delta: float


def decide(
    effect: float,
    interval: tuple[float, float],
    equivalence: tuple[float, float],
    *,
    delta: float,
    df: int,
    better: int = 1,
) -> VerdictWord:
    """The verdict rule.

    *works* / *hurts*: the adjusted interval excludes zero and |effect| ≥ delta. *no meaningful effect*: the
    90 % interval lies inside ±delta (two one-sided tests, Schuirmann 1987). Otherwise, and always below three
    degrees of freedom, *inconclusive*.
    """
    if df < MIN_DF or not np.isfinite([effect, *interval, *equivalence]).all():
        return "inconclusive"
    if (interval[0] > 0 or interval[1] < 0) and abs(effect) >= delta:
        return "works" if effect * better > 0 else "hurts"
    if -delta < equivalence[0] and equivalence[1] < delta:
        return "no meaningful effect"
    return "inconclusive"


def judge_primary(tests: Sequence[Test], settings: VerdictSettings) -> list[Judgement]:
    """Verdicts of the primary family: Holm over one omnibus test per axis, Dunnett within each axis.

    The omnibus test of an axis is the largest |t| of its levels against the baseline, so that an axis is
    significant exactly when one of its levels is.
    """
    p_levels = [_dunnett(test) for test in tests]
    omnibus = np.array([_smallest(p) for p in p_levels])
    factors = holm_factors(omnibus, settings.alpha)
    steps = {i: factor for i, factor in enumerate(factors) if not math.isnan(factor)}
    of_axis, own = holm(omnibus)
    adjusted = {i: [max(of_axis[i], min(1.0, own[i] * p)) for p in p_levels[i]] for i in steps}
    judgements: list[Judgement] = []
    for i, test in enumerate(tests):
        effects = test.effects
        critical = strict = math.nan
        if i in steps:
            critical = dunnett_critical(effects.correlation, effects.t_df, settings.alpha / steps[i])
            strict = dunnett_critical(effects.correlation, effects.t_df, settings.alpha / len(steps))
        comparisons = max(1, len(steps)) * len(test.contrasts)
        for m in range(len(test.contrasts)):
            p = adjusted[i][m] if i in steps else math.nan
            judgements.append(_judged(test, m, p, critical, strict, comparisons, settings))
    return judgements


def judge_secondary(tests: Sequence[Test], settings: VerdictSettings) -> list[Judgement]:
    """Verdicts of secondary metrics: Benjamini–Hochberg over every level of every test.

    Intervals are at the level that goes with it (Benjamini and Yekutieli 2005).
    """
    raw = [p for test in tests for p in _single(test)]
    adjusted, rate = benjamini_hochberg(raw, settings.alpha)
    count = max(1, int(np.isfinite(raw).sum()))
    judgements: list[Judgement] = []
    for test in tests:
        df = test.effects.t_df
        critical = float(stats.t.isf(rate / 2, df)) if df > 0 else math.nan
        strict = float(stats.t.isf(settings.alpha / (2 * count), df)) if df > 0 else math.nan
        for m in range(len(test.contrasts)):
            p = float(adjusted[len(judgements)])
            judgements.append(_judged(test, m, p, critical, strict, count, settings))
    return judgements


def _statistics(test: Test) -> np.ndarray:
    """t of every contrast; infinite for an effect without any noise, zero for no effect at all."""
    effects, errors = test.effects.effects, test.effects.errors
    safe = np.where(errors > 0, errors, 1.0)
    t = np.where(errors > 0, effects / safe, np.where(effects == 0, 0.0, np.inf))
    return np.where(np.isfinite(effects) & np.isfinite(errors), t, math.nan)


def _dunnett(test: Test) -> list[float]:
    if test.effects.df < 1:
        return [math.nan] * len(test.contrasts)
    return dunnett_p(_statistics(test), test.effects.correlation, test.effects.t_df).tolist()


def _single(test: Test) -> list[float]:
    if test.effects.df < 1:
        return [math.nan] * len(test.contrasts)
    p = 2 * stats.t.sf(np.abs(np.nan_to_num(_statistics(test))), test.effects.t_df)
    return np.where(np.isnan(_statistics(test)), math.nan, p).tolist()


def _smallest(values: Sequence[float]) -> float:
    finite = [v for v in values if not math.isnan(v)]
    return min(finite) if finite else math.nan


def _judged(
    test: Test,
    m: int,
    p_adjusted: float,
    critical: float,
    strict: float,
    comparisons: int,
    settings: VerdictSettings,
) -> Judgement:
    effects, contrast = test.effects, test.contrasts[m]
    effect, error, df = float(effects.effects[m]), float(effects.errors[m]), effects.df
    low, high = effect - critical * error, effect + critical * error
    inner = float(stats.t.isf(settings.alpha, effects.t_df)) * error if df > 0 else math.nan
    verdict = decide(
        effect,
        (low, high),
        (effect - inner, effect + inner),
        delta=test.delta,
        df=df,
        better=test.better,
    )
    seeds, questions = _needed(test, m, comparisons, settings) if verdict == "inconclusive" else (None, None)
    assumed = df < 1 and test.assumed_run is not None and math.isfinite(effect)
    detectable = detectable_effect(error, effects.t_df, power=settings.power, critical=strict)
    if assumed:
        detectable = detectable_effect(
            _assumed_error(test, m),
            MIN_DF,
            alpha=settings.alpha,
            power=settings.power,
            comparisons=comparisons,
        )
    return Judgement(
        axis=test.axis,
        level=contrast.level,
        baseline=contrast.baseline,
        effect=effect,
        standard_error=error,
        ci_low=low,
        ci_high=high,
        equivalence_low=effect - inner,
        equivalence_high=effect + inner,
        p_value=_single(test)[m],
        p_adjusted=p_adjusted,
        verdict=verdict,
        detectable_effect=detectable,
        assumed=assumed,
        runs=effects.runs,
        questions=effects.questions,
        df=df,
        t_df=effects.t_df,
        seeds_needed=seeds,
        questions_needed=questions,
        delta=test.delta,
    )


def _needed(test: Test, m: int, comparisons: int, settings: VerdictSettings) -> tuple[int | None, int | None]:
    effects = test.effects
    if not math.isfinite(effects.effects[m]):
        return None, None
    both = float(effects.interaction_variance[m])
    between = float(effects.run_variance[m]) - both
    if effects.df < 1 or not math.isfinite(effects.errors[m]):
        if test.assumed_run is None:
            return None, None
        between = float(effects.leverage[m]) * test.assumed_run**2
    parts = Components(
        run=max(0.0, between),
        slope=max(0.0, float(effects.question_variance[m]) - both) if effects.questions else 0.0,
        interaction=both,
        df_runs=effects.df,
        runs=effects.runs,
        questions=effects.questions,
        seeds=settings.seeds,
        blocked=test.blocked,
    )
    return needed(
        parts,
        test.delta,
        alpha=settings.alpha,
        power=settings.power,
        comparisons=comparisons,
        least_df=MIN_DF,
    )


def _assumed_error(test: Test, m: int) -> float:
    """Standard error under the assumed noise between runs and the measured one between questions."""
    assert test.assumed_run is not None
    effects = test.effects
    return math.sqrt(
        float(effects.leverage[m]) * test.assumed_run**2 + max(0.0, float(effects.question_variance[m]))
    )
