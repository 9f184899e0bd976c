"""What a matrix can detect: before it runs, from assumed noise; afterwards, from its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

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
) -> float:
    """The effect that is found with the given power: (t₁₋α/₂ + t₁₋β) · SE; NaN where df is 0.

    Args:
        standard_error: of the effect.
        df: degrees of freedom.
        alpha: error rate of the family.
        power: 1 − β.
        comparisons: tests in the family; each is made at alpha / comparisons.
        critical: the critical value to use in place of t₁₋α/₂, such as Dunnett's.
    """
    if df < 1:
        return math.nan
    if critical is None:
        critical = -float(special.stdtrit(df, alpha / (2 * comparisons)))
    return (critical + float(special.stdtrit(df, power))) * standard_error


@dataclass(frozen=True, kw_only=True)
class Components:
    """Variance of an estimate by what shrinks it.

    Attributes:
        run: shrinks with runs.
        slope: shrinks with questions.
        interaction: shrinks with both.
        df_runs: residual degrees of freedom of the runs.
        runs: number of runs.
        questions: number of questions; 0 where none are known.
        seeds: number of seeds.
        blocked: whether a seed takes a degree of freedom, as a block between runs; paired differences within runs
            have none.
    """

    run: float
    slope: float
    interaction: float
    df_runs: int
    runs: int
    questions: int
    seeds: int
    blocked: bool


_MOST_SEEDS = 100
_MOST_QUESTIONS_FACTOR = 64


def needed(
    parts: Components,
    target: float,
    *,
    alpha: float,
    power: float,
    comparisons: int = 1,
    least_df: int = 3,
) -> tuple[int | None, int | None]:
    """How many seeds, and how many questions, would detect an effect of `target`.

    Args:
        parts: what the variance consists of now.
        target: the effect, in its own unit.
        alpha: error rate of the family.
        power: 1 − β.
        comparisons: tests in the family.
        least_df: degrees of freedom below which no verdict is given.

    Returns:
        The fewest seeds with the questions at hand; where no 100 seeds would do, the fewest questions (in
        doublings) and the seeds with them; (None, None) where even that would not.
    """
    seeds = np.arange(parts.seeds, max(parts.seeds, _MOST_SEEDS) + 1)
    ratio = seeds / parts.seeds
    df_runs = np.floor(parts.df_runs + parts.runs * (ratio - 1) - parts.blocked * (seeds - parts.seeds))
    factor = 1
    while factor <= (_MOST_QUESTIONS_FACTOR if parts.questions else 1):
        df = np.minimum(df_runs, parts.questions * factor - 1) if parts.questions else df_runs
        variance = (parts.run + parts.interaction / factor) / ratio + parts.slope / factor
        quantiles = special.stdtrit(np.maximum(df, 1), 1 - alpha / (2 * comparisons))
        quantiles = quantiles + special.stdtrit(np.maximum(df, 1), power)
        enough = np.flatnonzero((df >= least_df) & (quantiles * np.sqrt(variance) <= target))
        if len(enough):
            return int(seeds[enough[0]]), (parts.questions * factor or None)
        factor *= 2
    return None, None
