"""The best cell of the grid: what it scores, whether that is luck, and what it scores where it was not chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from harness.reporting.analysis.families import Family, Nest
from harness.reporting.analysis.questions import measured_cells, seed_blocks
from harness.reporting.analysis.responses import FloatArray, Layout, Lookup
from harness.stats.bestof import BestOf, Corrected, best_of_mean, corrected_best
from harness.stats.max_t import MaxT, max_t

Key = tuple[tuple[str, ...], Nest]
"""A cell: its levels of axes between families, and of those within."""


@dataclass(frozen=True, kw_only=True)
class BestCell:
    """The cell with the highest mean accuracy over benchmarks; figures are fractions.

    Attributes:
        levels: level by axis that is varied.
        runs: runs that its figure averages.
        luck: that figure beside what the best of as many identical cells would show.
        luck_of: what tells identical cells apart: the spread that `runs` of a cell show, or, where no cell has two,
            the drawing of `answers` alone.
        lead: distance from the mean of the other cells of its training length; None where not determined.
        p_value: one-sided, adjusted for the choice among all cells; None where no permutation can tell.
        reason: why there is none; empty where there is.
        permutations: arrangements of runs that it rests on.
        exact: whether these are all there are.
        is_baseline: whether the best cell is the baseline itself, at its length.
        baseline_lead: distance from the baseline cell of its length; None where there is none.
        baseline_p_value: one-sided, adjusted for all cells that are compared with the baseline; None likewise.
        corrected: its accuracy where it was not chosen; None where nothing can be left out.
    """

    levels: dict[str, str]
    runs: int
    luck: BestOf
    luck_of: Literal["runs", "answers"]
    lead: float | None
    p_value: float | None
    reason: str
    permutations: int
    exact: bool
    is_baseline: bool
    baseline_lead: float | None
    baseline_p_value: float | None
    corrected: Corrected | None


@dataclass(frozen=True)
class _Runs:
    """Families that have every required cell.

    Attributes:
        y: shares by cell within families, family and question, complete [K, R, Q].
        strata: benchmark of every question [Q].
        cells: number of every family's levels [R].
        seeds: block of every family [R].
        names: levels by number [C].
    """

    y: FloatArray
    strata: npt.NDArray[np.intp]
    cells: list[int]
    seeds: list[int | None]
    names: list[tuple[str, ...]]

    def judged(self, reference: int | None = None) -> MaxT:
        return max_t(self.y, self.cells, self.seeds, strata=self.strata, reference=reference)


def best_cell(
    layout: Layout,
    lookup: Lookup,
    strata: npt.NDArray[np.intp],
    scores: Mapping[tuple[str, int], float],
    sampled: BestOf,
    sampling_variance: float,
    alpha: float,
) -> BestCell | None:
    """The best cell of a grid with two cells at least that differ in more than training length.

    Args:
        layout: of the study.
        lookup: shares of right samples.
        strata: benchmark of every question [Q].
        scores: mean accuracy over benchmarks by (run, step).
        sampled: the best trained checkpoint beside the best of as many that only drawing answers tells apart.
        sampling_variance: of one evaluation of such a checkpoint.
        alpha: a p-value that cannot be this small tells nothing.
    """
    found = _cells(layout, scores)
    if len({levels for levels, _ in found}) < 2:
        return None
    best = max(found, key=lambda key: float(np.mean(found[key])))
    runs = _runs(layout, lookup, strata)
    place = None
    if runs and best[0] in runs.names and best[1] in layout.cells:
        place = layout.cells.index(best[1]), runs.names.index(best[0])
    result = runs.judged() if runs else None
    axes = list(layout.families[0].levels)
    base = tuple(layout.baselines[axis] for axis in axes)
    against = runs.judged(runs.names.index(base)) if runs and base in runs.names else None
    spread = result.run_variance if result else math.nan
    lead, p_value, reason = _read(result, place, alpha)
    baseline_lead, baseline_p, _ = _read(against, place, alpha)
    return BestCell(
        levels={
            **{a: v for a, v in zip(axes, best[0]) if a in layout.axes},
            **dict(zip(layout.nest, best[1])),
        },
        runs=len(found[best]),
        luck=_luck(found, best, spread, sampled, sampling_variance),
        luck_of="answers" if math.isnan(spread) else "runs",
        lead=lead,
        p_value=p_value,
        reason=reason,
        permutations=result.permutations if result else 0,
        exact=result.exact if result else True,
        is_baseline=best[0] == base,
        baseline_lead=baseline_lead,
        baseline_p_value=baseline_p,
        corrected=corrected_best(runs.y, runs.cells, runs.strata) if runs and place else None,
    )


def _luck(
    found: Mapping[Key, list[float]], best: Key, spread: float, sampled: BestOf, sampling_variance: float
) -> BestOf:
    """The best of as many identical cells, from what runs of a cell differ by, or else from drawing answers alone."""
    if math.isnan(spread) and sampled.checkpoints == len(found):
        return sampled
    means = [float(np.mean(values)) for values in found.values()]
    # Seeds add to the noise of drawing answers, they never take from it.
    of_run = float(np.fmax(spread, sampling_variance))
    variance = of_run * float(np.mean([1 / len(values) for values in found.values()]))
    return best_of_mean(len(found), float(np.mean(found[best])), [(float(np.mean(means)), variance)])


def _cells(layout: Layout, scores: Mapping[tuple[str, int], float]) -> dict[Key, list[float]]:
    """Scores of every measured cell, one for each family."""
    found: dict[Key, list[float]] = {}
    for family in layout.families:
        for cell, places in family.cells.items():
            own = [scores[place] for place in places if place in scores]
            if own:
                found.setdefault((tuple(family.levels.values()), cell), []).append(float(np.mean(own)))
    return found


def _runs(layout: Layout, lookup: Lookup, strata: npt.NDArray[np.intp]) -> _Runs | None:
    whole: list[tuple[Family, list[FloatArray]]] = []
    for family in sorted(layout.families, key=lambda f: -1 if f.seed is None else f.seed):
        if (cells := measured_cells(family, layout.cells, lookup)) is not None:
            whole.append((family, list(cells.values())))
    names = list(dict.fromkeys(tuple(f.levels.values()) for f, _ in whole))
    if len(names) < 2:
        return None
    y = np.swapaxes(np.array([parts for _, parts in whole]), 0, 1)
    complete = np.isfinite(y).all(axis=(0, 1))
    if not complete.any():
        return None
    families = [f for f, _ in whole]
    cells_of = [names.index(tuple(f.levels.values())) for f in families]
    blocks = seed_blocks(families, shared=layout.shared_seeds)
    return _Runs(y[:, :, complete], strata[complete], cells_of, blocks, names)


def _read(
    result: MaxT | None, place: tuple[int, int] | None, alpha: float
) -> tuple[float | None, float | None, str]:
    """Distance, p-value and why there is none of a cell (length, number)."""
    lead = float(result.estimates[place]) if result and place else math.nan
    known = None if math.isnan(lead) else lead
    if result is None:
        return known, None, "there are no two cells whose runs have equal training lengths"
    if result.reason:
        return known, None, result.reason
    if place is None:
        return known, None, "not every run was measured at its training length"
    if result.least_p > alpha:
        least = f"{result.least_p:.2g}"
        return (
            known,
            None,
            f"with so few runs not even the clearest result would have a p-value below {least}",
        )
    return known, None if known is None else float(result.p_values[place]), ""
