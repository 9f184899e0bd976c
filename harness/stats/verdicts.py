"""Verdicts: works, hurts, no meaningful effect, inconclusive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from harness.stats.contrasts import Effects, Unit
from harness.stats.design import Contrast
from harness.stats.multiplicity import (
    benjamini_hochberg,
    dunnett_critical,
    dunnett_p,
    holm,
    holm_factors,
)
from harness.stats.power import (
    MIN_DF,
    Aim,
    Components,
    Purchases,
    detectable_effect,
    detectable_gain,
    needed,
    purchases,
    seeds_range,
)
from harness.stats.run_noise import NoiseMethod
from harness.stats.selection import corrected_effect

VerdictWord = Literal["works", "hurts", "no meaningful effect", "inconclusive"]


@dataclass(frozen=True, kw_only=True)
class VerdictSettings:
    """What counts as an effect.

    Attributes:
        alpha: error rate of the family, at this look: see `harness.stats.looks`.
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
        rate: what the baseline scores, where it is a share of right answers: it bounds what can be gained.
        unit: whom verdicts are about.
    """

    axis: str
    contrasts: tuple[Contrast, ...]
    effects: Effects
    delta: float
    better: int = 1
    assumed_run: float | None = None
    blocked: bool = False
    rate: float | None = None
    unit: Unit = "recipe"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One level's verdict. Effects and bounds in the unit of the estimates; NaN where not determined.

    Attributes:
        axis, level, baseline: what was compared.
        effect: estimate.
        standard_error: its two-way standard error.
        ci_low, ci_high: adjusted interval: it excludes zero where p_adjusted < alpha.
        equivalence_low, equivalence_high: interval that lies inside ±delta where there is no meaningful effect:
            1 − 2·alpha (90 %) for a single comparison, wider among several.
        p_value, p_adjusted: two-sided, before and after adjustment for multiplicity.
        verdict: the word.
        corrected_effect: of *works* and *hurts*: the effect after correction for having been found (type M).
        detectable_effect: found with the stated power at the first, strictest step of the adjustment; NaN where that
            is more than is possible.
        beyond_possible: whether it is.
        assumed: whether that and what it would take rest on assumed noise between runs, because no degree of
            freedom measures it: then what `MIN_DF` degrees of freedom would show with as many runs.
        runs, questions, df: what it rests on; `df` decides whether a verdict is given.
        t_df: degrees of freedom of the t behind interval and p.
        noise: whose spread the noise between runs is taken from.
        unit: whom the verdict is about: the recipe over training seeds, or these very checkpoints.
        seeds_needed, questions_needed: what would detect an effect of delta; None where nothing reasonable
            would, or where the variance is not known.
        seeds_low, seeds_high: what the number of seeds may be for what runs may differ by; None above 100.
        purchases: what would be detectable with one more seed, more questions, more samples.
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
    corrected_effect: float = math.nan
    detectable_effect: float
    beyond_possible: bool = False
    assumed: bool
    runs: int
    questions: int
    df: int
    t_df: float
    noise: NoiseMethod = "pooled"
    unit: Unit = "recipe"
    seeds_needed: int | None
    questions_needed: int | None
    seeds_low: int | None = None
    seeds_high: int | None = None
    purchases: Purchases | None = None
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

    The omnibus test of an axis is the smallest p of its levels against the baseline, so that an axis is
    significant exactly when one of its levels is. *No meaningful effect* is controlled over the same family: Holm
    over the equivalence tests of all its levels.
    """
    p_levels = [_dunnett(test) for test in tests]
    omnibus = np.array([_smallest(p) for p in p_levels])
    factors = holm_factors(omnibus, settings.alpha)
    steps = {i: factor for i, factor in enumerate(factors) if not math.isnan(factor)}
    of_axis, own = holm(omnibus)
    adjusted = {i: [max(of_axis[i], min(1.0, own[i] * p)) for p in p_levels[i]] for i in steps}
    equivalence = iter(holm_factors([p for test in tests for p in _equivalence(test)], settings.alpha))
    judgements: list[Judgement] = []
    for i, test in enumerate(tests):
        comparisons = max(1, len(steps)) * len(test.contrasts)
        for m in range(len(test.contrasts)):
            bounds = _Bounds(comparisons=comparisons, equivalence=settings.alpha / next(equivalence))
            p = math.nan
            if i in steps:
                p = adjusted[i][m]
                shape, df = test.effects.correlation, float(test.effects.t_df[m])
                bounds = replace(
                    bounds,
                    critical=dunnett_critical(shape, df, settings.alpha / steps[i]),
                    strict=dunnett_critical(shape, df, settings.alpha / len(steps)),
                )
            judgements.append(_judged(test, m, p, bounds, settings))
    return judgements


def judge_secondary(tests: Sequence[Test], settings: VerdictSettings) -> list[Judgement]:
    """Verdicts of secondary metrics: Benjamini–Hochberg over every level of every test.

    Intervals are at the level that goes with it (Benjamini and Yekutieli 2005).
    """
    raw = [p for test in tests for p in _single(test)]
    adjusted, rate = benjamini_hochberg(raw, settings.alpha)
    _, equal = benjamini_hochberg([p for test in tests for p in _equivalence(test)], settings.alpha)
    count = max(1, int(np.isfinite(raw).sum()))
    judgements: list[Judgement] = []
    for test in tests:
        for m in range(len(test.contrasts)):
            df = float(test.effects.t_df[m])
            bounds = _Bounds(comparisons=count, equivalence=equal)
            if df > 0:
                critical, strict = (float(stats.t.isf(a / 2, df)) for a in (rate, settings.alpha / count))
                bounds = replace(bounds, critical=critical, strict=strict)
            judgements.append(_judged(test, m, float(adjusted[len(judgements)]), bounds, settings))
    return judgements


@dataclass(frozen=True, kw_only=True)
class _Bounds:
    """Critical values of a comparison: of its interval, of the strictest step, and the level of its equivalence."""

    comparisons: int
    equivalence: float
    critical: float = math.nan
    strict: float = math.nan


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


def _equivalence(test: Test) -> list[float]:
    """p of two one-sided tests against ±delta (Schuirmann 1987), the larger one."""
    effects, errors = np.abs(test.effects.effects), test.effects.errors
    if test.effects.df < 1:
        return [math.nan] * len(test.contrasts)
    safe = np.where(errors > 0, errors, 1.0)
    t = np.where(errors > 0, (test.delta - effects) / safe, np.where(effects < test.delta, np.inf, -np.inf))
    p = stats.t.sf(t, test.effects.t_df)
    return np.where(np.isfinite(effects) & np.isfinite(errors), p, math.nan).tolist()


def _smallest(values: Sequence[float]) -> float:
    finite = [v for v in values if not math.isnan(v)]
    return min(finite) if finite else math.nan


def _judged(test: Test, m: int, p_adjusted: float, bounds: _Bounds, settings: VerdictSettings) -> Judgement:
    effects, contrast = test.effects, test.contrasts[m]
    effect, error, t_df = float(effects.effects[m]), float(effects.errors[m]), float(effects.t_df[m])
    df = int(effects.verdict_df[m]) if math.isfinite(effect) else effects.df
    low, high = effect - bounds.critical * error, effect + bounds.critical * error
    inner = math.nan
    if t_df > 0 and not math.isnan(bounds.equivalence):
        inner = float(stats.t.isf(bounds.equivalence, t_df)) * error
    verdict = decide(
        effect,
        (low, high),
        (effect - inner, effect + inner),
        delta=test.delta,
        df=df,
        better=test.better,
    )
    took = _Took() if verdict != "inconclusive" else _what_it_takes(test, m, bounds.comparisons, settings)
    assumed = effects.df < 1 and test.assumed_run is not None and math.isfinite(effect)
    detectable = detectable_effect(error, t_df, power=settings.power, critical=bounds.strict, estimated=True)
    if assumed:
        detectable = detectable_effect(
            _assumed_error(test, m),
            MIN_DF,
            alpha=settings.alpha,
            power=settings.power,
            comparisons=bounds.comparisons,
        )
    if test.rate is not None:
        detectable = detectable_gain(detectable, test.rate)
    beyond = math.isinf(detectable)
    corrected = math.nan
    if verdict in ("works", "hurts"):
        corrected = corrected_effect(effect, error, t_df, bounds.critical, test.delta)
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
        corrected_effect=corrected,
        detectable_effect=math.nan if beyond else detectable,
        beyond_possible=beyond,
        assumed=assumed,
        runs=effects.runs,
        questions=effects.questions,
        df=df,
        t_df=t_df,
        noise=effects.noise[m],
        unit=test.unit,
        seeds_needed=took.seeds,
        questions_needed=took.questions,
        seeds_low=took.seeds_low,
        seeds_high=took.seeds_high,
        purchases=took.purchases,
        delta=test.delta,
    )


@dataclass(frozen=True, kw_only=True)
class _Took:
    """What would settle an effect of delta."""

    seeds: int | None = None
    questions: int | None = None
    seeds_low: int | None = None
    seeds_high: int | None = None
    purchases: Purchases | None = None


def _what_it_takes(test: Test, m: int, comparisons: int, settings: VerdictSettings) -> _Took:
    effects = test.effects
    if not math.isfinite(effects.effects[m]) or test.unit == "checkpoint":
        return _Took()
    both = float(effects.interaction_variance[m])
    between, run_df = float(effects.run_variance[m]) - both, float(effects.run_df[m])
    measured = effects.df >= 1 and math.isfinite(effects.errors[m])
    if not measured:
        if test.assumed_run is None:
            return _Took()
        between, run_df = float(effects.leverage[m]) * test.assumed_run**2, 0.0
    parts = Components(
        run=max(0.0, between),
        slope=max(0.0, float(effects.question_variance[m]) - both) if effects.questions else 0.0,
        interaction=both,
        sampling=float(effects.sampling_variance[m]),
        df_runs=effects.df,
        run_df=run_df,
        runs=effects.runs,
        questions=effects.clusters,
        seeds=settings.seeds,
        blocked=test.blocked,
    )
    aim = Aim(alpha=settings.alpha, power=settings.power, comparisons=comparisons)
    seeds, questions = needed(parts, test.delta, aim)
    low, high = seeds_range(parts, test.delta, aim) if measured else (seeds, seeds)
    return _Took(
        seeds=seeds, questions=questions, seeds_low=low, seeds_high=high, purchases=purchases(parts, aim)
    )


def _assumed_error(test: Test, m: int) -> float:
    """Standard error under the assumed noise between runs and the measured one between questions."""
    assert test.assumed_run is not None
    effects = test.effects
    return math.sqrt(
        float(effects.leverage[m]) * test.assumed_run**2 + max(0.0, float(effects.question_variance[m]))
    )
