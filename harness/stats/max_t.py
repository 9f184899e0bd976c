"""Max-T permutation: is the best of many cells better than the best of as many identical ones would look?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, permutations, product

import numpy as np
import numpy.typing as npt

from harness.stats.contrasts import solve
from harness.stats.question_noise import question_groups, question_weights

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

PERMUTATIONS = 9_999
"""Drawn where there are more arrangements than this; a p-value of 0.05 is then known to 0.002."""
_LEAST = 999
_WORK = 10_000_000_000
"""Multiplications, a few seconds, beyond which fewer are drawn, though never fewer than `_LEAST`."""
_CHUNK = 4_000_000
"""Numbers held at once: 32 MB."""
_ROUNDING = 1e-9
"""Statistics closer than this, relatively, are equal, and shares of a sum of squares below it are zero."""


@dataclass(frozen=True, kw_only=True)
class MaxT:
    """What permutations say of C cells, each measured K times along its runs.

    Attributes:
        estimates: distance of each cell from the mean of the others, or from the reference [K, C]; NaN for the
            reference itself.
        statistics: the same over its standard error [K, C].
        p_values: one-sided, adjusted for all K·C distances [K, C]; NaN where no permutation can tell.
        permutations: arrangements compared with the observed one.
        exact: whether these are all there are.
        least_p: below this no result could be, however clear.
        run_variance: mean square between runs of a cell, seeds removed; NaN where no cell has two.
        reason: why there are no p-values; empty where there are.
    """

    estimates: FloatArray
    statistics: FloatArray
    p_values: FloatArray
    permutations: int
    exact: bool
    least_p: float
    run_variance: float
    reason: str


def max_t(
    y: npt.ArrayLike,
    cells: npt.ArrayLike,
    blocks: Sequence[object],
    *,
    strata: npt.ArrayLike | None = None,
    reference: int | None = None,
    most: int = PERMUTATIONS,
    seed: int = 20250320,
) -> MaxT:
    """Single-step max-T permutation test (Westfall and Young 1993, section 2.6) over the cells of a grid.

    Cells and seeds are fitted to the runs, so that unequal seeds and missing runs bias nothing, and each distance
    is divided by √(V_run + V_q) of `two_way_effects`, without the floors that its verdicts need: at a floor many
    arrangements tie, and permutation asks of a standard error only that it moves with the noise. If cells do not
    differ, runs of a seed may change places: p is the share of such arrangements whose largest statistic reaches
    the observed one, all of them where there are at most `most`, else (1 + number that do) / (1 + number drawn). A
    run moves with all its K responses, so that the dependence between checkpoints stays. The error rate holds if no
    cell differs; where some do, p of the others is approximate, as for any pairwise comparison by permutation.

    Args:
        y: share of right samples by response, run and question, complete [K, R, Q]; [R, Q] for one response.
        cells: of every run, 0 … C − 1 [R].
        blocks: seed of every run [R]. Seeds that leave cells incomparable, because each cell has its own, are
            taken for one.
        strata: benchmark of every question [Q]; one benchmark if None.
        reference: the cell that all others are compared with; the mean of the others if None.
        most: permutations at most; fewer are drawn for grids of hundreds of runs.
        seed: of the drawn permutations.

    Raises:
        ValueError: a cell between 0 and the last has no run.
    """
    values = np.asarray(y, dtype=np.float64)
    values = values.reshape(-1, *values.shape[-2:])
    cell, block = np.asarray(cells, dtype=np.intp), _numbered(blocks)
    count = int(cell.max()) + 1
    if len(set(cell.tolist())) != count:
        raise ValueError(f"`cells` must be 0 to {count - 1} without a gap, got {sorted(set(cell.tolist()))}")
    nothing = np.full((len(values), count), math.nan)
    if count < 2:
        return _untold(nothing, "there is nothing to compare it with")
    tested = [c for c in range(count) if c != reference]
    others = (1 - np.eye(count)) / (count - 1) if reference is None else np.eye(count)[[reference] * count]
    contrasts = (np.eye(count) - others)[tested]
    design, per_run, known, df = _fitted(cell, block, contrasts)
    if not known.all():
        block = np.zeros_like(block)
        design, per_run, known, df = _fitted(cell, block, contrasts)
    means = values @ question_weights(values.shape[2], strata)
    estimates = nothing.copy()
    estimates[:, tested] = means @ per_run.T
    if df < 1:
        return _untold(estimates, "one run per cell leaves nothing to tell a cell from the luck of its run")
    order = _order(means.mean(axis=0), cell, block)
    covariance = _covariance(values[:, order], strata)
    fitted = _Fitted(design[order], per_run[:, order], means[:, order], covariance, df)
    affordable = _WORK // (fitted.size * values[..., 0].size)
    places, exact = _arrangements(block[order], min(most, max(_LEAST, affordable)), seed)
    seen, reach = _compared(fitted, places)
    statistics, p_values = nothing.copy(), nothing.copy()
    statistics[:, tested] = seen
    p_values[:, tested] = reach / len(places) if exact else (1 + reach) / (1 + len(places))
    return MaxT(
        estimates=estimates,
        statistics=statistics,
        p_values=p_values,
        permutations=len(places),
        exact=exact,
        least_p=max(_least_share(cell, block, reference), 0.0 if exact else 1 / (1 + len(places))),
        run_variance=fitted.run_variance(),
        reason="",
    )


def _untold(estimates: FloatArray, reason: str) -> MaxT:
    return MaxT(
        estimates=estimates,
        statistics=np.full_like(estimates, math.nan),
        p_values=np.full_like(estimates, math.nan),
        permutations=0,
        exact=True,
        least_p=1.0,
        run_variance=math.nan,
        reason=reason,
    )


def _numbered(labels: Sequence[object]) -> IntArray:
    numbers = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return np.array([numbers[label] for label in labels], dtype=np.intp)


def _fitted(
    cell: IntArray, block: IntArray, contrasts: FloatArray
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_], int]:
    """Design of cells and blocks [R, P], contrasts as weights on runs [M, R], which are known [M], residual df."""
    indicators = [np.eye(int(labels.max()) + 1)[labels] for labels in (cell, block)]
    design = np.hstack(indicators)
    padded = np.hstack([contrasts, np.zeros((len(contrasts), indicators[1].shape[1]))])
    _, per_run, known, df = solve(design, padded)
    return design, per_run, known, df


def _order(scores: FloatArray, cell: IntArray, block: IntArray) -> IntArray:
    """Runs sorted by what was measured, block by block: how cells and runs are listed changes no digit."""
    by_cell, by_block = (
        (np.bincount(labels, scores) / np.bincount(labels))[labels] for labels in (cell, block)
    )
    return np.lexsort((scores, by_cell, block, by_block))


def _covariance(values: FloatArray, strata: npt.ArrayLike | None) -> FloatArray:
    """Covariance between runs of the mean over benchmarks, from drawing questions, by response [K, R, R]."""
    count, runs, questions = values.shape
    groups = question_groups(questions, strata)
    total = np.zeros((count, runs, runs))
    for group in groups:
        if len(group) > 1:
            share = 1 / (len(groups) ** 2 * len(group))
            total += share * np.array([np.cov(v) for v in values[:, :, group]])
    return total


class _Fitted:
    """The fit of cells and seeds to runs, and the statistics it gives when runs change places.

    V_run and V_q are quadratic forms: of the run means in the design's columns, and of the runs' covariance over
    questions in the contrasts. Moving these instead of the runs makes matrix products in which questions no longer
    appear.
    """

    def __init__(
        self, design: FloatArray, per_run: FloatArray, means: FloatArray, covariance: FloatArray, df: int
    ) -> None:
        self._basis = np.linalg.svd(design, full_matrices=False)[0][:, : len(design) - df].T
        self._per_run = per_run
        self._spread = (per_run**2).sum(axis=1)[:, None]
        # Seeds and cells take up the grand mean; without it the differences of squares below lose fewer digits.
        self._means = means - means.mean(axis=1, keepdims=True)
        self._covariance = covariance
        self._df = df

    @property
    def size(self) -> int:
        """Numbers that one arrangement takes."""
        return int(self._basis.size + self._per_run.size)

    def statistics(self, places: IntArray) -> FloatArray:
        """Distances over standard errors.

        Args:
            places: arrangements of the runs [B, R].

        Returns:
            [B, K, M], infinite where there is no noise at all.
        """
        weights, basis = self._per_run[:, places], self._basis[:, places]
        found = np.empty((len(places), len(self._means), len(weights)))
        for k, (means, covariance) in enumerate(zip(self._means, self._covariance)):
            estimate = weights @ means
            estimate[np.abs(estimate) < _ROUNDING] = 0.0
            v_run = self._spread * self._mean_square(means, basis)
            v_q = ((weights @ covariance) * weights).sum(axis=2)
            error = np.sqrt(v_run + np.maximum(v_q, 0.0))
            none = error <= _ROUNDING * np.abs(estimate)
            found[:, k] = np.where(
                none, np.copysign(math.inf, estimate), estimate / np.where(none, 1.0, error)
            ).T
            found[:, k][estimate.T == 0] = 0.0
        return found

    def run_variance(self) -> float:
        """Mean square between runs, cells and seeds removed, averaged over responses."""
        return float(np.mean([self._mean_square(m, self._basis) for m in self._means]))

    def _mean_square(self, means: FloatArray, basis: FloatArray) -> FloatArray:
        """Residual mean square of run means [R] under bases [P, …, R], each of orthonormal columns."""
        total = float(means @ means)
        left = total - ((basis @ means) ** 2).sum(axis=0)
        return np.where(left > _ROUNDING * total, left, 0.0) / self._df


def _arrangements(block: IntArray, most: int, seed: int) -> tuple[IntArray, bool]:
    """Arrangements of runs within blocks [B, R], blocks one after the other [R], and whether these are all."""
    sizes = [len(list(same)) for _, same in groupby(block.tolist())]
    if math.prod(map(math.factorial, sizes)) <= most:
        parts = np.split(np.arange(len(block)), np.cumsum(sizes)[:-1])
        every = [np.concatenate(p) for p in product(*map(permutations, parts))]
        return np.array(every, dtype=np.intp), True
    # Keys between two whole numbers for each block: sorting them mixes runs within blocks only.
    keys = np.repeat(np.arange(len(sizes)), sizes) + np.random.default_rng(seed).random((most, len(block)))
    return np.argsort(keys, axis=1), False


def _compared(fitted: _Fitted, places: IntArray) -> tuple[FloatArray, IntArray]:
    """Observed statistics [K, M], and how many arrangements have a largest one that reaches each of them."""
    seen = fitted.statistics(np.arange(places.shape[1])[None])[0]
    size = max(1, _CHUNK // fitted.size)
    chunks = (places[i : i + size] for i in range(0, len(places), size))
    largest = np.sort(np.concatenate([fitted.statistics(chunk).max(axis=(1, 2)) for chunk in chunks]))
    bounds = seen * (1 - _ROUNDING * np.sign(seen))
    return seen, len(largest) - np.searchsorted(largest, bounds)


def _least_share(cell: IntArray, block: IntArray, reference: int | None) -> float:
    """Share of arrangements that only rename cells with equally many runs in every block: all are as extreme."""
    table = np.zeros((int(cell.max()) + 1, int(block.max()) + 1), dtype=np.intp)
    np.add.at(table, (cell, block), 1)
    alike = Counter((*row, c == reference) for c, row in enumerate(table.tolist()))
    renamed = math.prod(math.factorial(n) for n in alike.values())
    arranged = math.prod(math.factorial(n) for n in table.sum(axis=0).tolist())
    within = math.prod(math.factorial(n) for n in table.ravel().tolist())
    return renamed * within / arranged
