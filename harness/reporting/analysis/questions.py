"""What a layout asks of a metric: responses of families, a design and contrasts, ready for the statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.reporting.analysis.families import Family, Nest
from harness.reporting.analysis.responses import FloatArray, Layout, Lookup
from harness.stats.contrasts import estimable
from harness.stats.design import Contrast, Design, factorial_design, interaction_name, mean_design


@dataclass(frozen=True)
class Question:
    """Something to be estimated, ready for `two_way_effects` or `run_effects`.

    Attributes:
        axis: the axis, or `a×b`.
        contrasts: the levels, in the order of the estimates [M].
        y: responses [K, R, Q], or [K, R] of run-level figures.
        matrix: design [R, P].
        weights: contrasts [C, P].
        strata: benchmark of every question [Q].
        complete: which questions of the lookup these are.
        evaluations: sampling variance of a response in units of that of one evaluation: 1/L for a mean over L
            checkpoints, 2 for a difference.
        blocked: whether seeds are blocks of the design.
        levels: level of every run on the axis [R]; empty where it is compared within families.
        once: whether responses are differences to one and the same evaluation, as to an untrained model that was
            measured once.
    """

    axis: str
    contrasts: tuple[Contrast, ...]
    y: FloatArray
    matrix: FloatArray
    weights: FloatArray
    strata: npt.NDArray[np.intp]
    complete: npt.NDArray[np.bool_]
    evaluations: float
    blocked: bool
    levels: tuple[str, ...] = ()
    once: bool = False


def questions_of(layout: Layout, lookup: Lookup, strata: npt.NDArray[np.intp]) -> list[Question]:
    """Every question that the layout puts to one metric.

    Args:
        layout: of the study.
        lookup: the metric; questions not measured are NaN.
        strata: benchmark of every question [Q].
    """
    asked: list[Question] = []
    whole = [(f, c) for f in layout.families if (c := measured_cells(f, layout.cells, lookup)) is not None]
    between = [p for p in layout.interactions if set(p) <= set(layout.between)]
    if whole and layout.between:
        families = [f for f, _ in whole]
        design = _design(families, layout, between)
        y = np.array([[np.mean(list(cells.values()), axis=0) for _, cells in whole]])
        for axis, contrasts in design.contrasts.items():
            if contrasts:
                levels = tuple(f.levels[axis] for f in families) if axis in layout.between else ()
                part = _Part(axis, contrasts, contrasts, y, design, 1 / len(layout.cells), levels)
                asked.append(part.question(strata))
    for axis in layout.nest:
        asked += _within_questions(layout, axis, whole, strata)
    return asked


def gain_question(layout: Layout, lookup: Lookup, strata: npt.NDArray[np.intp]) -> Question | None:
    """The last checkpoint of every run against the untrained model, averaged over the runs of a family."""
    rows, bases = [], []
    for family in layout.families:
        gains = []
        for block in family.members:
            run, step = max(block.checkpoints.values(), key=lambda c: c[1])
            before = lookup(layout.base[run], 0) if run in layout.base else None
            after = lookup(run, step)
            if before is not None and after is not None:
                gains.append(after - before)
                bases.append(layout.base[run])
        if gains:
            rows.append(np.mean(gains, axis=0))
    if not rows:
        return None
    design = mean_design(len(rows), "step", "last", "0")
    contrasts = design.contrasts["step"]
    part = _Part("step", contrasts, contrasts, np.array([rows]), design, 2.0, once=len(set(bases)) == 1)
    return part.question(strata)


def measured_cells(family: Family, cells: Sequence[Nest], lookup: Lookup) -> dict[Nest, FloatArray] | None:
    """Responses of a family's cells, forks that are alike averaged; None unless all of them were measured."""
    found: dict[Nest, FloatArray] = {}
    for cell in cells:
        parts = [y for place in family.cells.get(cell, ()) if (y := lookup(*place)) is not None]
        if not parts:
            return None
        found[cell] = np.asarray(np.mean(parts, axis=0)) if len(parts) > 1 else parts[0]
    return found


def _design(families: Sequence[Family], layout: Layout, interactions: Sequence[tuple[str, str]]) -> Design:
    """The design, with seeds as blocks as far as they are shared random numbers and crossed with levels.

    Seeds that are nested in levels, so that blocks would leave contrasts undetermined, are no blocks.
    """
    made = [
        factorial_design(
            {axis: [f.levels[axis] for f in families] for axis in layout.between},
            layout.order,
            layout.baselines,
            blocks=by,
            interactions=interactions,
        )
        for by in (seed_blocks(families, shared=layout.shared_seeds), [None] * len(families))
    ]
    return made[0] if _determined(made[0]) >= _determined(made[1]) else made[1]


def seed_blocks(families: Sequence[Family], *, shared: bool) -> list[int | None]:
    """The block of every family [R]: its seed; seeds that one family alone has share their random numbers with nobody
    and form one block, None, and so do all where numbers of seeds mean nothing."""
    of_seed = Counter(f.seed for f in families)
    return [f.seed if shared and of_seed[f.seed] > 1 else None for f in families]


def _determined(design: Design) -> int:
    """How many contrasts the runs determine."""
    weights = [c.weights for contrasts in design.contrasts.values() for c in contrasts]
    if not weights:
        return 0
    return int(estimable(design.matrix, np.array(weights)).sum())


def _steps(layout: Layout, axis: str) -> dict[str, dict[Nest, float]]:
    """By level of an axis within families: weights of cells whose sum is its distance from the baseline, averaged
    evenly over the levels of the others that have both."""
    at = layout.nest.index(axis)
    baseline = layout.baselines[axis]
    steps: dict[str, dict[Nest, float]] = {}
    for level in layout.order[axis]:
        rest = [c for c in layout.cells if c[at] == level and _moved(c, at, baseline) in layout.cells]
        if level != baseline and rest:
            share = 1 / len(rest)
            steps[level] = {c: share for c in rest} | {_moved(c, at, baseline): -share for c in rest}
    return steps


def _moved(cell: Nest, at: int, level: str) -> Nest:
    return (*cell[:at], level, *cell[at + 1 :])


def _weighted(cells: Mapping[Nest, FloatArray], weights: Mapping[Nest, float]) -> FloatArray:
    return np.asarray(sum(weight * cells[cell] for cell, weight in weights.items()))


def _within_questions(
    layout: Layout,
    axis: str,
    whole: Sequence[tuple[Family, Mapping[Nest, FloatArray]]],
    strata: npt.NDArray[np.intp],
) -> list[Question]:
    """Differences within families: of the axis, and of its declared interactions with axes between them."""
    steps, baseline = _steps(layout, axis), layout.baselines[axis]
    if not whole or not steps:
        return []
    y = np.array([[_weighted(cells, weights) for _, cells in whole] for weights in steps.values()])
    contrasts = tuple(Contrast(level, baseline, np.ones(1)) for level in steps)
    noise = max(sum(w * w for w in weights.values()) for weights in steps.values())
    design = Design(np.ones((len(whole), 1)), {})
    once = axis == layout.within and baseline == "0" and _alike(layout, axis, [cells for _, cells in whole])
    asked = [_Part(axis, contrasts, contrasts[:1], y, design, noise, once=once).question(strata)]
    for pair in layout.interactions:
        other = next((a for a in pair if a != axis), None)
        if axis == pair[0] and other in layout.nest:
            asked += _double_difference(layout, pair, whole, strata)
        if axis not in pair or other not in layout.between:
            continue
        full = _design([f for f, _ in whole], layout, [])
        made = full.contrasts[other]
        both = tuple(
            Contrast(interaction_name(c.level, v), interaction_name(c.baseline, baseline), c.weights)
            for v in steps
            for c in made
        )
        if both:
            asked.append(_Part(interaction_name(other, axis), both, made, y, full, noise).question(strata))
    return asked


def _double_difference(
    layout: Layout,
    pair: tuple[str, str],
    whole: Sequence[tuple[Family, Mapping[Nest, FloatArray]]],
    strata: npt.NDArray[np.intp],
) -> list[Question]:
    """The interaction of two axes that both vary within families: differences of differences."""
    first, second = pair
    at, baseline = layout.nest.index(second), layout.baselines[second]
    weights: dict[tuple[str, str], dict[Nest, float]] = {}
    for level, step in _steps(layout, first).items():
        for other in layout.order[second]:
            near = {cell: w for cell, w in step.items() if cell[at] == other}
            far = {_moved(cell, at, baseline): -w for cell, w in near.items()}
            if other != baseline and near and all(cell in layout.cells for cell in far):
                scale = 1 / sum(w for w in near.values() if w > 0)
                weights[level, other] = {cell: w * scale for cell, w in {**near, **far}.items()}
    if not weights:
        return []
    y = np.array([[_weighted(cells, step) for _, cells in whole] for step in weights.values()])
    base = interaction_name(layout.baselines[first], baseline)
    contrasts = tuple(Contrast(interaction_name(*levels), base, np.ones(1)) for levels in weights)
    noise = max(sum(w * w for w in step.values()) for step in weights.values())
    design = Design(np.ones((len(whole), 1)), {})
    return [
        _Part(interaction_name(first, second), contrasts, contrasts[:1], y, design, noise).question(strata)
    ]


def _alike(layout: Layout, axis: str, families: Sequence[Mapping[Nest, FloatArray]]) -> bool:
    """Whether step 0 is one evaluation, written beside every run: its figures are equal to the last digit."""
    at = layout.nest.index(axis)
    start = [cell for cell in layout.cells if cell[at] == "0"]
    first = families[0]
    return all(
        np.array_equal(cells[cell], first[cell], equal_nan=True) for cells in families for cell in start
    )


@dataclass(frozen=True)
class _Part:
    """A question before incomplete questions of the benchmarks are dropped."""

    axis: str
    contrasts: Sequence[Contrast]
    weights: Sequence[Contrast]
    y: FloatArray
    design: Design
    evaluations: float
    levels: tuple[str, ...] = ()
    once: bool = False

    def question(self, strata: npt.NDArray[np.intp]) -> Question:
        complete = np.asarray(np.isfinite(self.y).all(axis=(0, 1)))
        return Question(
            self.axis,
            tuple(self.contrasts),
            self.y[:, :, complete],
            self.design.matrix,
            np.array([c.weights for c in self.weights]),
            strata[complete],
            complete,
            self.evaluations,
            self.design.blocked,
            self.levels,
            self.once,
        )
