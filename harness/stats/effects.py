"""Effects with two-way (run × question) uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.stats.fiducial import MOST_DF, fiducial_t

FloatArray = npt.NDArray[np.float64]

_ROUNDING = 1e-12
"""Effects and standard errors below this are rounding errors of differences of fractions."""
_FEW_ANSWERS = 4
"""A variance that rests on fewer questions than this is at least that of as many answers: of n answers that are all
wrong, Wilson's interval ends at z²/n, which is z standard errors of √4/n."""


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
        leverage: variance of each estimate in units of one run's [M]: 4/N for a balanced two-level axis.
        df: degrees of freedom that the runs leave, min(df_run, n_q − 1): what decides whether a verdict is given.
        t_df: degrees of freedom of t; at least df, one for all contrasts.
        runs: runs used.
        questions: questions used; 0 where none are known.
    """

    effects: FloatArray
    errors: FloatArray
    correlation: FloatArray
    run_variance: FloatArray
    question_variance: FloatArray
    interaction_variance: FloatArray
    leverage: FloatArray
    df: int
    t_df: float
    runs: int
    questions: int


def two_way_effects(
    y: npt.ArrayLike, design: npt.ArrayLike, contrasts: npt.ArrayLike, strata: npt.ArrayLike | None = None
) -> Effects:
    """Contrasts between runs, averaged over questions, with uncertainty from both.

    The design is fitted to every question, B = (DᵀD)⁻¹DᵀY, and the estimate is the mean over questions of the
    contrast b. Its variance clusters two ways (Cameron, Gelbach and Miller 2011, equation 2.11) and is
    floored: V = max(V_run + V_q − V_obs, V_run, V_q), with

        V_run = residual mean square of the run means × (DᵀD)⁻¹,
        V_q   = var(b_q) / n_q,
        V_obs = residual mean square of the run × question interaction / n_q × (DᵀD)⁻¹.

    t on min(df_run, n_q − 1) would cover 98 to 99.6 % where sampling noise rules: only V_run has so few degrees of
    freedom. The reference is therefore the estimate's fiducial distribution (generalised pivot, Weerahandi 1993), in
    which V_run is V_run·df/χ²_df; `errors` and `t_df` are those of the t that has its quantiles, √V and df where runs
    differ much. With several benchmarks each weighs the same, whatever its number of questions:
    variances over questions are taken within each.

    Several responses of the same runs, such as the differences of two checkpoints to a third, are fitted
    together, so that their correlation is known; contrasts are then ordered response by response.

    Where hardly any question tells runs apart, as where all answers are wrong, V_q has a floor: see
    `question_covariance`.

    Args:
        y: share of right samples by run and question, complete [R, Q], or several responses [K, R, Q].
        design: D [R, P].
        contrasts: what each takes of the design's coefficients [C, P].
        strata: benchmark of every question [Q]; one benchmark if None.

    Returns:
        M = K·C effects in the unit of `y`. Errors are NaN where df is 0.
    """
    values, d, c = (np.asarray(a, dtype=np.float64) for a in (y, design, contrasts))
    values = values.reshape(-1, *values.shape[-2:])
    count, runs, questions = values.shape
    groups = question_groups(questions, strata)
    weights = question_weights(questions, strata)
    inverse, per_run, known, df_run = solve(d, c)
    b = (per_run @ values).reshape(-1, questions)
    df = max(0, min(df_run, questions - len(groups)))
    spread = per_run @ per_run.T
    most = np.tile(np.abs(per_run).max(axis=1), count)
    v_q = np.zeros((len(b), len(b)))
    v_obs = np.zeros_like(v_q)
    v_run = np.zeros_like(v_q)
    residual = values - d @ (inverse @ values)
    if df_run > 0:
        v_run = v_run + np.kron(_mean_products(residual @ weights, df_run), spread)
    for group in groups:
        if len(group) < 2:
            continue
        v_q += question_covariance(b[:, group], most, residual[:, :, group]) / len(groups) ** 2
        if df_run > 0:
            cell = residual[:, :, group] - residual[:, :, group].mean(axis=2, keepdims=True)
            products = _mean_products(cell.reshape(count, -1), df_run * (len(group) - 1))
            v_obs += np.kron(products, spread) / (len(groups) ** 2 * len(group))
    leverage = np.tile(np.diag(spread), count)
    run, question, both = (np.diag(v) for v in (v_run, v_q, v_obs))
    errors, t_df = fiducial_t(run, question, both, df_run, questions - len(groups), np.tile(known, count))
    return _effects(
        b @ weights, (v_run, v_q, v_obs), errors, t_df, np.tile(known, count), leverage, df, (runs, questions)
    )


def run_effects(
    y: npt.ArrayLike,
    design: npt.ArrayLike,
    contrasts: npt.ArrayLike,
    sampling_variance: npt.ArrayLike | None = None,
) -> Effects:
    """Contrasts of run-level figures, where no questions are known.

    Args:
        y: one figure per run [R], or several responses of the same runs [K, R]: logarithms of seconds or
            dollars, or accuracies.
        design: D [R, P].
        contrasts: [C, P].
        sampling_variance: of every figure, such as p(1 − p)/n of an accuracy, of the shape of `y`: a floor
            of the variance between runs.

    Returns:
        M = K·C effects in the unit of `y`, t on the residual degrees of freedom, more where the floor holds.
    """
    values, d, c = (np.asarray(a, dtype=np.float64) for a in (y, design, contrasts))
    values = values.reshape(-1, values.shape[-1])
    inverse, per_run, known, df = solve(d, c)
    spread = per_run @ per_run.T
    estimates = (values @ per_run.T).ravel()
    v_run = np.zeros((len(estimates), len(estimates)))
    if df > 0:
        v_run = v_run + np.kron(_mean_products(values - values @ inverse.T @ d.T, df), spread)
    v_q = np.zeros_like(v_run)
    if sampling_variance is not None:
        noise = np.asarray(sampling_variance, dtype=np.float64).reshape(values.shape)
        v_q = np.diag(np.concatenate([(per_run**2) @ row for row in noise]))
    leverage = np.tile(np.diag(spread), len(values))
    known = np.tile(known, len(values))
    # The sampling noise of runs is part of their spread already: it floors V_run, it does not add to it.
    run, noise_floor = np.diag(v_run), np.diag(v_q)
    variance = np.maximum(run, noise_floor)
    t_df = float(df)
    usable = known & (run > 0)
    if df > 0 and usable.any():
        # The floor is known, V_run has df: V² / (V_run²/df).
        t_df = float(np.clip((df * (variance[usable] / run[usable]) ** 2).min(), df, MOST_DF))
    return _effects(
        estimates, (v_run, v_q, v_q), np.sqrt(variance), t_df, known, leverage, df, (values.shape[1], 0)
    )


def estimable(design: npt.ArrayLike, contrasts: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which contrasts [C, P] the runs of a design [R, P] determine [C]."""
    return solve(np.asarray(design, dtype=np.float64), np.asarray(contrasts, dtype=np.float64))[2]


def question_groups(questions: int, strata: npt.ArrayLike | None) -> list[npt.NDArray[np.intp]]:
    """Places of the questions of every benchmark; one benchmark if `strata` is None."""
    if strata is None:
        return [np.arange(questions)]
    labels = np.asarray(strata)
    return [np.flatnonzero(labels == label) for label in dict.fromkeys(labels.tolist())]


def question_weights(questions: int, strata: npt.ArrayLike | None) -> FloatArray:
    """Weight of every question in the mean over benchmarks, each weighing the same [Q]."""
    groups = question_groups(questions, strata)
    weights = np.zeros(questions)
    for group in groups:
        weights[group] = 1 / (len(groups) * len(group))
    return weights


def question_covariance(b: FloatArray, most: npt.ArrayLike, residual: FloatArray | None = None) -> FloatArray:
    """Covariance from drawing questions, of contrasts averaged over the questions of one benchmark [M, M].

    Four answers right or wrong by chance give a contrast the variance 4·(most/Q)². A sample variance that fewer than
    four questions make, none where every answer is wrong, is not believed below that. Samples of a question count as
    one answer: nothing shows that they are more.

    Args:
        b: contrasts by question [M, Q], two questions or more.
        most: how much one answer changes a contrast at most [M].
        residual: what the design leaves of the K responses that the contrasts are of [K, R, Q]: it too shows which
            questions vary.
    """
    questions = b.shape[1]
    covariance = np.atleast_2d(np.cov(b)) / questions
    varies = _off_median(b)
    if residual is not None:
        varies |= np.repeat(_off_median(residual).any(axis=1), len(b) // len(residual), axis=0)
    few = varies.sum(axis=1) < min(_FEW_ANSWERS, questions - 1)
    floor = _FEW_ANSWERS * (np.asarray(most, dtype=np.float64) / questions) ** 2
    variances = np.diag(covariance)
    np.fill_diagonal(covariance, np.where(few, np.maximum(variances, floor), variances))
    return covariance


def _off_median(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.asarray(np.abs(values - np.median(values, axis=-1, keepdims=True)) > _ROUNDING)


def solve(d: FloatArray, c: FloatArray) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_], int]:
    """Generalised inverse [P, R], contrasts as weights on runs [M, R], which are estimable [M], residual df."""
    inverse: FloatArray = np.asarray(np.linalg.pinv(d), dtype=np.float64)
    per_run: FloatArray = np.asarray(c @ inverse)
    known = np.asarray(np.isclose(per_run @ d, c, atol=1e-8).all(axis=1))
    return inverse, per_run, known, max(0, d.shape[0] - int(np.linalg.matrix_rank(d)))


def _mean_products(residual: npt.NDArray[Any], df: int) -> npt.NDArray[Any]:
    """Mean squares and cross-products of responses [K, K] from residuals [K, n]."""
    return residual @ residual.T / df


def _effects(
    estimates: FloatArray,
    variances: tuple[FloatArray, FloatArray, FloatArray],
    errors: FloatArray,
    t_df: float,
    known: npt.NDArray[np.bool_],
    leverage: FloatArray,
    df: int,
    shape: tuple[int, int],
) -> Effects:
    """Effects with what does not depend on how errors were found; `variances`: V_run, V_q and V_obs [M, M]."""
    run, question, both = (np.diag(v).copy() for v in variances)
    errors = np.where(errors < _ROUNDING, 0.0, errors)
    estimates = np.where(np.abs(estimates) < _ROUNDING, 0.0, estimates)
    return Effects(
        effects=np.where(known, estimates, math.nan),
        errors=np.where(known & (df > 0), errors, math.nan),
        correlation=_correlation(variances[0] + variances[1]),
        run_variance=run,
        question_variance=question,
        interaction_variance=both,
        leverage=leverage,
        df=df,
        t_df=t_df if df > 0 else 0.0,
        runs=shape[0],
        questions=shape[1],
    )


def _correlation(covariance: FloatArray) -> FloatArray:
    """Correlation of V_run + V_q: unlike the difference with V_obs, it is never indefinite."""
    scale = np.sqrt(np.diag(covariance))
    safe = np.where(scale > 0, scale, 1.0)
    correlation = np.clip(covariance / np.outer(safe, safe), -1.0, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return np.asarray(correlation)
