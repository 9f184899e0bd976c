"""Accuracy against cost and memory: which cells no other beats, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.reporting.analysis.analysis import Analysis
from harness.reporting.analysis.cells import ordered_cells
from harness.reporting.analysis.performance import (
    PEAK_MEMORY,
    RELATIVE_DELTA,
    TRAINING_COST,
    checkpoint_metric,
)
from harness.reporting.analysis.verdict_rows import ALL
from harness.stats.intervals import Interval

FloatArray = npt.NDArray[np.float64]

_DRAWS = 400
_SEED = 7
_Z95 = 1.959964


@dataclass(frozen=True)
class ParetoPoint:
    """A cell where accuracy, money and memory meet.

    Attributes:
        label: its levels.
        cost_usd: of training it.
        memory_gib: peak; None where not measured.
        accuracy: mean over benchmarks with its interval.
        on_front: no cell is more accurate at a cost and a memory that are no higher.
        share: of redraws of every accuracy within its interval in which it is on the front.
    """

    label: str
    cost_usd: float
    memory_gib: float | None
    accuracy: Interval
    on_front: bool
    share: float


def pareto_points(analysis: Analysis) -> list[ParetoPoint]:
    """Every cell whose cost and accuracy are known, in the grid's order."""
    study = analysis.study
    money, memory = checkpoint_metric(study, TRAINING_COST), checkpoint_metric(study, PEAK_MEMORY)
    rows = []
    for cell in ordered_cells(study):
        key = (str(cell["run"]), int(cell["step"]))
        score = analysis.accuracy.get((*key, ALL))
        if key in money and score is not None:
            several = f" · seed {cell['seed']}" if analysis.settings.seeds > 1 else ""
            label = ", ".join(f"{a} = {cell[a]}" for a in study.axes) + several
            rows.append((label, money[key], memory.get(key), score))
    if not rows:
        return []
    costs = [np.array([r[1] for r in rows])]
    if all(r[2] is not None for r in rows):
        costs.append(np.array([r[2] for r in rows], dtype=np.float64))
    scores = np.array([r[3].estimate for r in rows])
    spread = np.array([(r[3].high - r[3].low) / (2 * _Z95) for r in rows])
    drawn = np.random.default_rng(_SEED).normal(scores, spread, (_DRAWS, len(rows)))
    there = on_front(scores[None, :], costs)[0]
    share = on_front(drawn, costs).mean(axis=0)
    return [ParetoPoint(*r, bool(f), float(s)) for r, f, s in zip(rows, there, share)]


def on_front(scores: FloatArray, costs: Sequence[FloatArray]) -> npt.NDArray[np.bool_]:
    """Which cells no other beats: more accurate at costs no higher.

    Costs that differ by less than `RELATIVE_DELTA` count as equal, as in the verdicts: otherwise noise in seconds
    would put several cells of one price on the front. Among cells of equal costs and accuracy the cheapest stays.

    Args:
        scores: accuracy in every draw [D, C].
        costs: figures of which less is better, each [C].
    """
    found = np.ones(scores.shape, dtype=bool)
    cheapness = -costs[0]
    for i in range(scores.shape[1]):
        rivals = np.logical_and.reduce([c <= c[i] * (1 + RELATIVE_DELTA) for c in costs])
        rivals[i] = False
        if rivals.any():
            theirs, own = scores[:, rivals], scores[:, i, None]
            found[:, i] = ~((theirs > own) | ((theirs == own) & (cheapness[rivals] > cheapness[i]))).any(
                axis=1
            )
    return found
