"""Effects with two-way (run × question) uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from harness.stats.contrasts import Effects, Reference, Unit, assembled, reference_of, run_variances, solve
from harness.stats.fiducial import MOST_DF
from harness.stats.power import MIN_DF
from harness.stats.question_noise import (
    cluster_deviations,
    cluster_df,
    question_covariance,
    question_groups,
    question_weights,
)
from harness.stats.run_noise import POOLED, methods, partition

FloatArray = npt.NDArray[np.float64]


def two_way_effects(
    y: npt.ArrayLike,
    design: npt.ArrayLike,
    contrasts: npt.ArrayLike,
    strata: npt.ArrayLike | None = None,
    *,
    levels: Sequence[object] = (),
    clusters: npt.ArrayLike | None = None,
    samples: int = 1,
    unit: Unit = "recipe",
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
        levels: level of every run on the axis that is judged [R], for levels whose runs differ unequally: see
            `harness.stats.run_noise`; one spread for all runs if empty.
        clusters: topic, source or template of every question [Q], a cluster of one benchmark each: questions of one
            are not independent of each other, so that clusters are what is counted.
        samples: K that shares of right answers are of, for what more of them would buy; 1 where `y` are none.
        unit: `recipe`: what other runs of the same levels would give. `checkpoint`: these very checkpoints, whose
            difference from others of their recipe is part of the effect; noise is that of questions and answers.

    Returns:
        M = K·C effects in the unit of `y`. Errors are NaN where df is 0.
    """
    values, d, c = (np.asarray(a, dtype=np.float64) for a in (y, design, contrasts))
    values = values.reshape(-1, *values.shape[-2:])
    count, runs, questions = values.shape
    groups = question_groups(questions, strata)
    weights = question_weights(questions, strata)
    owner = None if clusters is None else np.asarray(clusters)
    units = sum(len(g) if owner is None else len(set(owner[g].tolist())) for g in groups)
    inverse, per_run, known, df_run = solve(d, c)
    b = (per_run @ values).reshape(-1, questions)
    most = np.tile(np.abs(per_run).max(axis=1), count)
    residual = values - d @ (inverse @ values)
    parts = partition(d, inverse, per_run, levels or [0] * runs)
    chosen = [*methods(parts)] * count
    v_q = np.zeros((len(b), len(b)))
    cells: list[tuple[FloatArray, float]] = []
    for group in groups:
        own = None if owner is None else owner[group]
        if len(group) < 2 or (own is not None and len(set(own.tolist())) < 2):
            continue
        v_q += question_covariance(b[:, group], most, residual[:, :, group], own) / len(groups) ** 2
        cells.append((cluster_deviations(residual[:, :, group], own), 1 / len(groups) ** 2))
    means = residual @ weights
    leverage = np.tile((per_run**2).sum(axis=1), count)
    known = np.tile(known, count)
    df_questions = float(
        questions - len(groups) if owner is None else sum(cluster_df(owner[g]) for g in groups)
    )
    if unit == "checkpoint":
        nothing = np.zeros_like(v_q)
        errors = np.sqrt(np.maximum(np.diag(v_q), 0.0))
        return assembled(
            b @ weights, (nothing, v_q, nothing), Reference(
                errors, np.full(len(b), float(df_questions)), np.zeros(len(b)),
                np.full(len(b), _whole(df_questions)), (POOLED,) * len(b),
            ), known, leverage, _whole(df_questions), (runs, questions, units),
        )  # fmt: skip
    df = max(0, min(df_run, _whole(df_questions)))
    whole = replace(parts, members=np.ones((1, runs), dtype=np.bool_), df=np.array([float(df_run)]))
    by_level = any(method != "pooled" for method, _ in chosen)
    variances = [run_variances(whole, means, cells) if df_run > 0 else (v_q * 0, v_q * 0)] * 2
    if by_level:
        variances[1] = run_variances(parts, means, cells)
    sampling = None
    if samples > 1:
        # E[y(1 − y)] is K − 1 times the variance of a share of K samples.
        drawn = ((values * (1 - values)) @ weights**2) / (samples - 1)
        sampling = np.concatenate([(per_run**2) @ row for row in drawn])
    reference, run, both = reference_of(
        chosen, parts, means, variances, np.diag(v_q), df_run, df_questions, known
    )
    v_run = variances[by_level][0].copy()
    v_obs = variances[by_level][1].copy()
    np.fill_diagonal(v_run, run)
    np.fill_diagonal(v_obs, both)
    return assembled(
        b @ weights, (v_run, v_q, v_obs), reference, known, leverage, df, (runs, questions, units),
        shape=variances[by_level][0] + v_q,
        sampling=sampling,
    )  # fmt: skip


def _whole(df: float) -> int:
    return math.floor(df + 1e-9)


@dataclass(frozen=True, kw_only=True)
class AnswerNoise:
    """What drawing answers anew would change in run-level figures.

    Attributes:
        variance: of every figure [R], or [K, R] of several responses.
        df: degrees of freedom that measured it, from evaluations that were repeated; None where p(1 − p)/n stands for
            it, an upper bound.
        shared: variance of what all figures are differences to, such as one evaluation of the untrained model:
            measured once, it counts once, whatever it is compared with; by response [K], or one number.
    """

    variance: FloatArray
    df: float | None = None
    shared: FloatArray | float = 0.0


_LEAST_OF_ANSWERS = 0.2
"""Runs in numbers enough for a verdict measure their noise themselves, that of drawing answers included. Questions
are unlike each other and the same for all runs, so that p(1 − p)/n is up to five times what runs show. Agreement of
runs is not believed below a fifth of it."""


def run_effects(
    y: npt.ArrayLike,
    design: npt.ArrayLike,
    contrasts: npt.ArrayLike,
    answers: AnswerNoise | None = None,
    *,
    levels: Sequence[object] = (),
    unit: Unit = "recipe",
) -> Effects:
    """Contrasts of run-level figures, where no questions are known.

    Args:
        y: one figure per run [R], or several responses of the same runs [K, R]: logarithms of seconds or
            dollars, or accuracies.
        design: D [R, P].
        contrasts: [C, P].
        answers: noise of drawing answers, for accuracies. It is part of the runs' spread already and floors V_run
            where fewer than `MIN_DF` degrees of freedom measure that; a fifth of it does otherwise.
        levels: level of every run on the axis that is judged [R]: see `two_way_effects`.
        unit: `recipe`, or `checkpoint`: then noise is that of drawing answers alone.

    Returns:
        M = K·C effects in the unit of `y`, t on the residual degrees of freedom, more where the floor holds.
    """
    values, d, c = (np.asarray(a, dtype=np.float64) for a in (y, design, contrasts))
    values = values.reshape(-1, values.shape[-1])
    count, runs = values.shape
    inverse, per_run, known, df = solve(d, c)
    estimates = (values @ per_run.T).ravel()
    known, leverage = np.tile(known, count), np.tile((per_run**2).sum(axis=1), count)
    noise, shared = np.zeros_like(estimates), np.zeros_like(estimates)
    if answers is not None:
        of_figures = np.broadcast_to(np.asarray(answers.variance, dtype=np.float64), values.shape)
        noise = np.concatenate([(per_run**2) @ row for row in of_figures])
        once = np.broadcast_to(np.asarray(answers.shared, dtype=np.float64), (count,))
        shared = np.concatenate([per_run.sum(axis=1) ** 2 * v for v in once])
    if unit == "checkpoint":
        answers_df = float(MOST_DF if answers is None or answers.df is None else answers.df)
        variance = noise + shared
        reference = Reference(
            np.sqrt(variance), np.full(len(estimates), answers_df), np.zeros(len(estimates)),
            np.full(len(estimates), math.floor(answers_df)), (POOLED,) * len(estimates),
        )  # fmt: skip
        whole = np.diag(variance)
        given = int(answers is not None and answers_df >= 1) * math.floor(answers_df)
        return assembled(
            estimates, (whole * 0, whole, whole * 0), reference, known, leverage, given, (runs, 0, 0)
        )
    parts = partition(d, inverse, per_run, levels or [0] * runs)
    chosen = [*methods(parts)] * count
    residual = values - values @ inverse.T @ d.T
    whole_parts = replace(parts, members=np.ones((1, runs), dtype=np.bool_), df=np.array([float(df)]))
    zero = np.zeros((len(estimates),) * 2)
    by_level = any(method != "pooled" for method, _ in chosen)
    pairs = [run_variances(whole_parts, residual, ()) if df > 0 else (zero, zero)] * 2
    if by_level:
        pairs[1] = run_variances(parts, residual, ())
    reference, run, _ = reference_of(
        chosen, parts, residual, [(r, zero) for r, _ in pairs], np.zeros(len(estimates)), df, 10**6, known
    )
    believed = 1.0 if answers is not None and answers.df is not None else _LEAST_OF_ANSWERS
    floor = np.where(reference.run_df >= MIN_DF, believed, 1.0) * noise
    variance = np.maximum(reference.errors**2, floor)
    # The floor is known, V_run has its df: V² / (V_run²/df).
    usable = known & (run > 0) & (df > 0)
    ratio = (variance + shared) / np.where(usable, run, 1.0)
    t_df = np.where(usable, np.minimum(reference.t_df * ratio**2, MOST_DF), float(df))
    same = np.array([method == "pooled" for method, _ in chosen])
    if (same & usable).any():
        t_df = np.where(same, t_df[same & usable].min(), t_df)
    reference = replace(reference, errors=np.sqrt(variance + shared), t_df=t_df)
    covariance = pairs[by_level][0].copy()
    np.fill_diagonal(covariance, run)
    answered = np.diag(noise)
    return assembled(
        estimates, (covariance, answered, answered), reference, known, leverage, df, (runs, 0, 0),
        shape=pairs[by_level][0] + answered + np.sqrt(np.outer(shared, shared)),
    )  # fmt: skip
