"""From a study to what the statistics take: runs × questions, levels, seeds, pairs of checkpoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.reporting.frames import records
from harness.stats.design import Contrast, Design, factorial_design, interaction_name, mean_design
from harness.stats.effects import estimable
from harness.store.study import Study

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """What is one unit between runs: a level of every axis but training length, and a seed.

    Attributes:
        levels: level by axis, without the training length.
        seed: the seed.
        checkpoints: (run, step) by level of training length; one entry, "", where there is no such axis.
    """

    levels: dict[str, str]
    seed: int
    checkpoints: dict[str, tuple[str, int]]


@dataclass(frozen=True)
class Layout:
    """How the cells of a study fall into blocks.

    Attributes:
        axes: axes with at least two levels that are compared between blocks.
        within: the axis of training length that is compared within runs, or None.
        order: levels by axis, in the grid's order.
        baselines: baseline level by axis.
        blocks: the blocks, in the grid's order.
        required: levels of `within` that every block was planned to have: what between-block effects average.
        base: run of the untrained model by run.
        interactions: declared pairs of axes.
    """

    axes: tuple[str, ...]
    within: str | None
    order: dict[str, list[str]]
    baselines: dict[str, str]
    blocks: tuple[Block, ...]
    required: tuple[str, ...]
    base: dict[str, str]
    interactions: tuple[tuple[str, str], ...]


def lay_out(study: Study) -> Layout:
    """The layout of a study.

    An axis of training length is compared within runs as soon as one run holds two of its levels. Where every
    cell is a run of its own, as under a decaying schedule, it is an axis like the others.
    """
    order = {axis: [str(v) for v in study.grid["axes"][axis]] for axis in study.axes}
    given = {**study.grid.get("baselines", {}), **study.grid.get("verdict", {}).get("baseline", {})}
    baselines = {axis: str(given.get(axis, levels[0])) for axis, levels in order.items()}
    cells = study.cells
    shared = bool(len(cells)) and bool((cells.groupby("run")["step"].nunique() > 1).any())
    within = study.steps_axes[0] if study.steps_axes and shared else None
    free = [axis for axis in study.axes if axis != within]
    blocks: dict[tuple[str, ...], Block] = {}
    for cell in records(cells):
        levels = {axis: str(cell[axis]) for axis in free}
        key = (*levels.values(), str(cell["seed"]))
        block = blocks.setdefault(key, Block(levels, int(cell["seed"]), {}))
        block.checkpoints[str(cell[within]) if within else ""] = (str(cell["run"]), int(cell["step"]))
    lengths = [set(b.checkpoints) for b in blocks.values()]
    common = set.intersection(*lengths) if lengths else set()
    known = order[within] if within else [""]
    pairs = study.grid.get("verdict", {}).get("interactions", [])
    return Layout(
        axes=tuple(a for a in free if len(order[a]) > 1),
        within=within if within and len(order[within]) > 1 else None,
        order=order,
        baselines=baselines,
        blocks=tuple(blocks.values()),
        required=tuple(v for v in known if v in (common or set(known))),
        base=_bases(study),
        interactions=tuple((str(a), str(b)) for a, b in pairs),
    )


def _bases(study: Study) -> dict[str, str]:
    """The untrained model's run by training run: the one whose identity the training run's contains."""
    runs = study.runs
    bases = [str(r) for r in runs.loc[runs["kind"] == "base", "run"]]
    trained = [str(r) for r in runs.loc[runs["kind"] != "base", "run"]]
    if len(bases) <= 1:
        return {run: bases[0] for run in trained} if bases else {}
    identities = {run: _identity(study, run) for run in [*bases, *trained]}
    found = {}
    for run in trained:
        own = identities[run]
        for base in bases:
            fields = identities[base]
            if fields and all(own.get(k) == v for k, v in fields.items()):
                found[run] = base
    return found


def _identity(study: Study, run: str) -> dict[str, object]:
    folder = study.folder(run)
    return dict(folder.read_job().identity) if (folder.path / "run.json").exists() else {}


Shares = dict[tuple[str, int], FloatArray]
"""Share of right samples of every question [Q], by (run, step); NaN where a question was not measured."""


def shares(study: Study) -> dict[str, Shares]:
    """Shares by benchmark, of the benchmarks that were measured."""
    long = study.questions()
    if long.empty:
        return {}
    long = long.assign(share=long["correct"].astype(float) / long["samples"].astype(float))
    found = {}
    for benchmark in benchmarks(study):
        part = long[long["benchmark"] == benchmark]
        if len(part):
            frame = part.pivot_table(
                index=["run", "step"], columns="question_index", values="share", aggfunc="mean"
            )
            keys = [(str(run), int(step)) for run, step in frame.index]
            found[benchmark] = dict(zip(keys, frame.to_numpy(dtype=np.float64)))
    return found


RunScores = dict[tuple[str, int], tuple[float, float]]
"""Accuracy and the sampling variance of one evaluation, by (run, step), where no questions are known."""


def run_scores(study: Study) -> dict[str, RunScores]:
    """Run-level accuracies by benchmark, of every benchmark.

    The variance is p(1 − p) / (questions × samples) with p of the run's checkpoints together, half an answer
    added to each side so that it is never zero: what sampling adds to differences on the same questions is at
    most that.
    """
    found: dict[str, RunScores] = {}
    for benchmark in benchmarks(study):
        part = study.evaluations[study.evaluations["benchmark"] == benchmark]
        if part.empty:
            continue
        made = part[["run", "step", "accuracy"]].assign(
            answers=part["questions"].astype(float) * part["samples"].astype(float),
            right=part["correct"].astype(float),
        )
        sums = made.groupby("run")[["answers", "right"]].sum()
        rate = ((sums["right"] + 0.5) / (sums["answers"] + 1)).to_dict()
        found[benchmark] = {
            (str(e["run"]), int(e["step"])): (
                float(e["accuracy"]),
                rate[e["run"]] * (1 - rate[e["run"]]) / float(e["answers"]),
            )
            for e in records(made)
        }
    return found


def mean_run_scores(parts: Sequence[RunScores]) -> RunScores:
    """The mean over benchmarks, of the checkpoints that have all of them."""
    keys = [k for k in parts[0] if all(k in p for p in parts)] if parts else []
    return {
        k: (sum(p[k][0] for p in parts) / len(parts), sum(p[k][1] for p in parts) / len(parts) ** 2)
        for k in keys
    }


def benchmarks(study: Study) -> list[str]:
    """Benchmark names in the grid's order."""
    listed = [str(b["name"]) for b in study.grid.get("evaluate", {}).get("benchmarks", [])]
    measured = [str(b) for b in study.evaluations["benchmark"].unique()] if len(study.evaluations) else []
    return [*listed, *(b for b in measured if b not in listed)]


def benchmarks_measured(study: Study) -> list[str]:
    """Benchmarks of which at least one evaluation is there, in the grid's order."""
    made = set(study.evaluations["benchmark"].astype(str)) if len(study.evaluations) else set()
    return [b for b in benchmarks(study) if b in made]


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
        evaluations: sampling variance of a response in units of that of one evaluation: 1/L for a mean over L
            checkpoints, 2 for a difference.
        blocked: whether seeds are blocks of the design.
    """

    axis: str
    contrasts: tuple[Contrast, ...]
    y: FloatArray
    matrix: FloatArray
    weights: FloatArray
    strata: npt.NDArray[np.intp]
    evaluations: float
    blocked: bool


Lookup = Callable[[str, int], FloatArray | None]
"""The response of a checkpoint (run, step): a vector over questions, or None where it was not measured."""


def questions_of(layout: Layout, lookup: Lookup, strata: npt.NDArray[np.intp]) -> list[Question]:
    """Every question that the layout puts to one metric.

    Args:
        layout: of the study.
        lookup: the metric; questions not measured are NaN.
        strata: benchmark of every question [Q].
    """
    asked: list[Question] = []
    levels_of = layout.required
    rows = [(b, _over_lengths(b, levels_of, lookup)) for b in layout.blocks]
    measured = [(b, y) for b, y in rows if y is not None]
    between = [p for p in layout.interactions if layout.within not in p and set(p) <= set(layout.axes)]
    if measured and layout.axes:
        design = _design([b for b, _ in measured], layout, between)
        y = np.array([[v for _, v in measured]])
        for axis, contrasts in design.contrasts.items():
            if contrasts:
                asked.append(_question(axis, contrasts, contrasts, y, design, strata, 1 / len(levels_of)))
    if layout.within:
        asked += _within_questions(layout, layout.within, lookup, strata)
    return asked


def gain_question(layout: Layout, lookup: Lookup, strata: npt.NDArray[np.intp]) -> Question | None:
    """The last checkpoint of every run against the untrained model."""
    rows = []
    for block in layout.blocks:
        run, step = max(block.checkpoints.values(), key=lambda c: c[1])
        before = lookup(layout.base[run], 0) if run in layout.base else None
        after = lookup(run, step)
        if before is not None and after is not None:
            rows.append(after - before)
    if not rows:
        return None
    design = mean_design(len(rows), "step", "last", "0")
    return _question(
        "step", design.contrasts["step"], design.contrasts["step"], np.array([rows]), design, strata, 2.0
    )


def _over_lengths(block: Block, levels: Sequence[str], lookup: Lookup) -> FloatArray | None:
    parts = [lookup(*block.checkpoints[v]) if v in block.checkpoints else None for v in levels]
    known = [p for p in parts if p is not None]
    return np.asarray(np.mean(known, axis=0)) if known and len(known) == len(levels) else None


def _design(blocks: Sequence[Block], layout: Layout, interactions: Sequence[tuple[str, str]]) -> Design:
    """The design, with seeds as blocks as far as they are crossed with levels.

    Seeds that are nested in levels, so that blocks would leave contrasts undetermined, are no blocks.
    """
    made = [
        factorial_design(
            {axis: [b.levels[axis] for b in blocks] for axis in layout.axes},
            layout.order,
            layout.baselines,
            blocks=by,
            interactions=interactions,
        )
        for by in (seed_blocks(blocks), [None] * len(blocks))
    ]
    return made[0] if _determined(made[0]) >= _determined(made[1]) else made[1]


def seed_blocks(blocks: Sequence[Block]) -> list[int | None]:
    """The block of every run [R]: its seed; seeds that one run alone has share their random numbers with nobody
    and form one block, None."""
    runs_of = Counter(b.seed for b in blocks)
    return [b.seed if runs_of[b.seed] > 1 else None for b in blocks]


def _determined(design: Design) -> int:
    """How many contrasts the runs determine."""
    weights = [c.weights for contrasts in design.contrasts.values() for c in contrasts]
    if not weights:
        return 0
    return int(estimable(design.matrix, np.array(weights)).sum())


def _within_questions(
    layout: Layout, within: str, lookup: Lookup, strata: npt.NDArray[np.intp]
) -> list[Question]:
    baseline = layout.baselines[within]
    others = [v for v in layout.order[within] if v != baseline and v in layout.required]
    rows: list[tuple[Block, list[FloatArray]]] = []
    for block in layout.blocks:
        parts = [
            lookup(*block.checkpoints[v]) if v in block.checkpoints else None for v in (baseline, *others)
        ]
        known = [p for p in parts if p is not None]
        if len(known) == len(parts):
            rows.append((block, [p - known[0] for p in known[1:]]))
    if not rows or not others:
        return []
    y = np.swapaxes(np.array([differences for _, differences in rows]), 0, 1)
    design = Design(np.ones((len(rows), 1)), {})
    length = tuple(Contrast(v, baseline, np.ones(1)) for v in others)
    asked = [_question(within, length, length[:1], y, design, strata, 2.0)]
    for pair in layout.interactions:
        axis = next((a for a in pair if a != within), None)
        if within not in pair or axis not in layout.axes:
            continue
        full = _design([b for b, _ in rows], layout, [])
        steps = full.contrasts[axis]
        contrasts = tuple(
            Contrast(interaction_name(c.level, v), interaction_name(c.baseline, baseline), c.weights)
            for v in others
            for c in steps
        )
        if contrasts:
            name = interaction_name(axis, within)
            asked.append(_question(name, contrasts, steps, y, full, strata, 2.0))
    return asked


def _question(
    axis: str,
    contrasts: Sequence[Contrast],
    weights: Sequence[Contrast],
    y: FloatArray,
    design: Design,
    strata: npt.NDArray[np.intp],
    evaluations: float,
) -> Question:
    complete = np.isfinite(y).all(axis=(0, 1))
    return Question(
        axis,
        tuple(contrasts),
        y[:, :, complete],
        design.matrix,
        np.array([c.weights for c in weights]),
        strata[complete],
        evaluations,
        design.blocked,
    )
