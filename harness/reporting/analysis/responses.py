"""From a study to what the statistics take: runs × questions, levels, seeds, pairs of checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from harness.reporting.analysis.families import (
    Block,
    Family,
    Nest,
    families_of,
    family_names,
    nested_axes,
    required_cells,
)
from harness.reporting.frames import records
from harness.stats.contrasts import Unit
from harness.store.study import Study

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """How the cells of a study fall into blocks and families.

    Attributes:
        axes: axes with at least two levels, but that of training length if it is compared within runs.
        within: the axis of training length that is compared within runs, or None.
        nested: those of `axes` that vary within families, as schedules that share a trunk do.
        order: levels by axis, in the grid's order.
        baselines: baseline level by axis.
        blocks: the blocks, in the grid's order.
        families: the blocks by family: the units between which other axes are compared.
        required: levels of `within` that every block was planned to have.
        cells: levels of the nested axes, and of `within`, that every family was planned to have: what between-family
            effects average.
        base: run of the untrained model by run.
        interactions: declared pairs of axes.
        shared_seeds: whether runs of one seed share their random numbers, so that seeds are blocks.
        unit: whom verdicts are about.
    """

    axes: tuple[str, ...]
    within: str | None
    nested: tuple[str, ...]
    order: dict[str, list[str]]
    baselines: dict[str, str]
    blocks: tuple[Block, ...]
    families: tuple[Family, ...]
    required: tuple[str, ...]
    cells: tuple[Nest, ...]
    base: dict[str, str]
    interactions: tuple[tuple[str, str], ...]
    shared_seeds: bool
    unit: Unit

    @property
    def between(self) -> tuple[str, ...]:
        """Axes that are compared between families."""
        return tuple(axis for axis in self.axes if axis not in self.nested)

    @property
    def nest(self) -> tuple[str, ...]:
        """Axes that are compared within families, as the levels of `cells` are ordered."""
        return (*self.nested, *([self.within] if self.within else []))


def lay_out(study: Study) -> Layout:
    """The layout of a study.

    An axis of training length is compared within runs as soon as one run holds two of its levels, any other axis
    within families as soon as one family does. Where every cell is a run of its own, as under a decaying schedule,
    training length is an axis like the others.
    """
    order = {axis: [str(v) for v in study.grid["axes"][axis]] for axis in study.axes}
    verdict = study.grid.get("verdict", {})
    given = {**study.grid.get("baselines", {}), **verdict.get("baseline", {})}
    baselines = {axis: str(given.get(axis, levels[0])) for axis, levels in order.items()}
    cells = study.cells
    shared = bool(len(cells)) and bool((cells.groupby("run")["step"].nunique() > 1).any())
    within = study.steps_axes[0] if study.steps_axes and shared else None
    free = [axis for axis in study.axes if axis != within]
    family = family_names(study)
    found: dict[tuple[str, ...], Block] = {}
    for cell in records(cells):
        levels, run = {axis: str(cell[axis]) for axis in free}, str(cell["run"])
        key = (*levels.values(), str(cell["seed"]))
        block = found.setdefault(key, Block(levels, int(cell["seed"]), family.get(run, run), {}))
        block.checkpoints[str(cell[within]) if within else ""] = (run, int(cell["step"]))
    blocks = tuple(found.values())
    lengths = [set(b.checkpoints) for b in blocks]
    common = set.intersection(*lengths) if lengths else set()
    known = order[within] if within else [""]
    axes = tuple(a for a in free if len(order[a]) > 1)
    several = within if within and len(order[within]) > 1 else None
    nested = nested_axes(blocks, axes)
    shared_seeds = bool(verdict.get("shared_seeds", True))
    families = families_of(blocks, nested, by_length=several is not None, shared_seeds=shared_seeds)
    rank = [order[a] for a in (*nested, *([several] if several else []))]
    return Layout(
        axes=axes,
        within=several,
        nested=nested,
        order=order,
        baselines=baselines,
        blocks=blocks,
        families=families,
        required=tuple(v for v in known if v in (common or set(known))),
        cells=tuple(sorted(required_cells(families), key=lambda c: [r.index(v) for r, v in zip(rank, c)])),
        base=_bases(study),
        interactions=tuple((str(a), str(b)) for a, b in verdict.get("interactions", [])),
        shared_seeds=shared_seeds,
        unit=cast(Unit, verdict.get("unit", "recipe")),
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


Counts = dict[tuple[str, int], tuple[FloatArray, FloatArray]]
"""Samples and right ones of every question [Q], by (run, step); NaN where a question was not measured."""


def counts(study: Study) -> dict[str, Counts]:
    """Counts by benchmark, of the benchmarks whose questions are known."""
    long = study.questions()
    if long.empty:
        return {}
    found: dict[str, Counts] = {}
    for benchmark in benchmarks(study):
        part = long[long["benchmark"] == benchmark]
        if len(part):
            # External rows may give a question of one checkpoint in several parts.
            frame = part.pivot_table(
                index=["run", "step"], columns="question_index", values=["samples", "correct"], aggfunc="sum"
            )
            keys = [(str(run), int(step)) for run, step in frame.index]
            samples, correct = (frame[c].to_numpy(dtype=np.float64) for c in ("samples", "correct"))
            asked = np.where(samples > 0, samples, math.nan)
            found[benchmark] = dict(zip(keys, zip(asked, np.where(samples > 0, correct, math.nan))))
    return found


def shares(known: Mapping[str, Counts]) -> dict[str, Shares]:
    """Shares by benchmark."""
    return {name: {place: c / n for place, (n, c) in found.items()} for name, found in known.items()}


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


Lookup = Callable[[str, int], FloatArray | None]
"""The response of a checkpoint (run, step): a vector over questions, or None where it was not measured."""


@dataclass(frozen=True)
class Responses:
    """What verdicts on accuracy are computed from.

    Attributes:
        lookup: shares of right answers by question where every benchmark's are known, else one accuracy.
        strata: benchmark of every question [Q].
        clusters: cluster of every question [Q]; None where each stands for itself.
        samples: of a question.
        noise: variance of one evaluation from drawing answers; None by question.
        noise_df: degrees of freedom that measured it; None where p(1 − p)/n stands for it.
    """

    lookup: Lookup
    strata: npt.NDArray[np.intp]
    clusters: npt.NDArray[np.intp] | None
    samples: int
    noise: float | None
    noise_df: float | None


def responses(
    study: Study,
    measured: Mapping[str, Shares],
    totals: Mapping[str, RunScores],
    *,
    samples: int | None = None,
) -> Responses:
    """Responses over some benchmarks; `samples`: of a question, 1 where shares are none of right answers."""
    if set(measured) == set(totals):
        strata = np.repeat(np.arange(len(measured)), [width(f) for f in measured.values()])
        made = study.evaluations.loc[study.evaluations["benchmark"].isin(list(measured)), "samples"]
        most = samples or (int(made.astype(float).median()) if len(made) else 1)
        return Responses(
            _stacked(list(measured.values())), strata, _clusters(study, measured), most, None, None
        )
    scores = mean_run_scores(list(totals.values()))

    def lookup(run: str, step: int) -> FloatArray | None:
        found = scores.get((run, step))
        return None if found is None else np.array([found[0]])

    noise = max((v for _, v in scores.values()), default=0.0)
    return Responses(
        lookup, np.zeros(1, dtype=np.intp), None, 1, *_measured_noise(study, list(totals), noise)
    )


def _measured_noise(study: Study, names: Sequence[str], assumed: float) -> tuple[float, float | None]:
    """The noise of an evaluation as evaluations that were repeated show it, by benchmark the ratio to p(1 − p)/n and
    its degrees of freedom; what is assumed unless every benchmark has it."""
    known = study.grid.get("verdict", {}).get("answer_noise", {})
    if not names or any(name not in known for name in names):
        return assumed, None
    ratios = [float(known[name]["ratio"]) for name in names]
    total = sum(ratios)
    df = total**2 / sum(r * r / float(known[n]["df"]) for r, n in zip(ratios, names)) if total else 1.0
    return assumed * total / len(ratios), df


def width(measured: Shares) -> int:
    """Questions of a benchmark."""
    return len(next(iter(measured.values())))


def _stacked(measured: list[Shares]) -> Lookup:
    """Responses over the questions of several benchmarks; None unless each has the checkpoint."""
    keys = set.intersection(*(set(m) for m in measured))
    stacked = {key: np.concatenate([m[key] for m in measured]) for key in keys}

    def lookup(run: str, step: int) -> FloatArray | None:
        return stacked.get((run, step))

    return lookup


def _clusters(study: Study, names: Iterable[str]) -> npt.NDArray[np.intp] | None:
    """Cluster of every question of some benchmarks, clusters of different benchmarks apart [Q]."""
    long = study.questions()
    if "cluster" not in long.columns:
        return None
    first = long.drop_duplicates(["benchmark", "question_index"]).sort_values("question_index")
    labels = [
        f"{name}/{label}" for name in names for label in first.loc[first["benchmark"] == name, "cluster"]
    ]
    numbers = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return np.array([numbers[label] for label in labels], dtype=np.intp)
