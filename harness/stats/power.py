"""What a matrix can detect: before it runs, from assumed noise; afterwards, from its own."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from harness.stats.fiducial import inverse_chi_square

FloatArray = npt.NDArray[np.float64]

MIN_DF = 3
"""Below this no verdict but `inconclusive`: a variance from two or fewer residuals says next to nothing."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviations behind an accuracy, fractions.

    Attributes:
        run: between runs of the same cell under other seeds, on infinitely many questions.
        slope: of an axis's effect between questions.
        interaction: of a run's deviation between questions, beyond sampling.
        accuracy: around which samples are right or wrong.
    """

    run: float
    slope: float
    interaction: float
    accuracy: float


ASSUMED = Noise(run=0.01, slope=0.15, interaction=0.1, accuracy=0.5)
"""For plans made before anything is measured. Between-seed deviations of 0.2 to 1.1 points are reported for
1.5B models on 500 questions; the plan labels what follows from this an estimate."""


def planned_error(
    noise: Noise, *, runs: int, questions: int, samples: int, levels: int = 2, paired: bool = False
) -> float:
    """Standard error of a level against the baseline in a balanced matrix, fractions.

    SE² = c·σ²_run + σ²_slope/n_q + c·σ²_rq/n_q + c·p(1−p)/(n_q K) with c = 2L/N, so 4/N for two levels, and
    c = 2/N for checkpoints of the same runs. More samples shrink only the last term.

    Args:
        noise: assumed or measured.
        runs: N, all runs of the matrix.
        questions: n_q, of all benchmarks together.
        samples: K per question.
        levels: L, of the axis.
        paired: whether both levels are measured on every run, as training lengths are.
    """
    c = (2 if paired else 2 * levels) / runs
    bernoulli = noise.accuracy * (1 - noise.accuracy)
    per_question = noise.slope**2 + c * noise.interaction**2 + c * bernoulli / samples
    return math.sqrt(c * noise.run**2 + per_question / questions)


def detectable_effect(
    standard_error: float,
    df: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    comparisons: int = 1,
    critical: float | None = None,
    estimated: bool = False,
) -> float:
    """The effect that is found with the given power, by the non-central t; NaN where df is 0.

    Args:
        standard_error: of the effect.
        df: degrees of freedom.
        alpha: error rate of the family.
        power: 1 − β.
        comparisons: tests in the family; each is made at alpha / comparisons.
        critical: the critical value to use in place of t₁₋α/₂, such as Dunnett's.
        estimated: whether the standard error is the data's own, on `df` degrees of freedom. The true one is then as
            uncertain as df/χ²_df: the effect is the one that is found with that power on average over what it may be,
            1.3 times as large at four degrees of freedom as if the estimate were the truth.
    """
    if df < 1 or not math.isfinite(standard_error):
        return math.nan
    if critical is None:
        critical = -float(special.stdtrit(df, alpha / (2 * comparisons)))
    reach = _assured if estimated else _noncentrality
    return reach(round(df, 3), round(critical, 6), power) * standard_error


_STEPS = 60


def detectable_gain(effect: float, rate: float) -> float:
    """A detectable effect as a gain over a baseline that scores `rate`: infinite where no gain is that large.

    Noise of a share of right answers goes with p(1 − p). On hard questions it grows with the gain itself:
    δ = effect · √((v(p) + v(p + δ)) / 2v(p)), the smallest solution. Near the ceiling it shrinks, of which a
    quarter is believed: few wrong answers measure it badly, and stated in full such effects are found too seldom.

    Args:
        effect: what would be detectable if the better level were as noisy as the baseline.
        rate: p, a fraction.
    """
    v = rate * (1 - rate)
    if v <= 0 or not math.isfinite(effect):
        return effect
    gain = 0.0
    for _ in range(_STEPS):
        above = rate + gain
        if above > 1:
            return math.inf
        factor = math.sqrt((v + above * (1 - above)) / (2 * v))
        gain = effect * (factor if factor > 1 else (3 + factor) / 4)
    return gain if rate + gain <= 1 else math.inf


_NORMAL_DF = 2000.0
"""From here on the non-central t is a shifted normal, and its variance is known, to three digits."""


@lru_cache(maxsize=4096)
def _noncentrality(df: float, critical: float, power: float) -> float:
    """The non-centrality at which t exceeds the critical value with probability `power`."""
    if df >= _NORMAL_DF:
        return critical + float(special.ndtri(power))
    return float(special.nctdtrinc(df, 1 - power, critical))


@lru_cache(maxsize=4096)
def _assured(df: float, critical: float, power: float) -> float:
    """The effect in estimated standard errors that is found with `power`, averaged over the true standard error."""
    if df >= _NORMAL_DF:
        return _noncentrality(df, critical, power)
    weights, factors = inverse_chi_square(df)

    def excess(effect: float) -> float:
        found = 1 - special.nctdtr(df, effect / np.sqrt(factors), critical)
        return float(weights @ np.nan_to_num(found, nan=1.0)) - power

    start = _noncentrality(df, critical, power)
    high = start
    while excess(high) < 0:
        high *= 2
    return float(optimize.brentq(excess, start / 2, high, xtol=1e-4))


@dataclass(frozen=True, kw_only=True)
class Components:
    """Variance of an estimate by what shrinks it.

    Attributes:
        run: shrinks with runs.
        slope: shrinks with questions.
        interaction: shrinks with both.
        sampling: the part of `interaction` that is the drawing of answers, which shrinks with samples too; NaN where
            a question has one sample, which cannot tell it from the rest.
        df_runs: residual degrees of freedom of the runs.
        run_df: degrees of freedom that the variance between runs was measured with, fewer where levels speak for
            themselves.
        runs: number of runs.
        questions: number of questions, or of their clusters; 0 where none are known.
        seeds: number of seeds.
        blocked: whether a seed takes a degree of freedom, as a block between runs; paired differences within runs
            have none.
    """

    run: float
    slope: float
    interaction: float
    sampling: float
    df_runs: int
    run_df: float
    runs: int
    questions: int
    seeds: int
    blocked: bool

    def scaled(self, runs: float) -> Components:
        """The same with a variance between runs that is larger by this factor."""
        return replace(self, run=self.run * runs)

    def error_and_df(
        self, seeds: npt.ArrayLike, questions: float = 1.0, samples: float = 1.0
    ) -> tuple[FloatArray, FloatArray]:
        """Standard error and degrees of freedom with so many seeds, and factors of questions and of samples."""
        n = np.asarray(seeds, dtype=np.float64)
        ratio = n / self.seeds
        added = self.runs * (ratio - 1) - self.blocked * (n - self.seeds)
        df = np.floor(self.df_runs + added)
        if self.df_runs > 0:
            df = np.floor(df * min(1.0, self.run_df / self.df_runs) + 1e-9)
        if self.questions:
            df = np.minimum(df, self.questions * questions - 1)
        answers = 0.0 if math.isnan(self.sampling) else min(self.sampling, self.interaction)
        both = self.interaction - answers * (1 - 1 / samples)
        variance = (self.run + both / questions) / ratio + self.slope / questions
        return np.asarray(np.sqrt(variance)), np.asarray(df)


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What counts as detected.

    Attributes:
        alpha: error rate of the family.
        power: 1 − β.
        comparisons: tests in the family.
    """

    alpha: float
    power: float
    comparisons: int = 1


_MOST_SEEDS = 100
_MOST_QUESTIONS_FACTOR = 64
_RANGE = (0.9, 0.1)
"""Quantiles of χ² between which the variance between runs is taken to lie, where a number of seeds is a range."""


def needed(parts: Components, target: float, aim: Aim) -> tuple[int | None, int | None]:
    """How many seeds, and how many questions, would detect an effect of `target`.

    Args:
        parts: what the variance consists of now.
        target: the effect, in its own unit.
        aim: what counts as detected.

    Returns:
        The fewest seeds with the questions at hand; where no 100 seeds would do, the fewest questions (in
        doublings) and the seeds with them; (None, None) where even that would not.
    """
    factor = 1
    seeds = range(parts.seeds, max(parts.seeds, _MOST_SEEDS) + 1)
    while factor <= (_MOST_QUESTIONS_FACTOR if parts.questions else 1):
        found = bisect_left(seeds, True, key=lambda n: _reaches(parts, n, factor, target, aim))
        if found < len(seeds):
            return seeds[found], (parts.questions * factor or None)
        factor *= 2
    return None, None


def _reaches(parts: Components, seeds: int, questions: int, target: float, aim: Aim) -> bool:
    """Whether so many seeds, and that factor of questions, would detect the target; more of them always do, too."""
    error, df = (float(v) for v in parts.error_and_df(seeds, questions))
    if df < MIN_DF:
        return False
    limit = detectable_effect(error, df, alpha=aim.alpha, power=aim.power, comparisons=aim.comparisons)
    return limit <= target


def seeds_range(parts: Components, target: float, aim: Aim) -> tuple[int | None, int | None]:
    """Between how many and how many seeds `needed` lies with the questions at hand, for what runs may differ by.

    The variance between runs lies between df/χ² at its quantiles 0.9 and 0.1: at three degrees of freedom it may be
    half or five times its estimate. None for a bound above 100.
    """
    found: list[int | None] = []
    for quantile in _RANGE:
        factor = parts.run_df / float(special.chdtri(parts.run_df, 1 - quantile)) if parts.run_df > 0 else 1.0
        seeds, questions = needed(parts.scaled(factor), target, aim)
        more = parts.questions and questions is not None and questions > parts.questions
        found.append(None if more else seeds)
    return found[0], found[1]


@dataclass(frozen=True)
class Purchases:
    """The effect that would be detectable after each purchase; NaN where it cannot be told.

    Attributes:
        one_more_seed: of every cell.
        twice_the_questions: of every benchmark.
        twice_the_samples: of every question.
    """

    one_more_seed: float
    twice_the_questions: float
    twice_the_samples: float


NOTHING_BOUGHT = Purchases(math.nan, math.nan, math.nan)


def purchases(parts: Components, aim: Aim) -> Purchases:
    """What one more seed, twice the questions or twice the samples a question would make detectable."""

    def reach(seeds: int, questions: float, samples: float) -> float:
        error, df = parts.error_and_df([seeds], questions, samples)
        if df[0] < MIN_DF:
            return math.nan
        return detectable_effect(
            float(error[0]),
            float(df[0]),
            alpha=aim.alpha,
            power=aim.power,
            comparisons=aim.comparisons,
            estimated=True,
        )

    known = bool(parts.questions)
    return Purchases(
        reach(parts.seeds + 1, 1, 1),
        reach(parts.seeds, 2, 1) if known else math.nan,
        reach(parts.seeds, 1, 2) if known and not math.isnan(parts.sampling) else math.nan,
    )
