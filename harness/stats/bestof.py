"""What the best of several would score if all were the same, and what the best one scores where it was not chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import integrate, optimize, signal, stats

from harness.stats.fiducial import inverse_chi_square
from harness.stats.power import MIN_DF
from harness.stats.question_noise import question_groups, question_weights

FloatArray = npt.NDArray[np.float64]

_SAMPLES_FOR_QUESTION_RATES = 8
"""Samples per question, over all checkpoints, from which a question's own rate is used."""

_FOLDS = 10
"""Parts of the questions, of which each in turn measures what the others choose."""
_TIE = 1e-12
_REACH = 8.0
"""Standard deviations that the noise between runs reaches."""


@dataclass(frozen=True)
class RunNoise:
    """What identical recipes differ by under other seeds, on the same questions, beside the drawing of answers.

    Attributes:
        variance: between runs, of an accuracy.
        df: degrees of freedom that measured it; None where it is assumed, and taken for known.
    """

    variance: float
    df: float | None

    @classmethod
    def of(cls, mean_square: float, sampling: float, df: float, *, assumed: float) -> RunNoise:
        """From what runs differ by once axes and seeds are accounted for.

        Args:
            mean_square: residual mean square of accuracies of runs.
            sampling: what drawing answers contributes to it.
            df: its degrees of freedom; below `MIN_DF` it says too little.
            assumed: standard deviation between runs where it is not measured.
        """
        if df < MIN_DF or not math.isfinite(mean_square):
            return cls(assumed**2, None)
        return cls(max(0.0, mean_square - sampling), df)

    def nodes(self) -> list[tuple[float, float]]:
        """Weights and variances over what the variance may be, df/χ²_df times its estimate."""
        if self.df is None or self.variance == 0:
            return [(1.0, self.variance)]
        weights, factors = inverse_chi_square(self.df)
        return list(zip(weights.tolist(), (self.variance * factors).tolist()))


NO_RUN_NOISE = RunNoise(0.0, None)


@dataclass(frozen=True)
class BestOf:
    """The guard's figures, fractions.

    Attributes:
        checkpoints: how many were compared.
        mean: their pooled accuracy.
        best: the best one's.
        expected: expectation of the best of as many identical checkpoints.
        upper: 95 % quantile of that best.
        p_value: probability that the best of identical checkpoints is at least as good as the one observed.
        run_noise: between runs, that was taken to be in each beside the drawing of answers.
    """

    checkpoints: int
    mean: float
    best: float
    expected: float
    upper: float
    p_value: float
    run_noise: RunNoise

    @property
    def chance(self) -> bool:
        """Whether it is within what chance gives, which the p-value tells: published figures are rounded, so that
        they may lie a digit above a bound that they meet."""
        return self.p_value >= 0.05


def correct_distribution(rates: npt.ArrayLike, samples: npt.ArrayLike) -> FloatArray:
    """Exact distribution of the number of right samples, Σ Binomial(K_q, p_q), by convolution.

    Args:
        rates: p_q, chance of a right answer per question [Q].
        samples: K_q [Q].

    Returns:
        Probabilities of 0 … Σ K_q right samples.
    """
    p, k = np.asarray(rates, dtype=np.float64), np.asarray(samples, dtype=np.int64)
    size = int(k.sum()) + 1
    # The characteristic function at the Fourier frequencies; its inverse transform is the distribution.
    angles = np.exp(-2j * np.pi * np.arange(size) / size)
    transform = np.ones(size, dtype=np.complex128)
    for (rate, tries), count in _counted(p, k).items():
        transform *= (1 - rate + rate * angles) ** (tries * count)
    pmf = np.maximum(np.fft.ifft(transform).real, 0.0)
    return np.asarray(pmf / pmf.sum())


def _counted(p: FloatArray, k: npt.NDArray[np.int64]) -> dict[tuple[float, int], int]:
    counts: dict[tuple[float, int], int] = {}
    for rate, tries in zip(p.tolist(), k.tolist()):
        counts[rate, tries] = counts.get((rate, tries), 0) + 1
    return counts


def best_of_identical(
    checkpoints: int,
    mean: float,
    best: float,
    *,
    rates: npt.ArrayLike,
    samples: npt.ArrayLike,
    run_noise: RunNoise = NO_RUN_NOISE,
) -> BestOf:
    """The guard for one benchmark.

    Args:
        checkpoints: number compared.
        mean: their pooled accuracy.
        best: the best one's accuracy.
        rates: p_q of the common model [Q]; the pooled accuracy everywhere if questions are not known.
        samples: K_q of one evaluation [Q].
        run_noise: between runs.
    """
    total = int(np.asarray(samples).sum())
    if checkpoints < 1 or total < 1:
        return BestOf(checkpoints, mean, best, math.nan, math.nan, math.nan, run_noise)
    answers = correct_distribution(rates, samples)
    of_best = np.zeros(total + 1)
    for weight, variance in run_noise.nodes():
        counts = _spread(answers, math.sqrt(variance) * total)
        of_best += weight * np.minimum(1.0, np.cumsum(counts)) ** checkpoints
    # E max = Σ_x P(max > x).
    expected = float((1 - of_best[:-1]).sum()) / total
    upper = float(np.searchsorted(of_best, 0.95)) / total
    at = round(best * total)
    p_value = 1.0 - (float(of_best[at - 1]) if at > 0 else 0.0)
    return BestOf(checkpoints, mean, best, expected, upper, p_value, run_noise)


def _spread(counts: FloatArray, deviation: float) -> FloatArray:
    """A distribution of counts with a normal deviation added, rounded and kept within their range."""
    if deviation < _TIE:
        return counts
    reach = math.ceil(_REACH * deviation)
    steps = np.diff(stats.norm.cdf((np.arange(-reach, reach + 2) - 0.5) / deviation))
    wide = np.maximum(signal.fftconvolve(counts, steps / steps.sum()), 0.0)
    kept = wide[reach : reach + len(counts)].copy()
    kept[0] += wide[:reach].sum()
    kept[-1] += wide[reach + len(counts) :].sum()
    return np.asarray(kept / kept.sum())


def best_of_mean(
    checkpoints: int,
    best: float,
    parts: Sequence[tuple[float, float]],
    *,
    run_noise: RunNoise = NO_RUN_NOISE,
) -> BestOf:
    """The guard for the mean over benchmarks, with a normal approximation.

    Args:
        checkpoints: number compared.
        best: the best mean over benchmarks.
        parts: mean accuracy of each benchmark and the variance of one evaluation of it.
        run_noise: between runs, of the mean over benchmarks.
    """
    mean = float(np.mean([m for m, _ in parts]))
    answers = sum(v for _, v in parts) / len(parts) ** 2
    nodes = [(weight, math.sqrt(answers + variance)) for weight, variance in run_noise.nodes()]
    if checkpoints < 1 or max(spread for _, spread in nodes) == 0:
        return BestOf(checkpoints, mean, best, mean, mean, float(best <= mean), run_noise)
    weights, spreads = (np.array(part) for part in zip(*nodes))

    def exceeding(x: float) -> float:
        return float(weights @ -np.expm1(checkpoints * stats.norm.logcdf((x - mean) / spreads)))

    expected = mean + float(weights @ spreads) * expected_normal_maximum(checkpoints)
    far = mean + 20 * float(spreads.max())
    upper = float(optimize.brentq(lambda x: exceeding(x) - 0.05, mean - far, far))
    return BestOf(checkpoints, mean, best, expected, upper, exceeding(best), run_noise)


@cache
def expected_normal_maximum(count: int) -> float:
    """Expectation of the maximum of `count` standard normals."""
    if count == 1:
        return 0.0
    value, _ = integrate.quad(
        lambda x: x * count * stats.norm.pdf(x) * stats.norm.cdf(x) ** (count - 1), -9.0, 9.0
    )
    return float(value)


def question_rates(samples: npt.ArrayLike, correct: npt.ArrayLike) -> FloatArray:
    """Rates of identical checkpoints, from their counts by checkpoint and question [C, Q].

    A question's own rate where the checkpoints together sampled it often enough, otherwise the pooled
    accuracy, which overstates the spread a little.
    """
    k, c = np.asarray(samples, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    pooled = float((c.sum(axis=0) / np.maximum(k.sum(axis=0), 1)).mean())
    enough = k.sum(axis=0) >= _SAMPLES_FOR_QUESTION_RATES
    own = c.sum(axis=0) / np.maximum(k.sum(axis=0), 1)
    return np.where(enough, own, pooled)


@dataclass(frozen=True)
class Corrected:
    """Accuracy of the best cell, measured on what did not choose it.

    Attributes:
        accuracy: a fraction.
        left_out: `runs`: one run of every cell in turn, the luck of runs is taken out; `questions`: a tenth of the
            questions in turn, that of drawing questions and answers is taken out, that of runs is not.
    """

    accuracy: float
    left_out: Literal["runs", "questions"]


def corrected_best(
    y: npt.ArrayLike, cells: npt.ArrayLike, strata: npt.ArrayLike | None = None
) -> Corrected | None:
    """The winner's curse taken out: the best cell is chosen on one part of the data and measured on the other.

    Runs are left out where every cell has two at least, otherwise questions. Cells that tie share the measurement.

    Args:
        y: share of right samples by response, run and question, complete [K, R, Q]; a candidate is a cell's
            response.
        cells: of every run, 0 … C − 1 [R]; the first runs of all cells are left out together, then the second.
        strata: benchmark of every question [Q]; one benchmark if None.

    Returns:
        None where neither runs nor questions can be left out.
    """
    values, cell = np.asarray(y, dtype=np.float64), np.asarray(cells, dtype=np.intp)
    runs_of = [np.flatnonzero(cell == c) for c in range(int(cell.max()) + 1)]
    groups = question_groups(values.shape[2], strata)
    weights = question_weights(values.shape[2], strata)
    if (repeats := min(map(len, runs_of))) > 1:
        scores = values @ weights
        folds = [
            _measured(
                np.array([np.delete(scores[:, runs], j, axis=1).mean(axis=1) for runs in runs_of]),
                scores[:, [runs[j] for runs in runs_of]].T,
            )
            for j in range(repeats)
        ]
        return Corrected(float(np.mean(folds)), "runs")
    if (parts := min(_FOLDS, *map(len, groups))) < 2:
        return None
    part = np.zeros(len(weights), dtype=np.intp)
    for group in groups:
        part[group] = np.arange(len(group)) % parts
    means = np.array([values[:, runs].mean(axis=1) for runs in runs_of])
    shares = [np.where(part == fold, weights, 0.0) for fold in range(parts)]
    total = sum(_measured(means @ (weights - share), means @ share) for share in shares)
    return Corrected(float(total), "questions")


def _measured(chosen_by: FloatArray, measured_by: FloatArray) -> float:
    """What those score that are best by another measure, both by candidate [C, K]."""
    return float(measured_by[chosen_by >= chosen_by.max() - _TIE].mean())
