"""Contrasts between runs: their weights, the variance between runs, and the distribution they are held against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from harness.stats.fiducial import fiducial_t
from harness.stats.question_noise import ROUNDING
from harness.stats.run_noise import NO_DF, NoiseMethod, Partition

FloatArray = npt.NDArray[np.float64]

Unit = Literal["recipe", "checkpoint"]
"""Whom a verdict is about: a recipe, over training seeds, or the very checkpoints that were measured."""
_CAREFUL = 0.01
"""Two-sided level at which the wider of two intervals is chosen: about that of a verdict among several."""


@dataclass(frozen=True)
class Effects:
    """Estimated contrasts.

    Attributes:
        effects: estimates [M]; NaN where the runs at hand do not determine the contrast.
        errors: standard errors [M]: what the quantiles of t on t_df are multiplied with.
        correlation: of the estimates [M, M].
        run_variance: V_run [M]: between runs, and what of run × question it contains.
        question_variance: V_q [M]: between questions, likewise.
        interaction_variance: V_obs [M]: the run × question term that both contain.
        sampling_variance: the part of V_obs that is the drawing of answers [M]; NaN where it cannot be told.
        leverage: variance of each estimate in units of one run's [M]: 4/N for a balanced two-level axis.
        df: degrees of freedom that the runs leave, min(df_run, n_q − 1); n_q counts clusters of questions.
        verdict_df: decides whether a contrast has a verdict [M]: `df`, or less where levels speak for themselves.
        run_df: degrees of freedom of V_run [M]: residual ones, Satterthwaite's where levels speak for themselves.
        t_df: degrees of freedom of t [M].
        noise: where V_run comes from [M].
        runs: runs used.
        questions: questions used; 0 where none are known.
        clusters: clusters of questions; as many as questions where each stands for itself.
    """

    effects: FloatArray
    errors: FloatArray
    correlation: FloatArray
    run_variance: FloatArray
    question_variance: FloatArray
    interaction_variance: FloatArray
    sampling_variance: FloatArray
    leverage: FloatArray
    df: int
    verdict_df: npt.NDArray[np.intp]
    run_df: FloatArray
    t_df: FloatArray
    noise: tuple[NoiseMethod, ...]
    runs: int
    questions: int
    clusters: int


def solve(d: FloatArray, c: FloatArray) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_], int]:
    """Generalised inverse [P, R], contrasts as weights on runs [M, R], which are estimable [M], residual df."""
    inverse: FloatArray = np.asarray(np.linalg.pinv(d), dtype=np.float64)
    per_run: FloatArray = np.asarray(c @ inverse)
    known = np.asarray(np.isclose(per_run @ d, c, atol=1e-8).all(axis=1))
    return inverse, per_run, known, max(0, d.shape[0] - int(np.linalg.matrix_rank(d)))


def estimable(design: npt.ArrayLike, contrasts: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which contrasts [C, P] the runs of a design [R, P] determine [C]."""
    return solve(np.asarray(design, dtype=np.float64), np.asarray(contrasts, dtype=np.float64))[2]


@dataclass(frozen=True)
class Reference:
    """The distributions that estimates are held against: errors, t_df, run_df, verdict_df [M] and methods."""

    errors: FloatArray
    t_df: FloatArray
    run_df: FloatArray
    verdict_df: npt.NDArray[np.intp]
    noise: tuple[NoiseMethod, ...]


def run_variances(
    parts: Partition, means: FloatArray, cells: Sequence[tuple[FloatArray, float]]
) -> tuple[FloatArray, FloatArray]:
    """V_run and V_obs [M, M], with the spread of each part of the runs for itself.

    Args:
        parts: of the runs.
        means: residual run means by response [K, R].
        cells: of every benchmark the deviations of clusters [K, R, clusters], and its weight.
    """
    size = len(means) * len(parts.per_run)
    run, both = np.zeros((size, size)), np.zeros((size, size))
    pooled = max(float(parts.df.sum()), 1e-12)
    for members, df in zip(parts.members, parts.df):
        spread = parts.per_run[:, members] @ parts.per_run[:, members].T
        at, divisor = (members, df) if df > NO_DF else (np.ones_like(members), pooled)
        run += np.kron(means[:, at] @ means[:, at].T / divisor, spread)
        for deviations, weight in cells:
            flat = deviations[:, at].reshape(len(means), -1)
            both += weight * np.kron(flat @ flat.T / divisor, spread)
    return run, both


def reference_of(
    chosen: Sequence[tuple[NoiseMethod, float]],
    parts: Partition,
    means: FloatArray,
    variances: Sequence[tuple[FloatArray, FloatArray]],
    question: FloatArray,
    df_run: int,
    df_questions: float,
    known: npt.NDArray[np.bool_],
) -> tuple[Reference, FloatArray, FloatArray]:
    """Errors and degrees of freedom of every contrast by its method; V_run and V_obs that they rest on [M]."""
    (run, both), (own_run, own_both) = ((np.diag(r).copy(), np.diag(o).copy()) for r, o in variances)
    pooled = np.array([method != "by level" for method, _ in chosen])
    errors, common = fiducial_t(run, question, both, float(df_run), df_questions, known & pooled)
    t_df, run_df = np.full(len(run), common), np.full(len(run), float(df_run))
    df = max(0, min(df_run, math.floor(df_questions + 1e-9)))
    verdict_df = np.full(len(run), df)
    per_response = len(parts.per_run)
    for m, (method, design_df) in enumerate(chosen):
        if method == "pooled" or not known[m] or df < 1:
            continue
        level = means[m // per_response]
        spread = (parts.members @ level**2) / np.maximum(parts.df, NO_DF)
        own_df = parts.degrees_of_freedom(m % per_response, spread) or design_df
        if method == "both":
            # Of too few runs the spread itself is too uncertain to say how certain it is.
            own_df = min(own_df, design_df)
        one = slice(m, m + 1)
        error, own_t = fiducial_t(
            own_run[one], question[one], own_both[one], own_df, df_questions, known[one]
        )
        if method == "by level":
            verdict_df[m] = min(df, math.floor(design_df + 1e-9))
        elif stats.t.isf(_CAREFUL / 2, own_t) * error[0] <= stats.t.isf(_CAREFUL / 2, t_df[m]) * errors[m]:
            continue
        errors[m], t_df[m], run_df[m], run[m], both[m] = error[0], own_t, own_df, own_run[m], own_both[m]
    return Reference(errors, t_df, run_df, verdict_df, tuple(m for m, _ in chosen)), run, both


def assembled(
    estimates: FloatArray,
    variances: tuple[FloatArray, FloatArray, FloatArray],
    reference: Reference,
    known: npt.NDArray[np.bool_],
    leverage: FloatArray,
    df: int,
    counts: tuple[int, int, int],
    *,
    shape: FloatArray | None = None,
    sampling: FloatArray | None = None,
) -> Effects:
    """Effects with what does not depend on how errors were found.

    Args:
        variances: V_run, V_q and V_obs [M, M].
        counts: runs, questions, clusters.
        shape: what the correlation is of; V_run + V_q if None: unlike the difference with V_obs, it is never
            indefinite.
        sampling: the part of V_obs that is the drawing of answers [M].
    """
    run, question, both = (np.diag(v).copy() for v in variances)
    errors = np.where(reference.errors < ROUNDING, 0.0, reference.errors)
    estimates = np.where(np.abs(estimates) < ROUNDING, 0.0, estimates)
    runs, questions, clusters = counts
    return Effects(
        effects=np.where(known, estimates, math.nan),
        errors=np.where(known & (df > 0), errors, math.nan),
        correlation=_correlation(variances[0] + variances[1] if shape is None else shape),
        run_variance=run,
        question_variance=question,
        interaction_variance=both,
        sampling_variance=np.full(len(both), math.nan) if sampling is None else sampling,
        leverage=leverage,
        df=df,
        verdict_df=reference.verdict_df,
        run_df=reference.run_df,
        t_df=reference.t_df if df > 0 else np.zeros_like(reference.t_df),
        noise=reference.noise,
        runs=runs,
        questions=questions,
        clusters=clusters,
    )


def _correlation(covariance: FloatArray) -> FloatArray:
    scale = np.sqrt(np.diag(covariance))
    safe = np.where(scale > 0, scale, 1.0)
    correlation = np.clip(covariance / np.outer(safe, safe), -1.0, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return np.asarray(correlation)
