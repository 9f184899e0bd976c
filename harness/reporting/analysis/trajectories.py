"""Curves over training length: of all runs, of a level's runs, of single runs; and the verdicts they give."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.reporting.analysis.families import Block
from harness.reporting.analysis.responses import Layout, RunScores, Shares, mean_run_scores
from harness.stats.multiplicity import holm
from harness.stats.power import MIN_DF
from harness.stats.trajectory import (
    Trajectory,
    adjusted,
    curve_of_one_run,
    curve_of_one_run_scores,
    curve_of_run_scores,
    curve_of_runs,
    read_trajectory,
)
from harness.stats.verdicts import Judgement, VerdictSettings

Unit = list[list[tuple[str, int]]]
"""The trajectories of a family, each with its checkpoints."""
Kind = Literal["all runs", "level", "run"]

ALL = "all"
_MOST_RUNS = 32
"""Beyond this many runs their single curves say little and cost much; levels and the mean remain."""
_LEAST_CHECKPOINTS = 3
"""Two checkpoints are a difference, which the axis of training length tells already; a curve has a middle."""
_MOST_TOLD = 8
"""Up to this many single runs have verdicts of their own; trajectories.csv has the others."""


@dataclass(frozen=True)
class AccuracyCurve:
    """One curve and what it says.

    Attributes:
        kind: whose mean it is.
        scope: for people, such as `reward=cosine`.
        benchmark: a name or `all`.
        runs: how many it averages.
        questions: 0 where none are known.
        trajectory: peak, decline, change point.
        reported: whether it is among the verdicts.
    """

    kind: Kind
    scope: str
    benchmark: str
    runs: int
    questions: int
    trajectory: Trajectory
    reported: bool


def curves_of(
    layout: Layout,
    measured: Mapping[str, Shares],
    totals: Mapping[str, RunScores],
    settings: VerdictSettings,
    delta: float,
) -> list[AccuracyCurve]:
    """Every curve of three trained checkpoints or more; `all` first, then benchmark by benchmark."""
    found: list[AccuracyCurve] = []
    names = ([ALL] if len(totals) > 1 else []) + list(totals)
    for name in names:
        parts = list(totals) if name == ALL else [name]
        source = _Source([measured.get(b) for b in parts], [totals[b] for b in parts])
        curves = _of_benchmark(layout, name, source, settings, delta)
        for kind in ("all runs", "level", "run"):
            same = [c for c in curves if c.kind == kind]
            p, _ = holm([c.trajectory.p_value for c in same])
            for curve, value in zip(same, p.tolist()):
                trajectory = adjusted(curve.trajectory, value, alpha=settings.alpha, delta=delta)
                found.append(dataclasses.replace(curve, benchmark=name, trajectory=trajectory))
    return found


class _Source:
    """What is known of checkpoints on some benchmarks: questions where every benchmark has them."""

    def __init__(self, shares: Sequence[Shares | None], totals: Sequence[RunScores]) -> None:
        known = [s for s in shares if s is not None]
        self.by_question = len(known) == len(shares)
        self.scores = mean_run_scores(totals)
        self._shares = known
        widths = [len(next(iter(s.values()))) for s in known]
        self.strata = np.repeat(np.arange(len(widths)), widths)
        self.samples = 1 + sum(round(0.25 / max(1e-12, max(v for _, v in t.values()))) for t in totals if t)

    def has(self, place: tuple[str, int]) -> bool:
        return place in self.scores and (not self.by_question or all(place in s for s in self._shares))

    def shares(self, places: Sequence[Sequence[tuple[str, int]]]) -> np.ndarray:
        """[R, T, Q]; questions not measured everywhere are NaN in some place."""
        return np.array([[np.concatenate([s[p] for s in self._shares]) for p in run] for run in places])


def _of_benchmark(
    layout: Layout, name: str, source: _Source, settings: VerdictSettings, delta: float
) -> list[AccuracyCurve]:
    blocks = [(b, _places(b, source)) for b in layout.blocks]
    found: list[AccuracyCurve] = []
    groups: list[tuple[Kind, str, list[Unit]]] = []
    required = [(b, [b.checkpoints[v] for v in layout.required if v in b.checkpoints]) for b, _ in blocks]
    whole = [
        (b, sorted((p for p in places if p[1] > 0), key=lambda p: p[1]))
        for b, places in required
        if len(places) == len(layout.required) and all(source.has(p) for p in places)
    ]
    groups.append(("all runs", "all runs", _units(layout, whole)))
    for axis in layout.axes:
        for level in layout.order[axis]:
            own = [(b, p) for b, p in whole if b.levels[axis] == level]
            groups.append(("level", f"{axis}={level}", _units(layout, own)))
    for kind, scope, units in groups:
        # Level by level only where each has runs enough to say how runs vary.
        if len(units) > MIN_DF and len(units[0][0]) >= _LEAST_CHECKPOINTS:
            found.append(_several(kind, scope, name, units, source, settings, delta))
    single = [(b, p) for b, p in blocks if len(p) >= _LEAST_CHECKPOINTS]
    if len(single) <= _MOST_RUNS:
        # Where runs can be averaged, what one of them did is no answer.
        reported = len(single) <= _MOST_TOLD and not found
        found += [
            _one(_label(b, layout), name, places, source, settings, delta, reported) for b, places in single
        ]
    return found


def _units(layout: Layout, whole: Sequence[tuple[Block, list[tuple[str, int]]]]) -> list[Unit]:
    """The trajectories by family: those that share a trunk are averaged, and count once."""
    steps = [step for _, step in whole[0][1]] if whole else []
    alike = [(b, p) for b, p in whole if [step for _, step in p] == steps]
    members = [[p for b, p in alike if b in family.members] for family in layout.families]
    return [own for own in members if own]


def _places(block: Block, source: _Source) -> list[tuple[str, int]]:
    trained = {p for p in block.checkpoints.values() if p[1] > 0 and source.has(p)}
    return sorted(trained, key=lambda p: p[1])


def _label(block: Block, layout: Layout) -> str:
    levels = [f"{axis}={block.levels[axis]}" for axis in layout.axes]
    seeds = len({b.seed for b in layout.blocks}) > 1
    return " ".join([*levels, *([f"seed={block.seed}"] if seeds or not levels else [])])


def _several(
    kind: Kind,
    scope: str,
    name: str,
    units: list[Unit],
    source: _Source,
    settings: VerdictSettings,
    delta: float,
) -> AccuracyCurve:
    steps = [step for _, step in units[0][0]]
    questions = 0
    if source.by_question:
        y = np.array([source.shares(unit).mean(axis=0) for unit in units])
        complete = np.isfinite(y).all(axis=(0, 1))
        questions = int(complete.sum())
        curve = curve_of_runs(y[:, :, complete], source.strata[complete])
    else:
        pairs = np.array(
            [np.mean([[source.scores[p] for p in run] for run in unit], axis=0) for unit in units]
        )
        curve = curve_of_run_scores(pairs[:, :, 0], pairs[:, :, 1])
    trajectory = read_trajectory(curve, steps, alpha=settings.alpha, power=settings.power, delta=delta)
    return AccuracyCurve(kind, scope, name, len(units), questions, trajectory, True)


def _one(
    scope: str,
    name: str,
    places: list[tuple[str, int]],
    source: _Source,
    settings: VerdictSettings,
    delta: float,
    reported: bool,
) -> AccuracyCurve:
    steps = [step for _, step in places]
    questions = 0
    if source.by_question:
        y = source.shares([places])[0]
        complete = np.isfinite(y).all(axis=0)
        questions = int(complete.sum())
        curve = curve_of_one_run(y[:, complete], source.strata[complete])
    else:
        pairs = np.array([source.scores[p] for p in places])
        curve = curve_of_one_run_scores(pairs[:, 0], pairs[:, 1], source.samples)
    trajectory = read_trajectory(curve, steps, alpha=settings.alpha, power=settings.power, delta=delta)
    return AccuracyCurve("run", scope, name, 1, questions, trajectory, reported)


def trajectory_judgement(curve: AccuracyCurve, axis: str, delta: float) -> Judgement:
    """The decline of a curve as a verdict: checkpoints after the change against those up to it."""
    f = curve.trajectory
    first = f.rise_to
    after = [s for s in f.steps if s > f.change]
    up_to = f"{first}" if first == f.change else f"{first}–{f.change}"
    later = f"{after[0]}" if len(after) == 1 else f"{after[0]}–{after[-1]}"
    needed = None
    if f.verdict == "inconclusive" and curve.questions and math.isfinite(f.detectable_effect):
        needed = math.ceil(curve.questions * max(1.0, f.detectable_effect / delta) ** 2)
    return Judgement(
        axis=axis,
        level=f"{curve.scope}: {later}",
        baseline=f"{curve.scope}: {up_to}",
        effect=f.effect,
        standard_error=f.standard_error,
        ci_low=f.ci_low,
        ci_high=f.ci_high,
        equivalence_low=math.nan,
        equivalence_high=math.nan,
        p_value=f.p_value,
        p_adjusted=f.p_adjusted,
        verdict=f.verdict,
        detectable_effect=f.detectable_effect,
        assumed=False,
        runs=curve.runs,
        questions=curve.questions,
        df=f.df,
        t_df=float(f.df),
        seeds_needed=None,
        questions_needed=needed if curve.runs == 1 else None,
        delta=delta,
    )
