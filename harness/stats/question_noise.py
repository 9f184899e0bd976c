"""Questions: which benchmark each is of, what it weighs, and what drawing others would change."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

ROUNDING = 1e-12
"""Effects and standard errors below this are rounding errors of differences of fractions."""
_FEW_ANSWERS = 4
"""A variance that rests on fewer questions than this is at least that of as many answers: of n answers that are all
wrong, Wilson's interval ends at z²/n, which is z standard errors of √4/n."""


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


def question_covariance(
    b: FloatArray,
    most: npt.ArrayLike,
    residual: FloatArray | None = None,
    clusters: npt.NDArray[Any] | None = None,
) -> FloatArray:
    """Covariance from drawing questions, of contrasts averaged over the questions of one benchmark [M, M].

    Questions of one cluster, such as a topic, may rise and fall together: then clusters are what is drawn, and the
    variance is that of their sums of deviations (Liang and Zeger 1986; as Miller 2024, arXiv 2411.00640, section 2.2,
    has it for one evaluation), without bias where clusters differ and have unequal sizes.

    Four answers right or wrong by chance give a contrast the variance 4·(most/Q)². A sample variance that fewer than
    four questions make, none where every answer is wrong, is not believed below that. Samples of a question count as
    one answer: nothing shows that they are more.

    Args:
        b: contrasts by question [M, Q], two questions or more.
        most: how much one answer changes a contrast at most [M].
        residual: what the design leaves of the K responses that the contrasts are of [K, R, Q]: it too shows which
            questions vary.
        clusters: of every question [Q], two or more; each question is one if None.
    """
    questions = b.shape[1]
    deviations = cluster_deviations(b, clusters)
    covariance = deviations @ deviations.T
    varies = _off_median(b)
    if residual is not None:
        varies |= np.repeat(_off_median(residual).any(axis=1), len(b) // len(residual), axis=0)
    few = varies.sum(axis=1) < min(_FEW_ANSWERS, questions - 1)
    floor = _FEW_ANSWERS * (np.asarray(most, dtype=np.float64) / questions) ** 2
    variances = np.diag(covariance)
    np.fill_diagonal(covariance, np.where(few, np.maximum(variances, floor), variances))
    return covariance


def cluster_deviations(values: FloatArray, clusters: npt.NDArray[Any] | None) -> FloatArray:
    """Deviations of questions from their mean, summed by cluster and scaled [..., clusters]: the sum of their squares
    is the variance of the mean over questions."""
    questions = values.shape[-1]
    deviations = values - values.mean(axis=-1, keepdims=True)
    if clusters is None:
        return np.asarray(deviations / math.sqrt(questions * (questions - 1)))
    names, place, counts = np.unique(clusters, return_inverse=True, return_counts=True)
    form, share = _cluster_form(counts / questions)
    sums = deviations @ np.eye(len(names))[place]
    return np.asarray(sums * (math.sqrt(float((share**2).sum() / np.trace(form))) / questions))


def cluster_df(clusters: npt.NDArray[Any]) -> float:
    """Degrees of freedom of the variance of a mean over clusters that differ, Satterthwaite's; one less than their
    number where they are of equal size."""
    counts = np.unique(clusters, return_counts=True)[1]
    if len(counts) < 2:
        return 0.0
    form, _ = _cluster_form(counts / counts.sum())
    return float(np.trace(form)) ** 2 / float((form * form).sum())


def _cluster_form(share: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The quadratic form in effects of clusters that sums of squared deviations are [C, C], and the shares."""
    centred = np.eye(len(share)) - np.outer(np.ones(len(share)), share)
    return centred.T @ np.diag(share**2) @ centred, share


def _off_median(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.asarray(np.abs(values - np.median(values, axis=-1, keepdims=True)) > ROUNDING)
