"""Everything that the report says about a study, computed once: verdicts, gains over step 0, best-of checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from harness.reporting.analysis.best_cell import BestCell, best_cell
from harness.reporting.analysis.best_of import BestOfCheck, best_of_checks
from harness.reporting.analysis.coverage import coverage_rows
from harness.reporting.analysis.interactions import Interaction, interactions_of
from harness.reporting.analysis.looks import looks_of
from harness.reporting.analysis.responses import (
    Layout,
    Responses,
    RunScores,
    Shares,
    benchmarks_measured,
    counts,
    lay_out,
    responses,
    run_scores,
    shares,
    width,
)
from harness.reporting.analysis.trajectories import AccuracyCurve, curves_of, trajectory_judgement
from harness.reporting.analysis.verdict_rows import (
    ALL,
    Row,
    accuracy_rows,
    is_interaction,
    on_every_level,
    performance_rows,
)
from harness.reporting.frames import records
from harness.stats.intervals import Interval, accuracy_interval, mean_interval, paired_gain, wilson
from harness.stats.looks import Looks
from harness.stats.verdicts import Judgement, VerdictSettings
from harness.store.study import Study

_LEAST_LEVEL = 1e-9
"""In place of zero, where declared looks are used up: nothing is found at it."""


@dataclass(frozen=True)
class Analysis:
    """What tables, figures and words are made of.

    Attributes:
        study: what was analysed.
        layout: its blocks.
        rows: all verdicts, primary ones first.
        accuracy: interval by (run, step, benchmark), `all` among them.
        gain: over step 0 of the same questions, likewise.
        best_of_checks: by benchmark, `all` last.
        best: the best cell; None where there is no choice between cells.
        trajectories: curves over training, by benchmark and scope.
        interactions: pairs of axes, on mean accuracy.
        settings: error rate, power, seeds.
        delta: smallest accuracy difference that matters.
        left_out: benchmarks that are not in the primary verdicts, because a level was never measured on them.
        asked: questions of the others, whether or not every run was measured on them; 0 where none are known.
        runs_left_out: runs that are in no primary verdict, because a benchmark or a training length of theirs was not
            measured, though others were.
        looks: at the study, this one the last.
    """

    study: Study
    layout: Layout
    rows: tuple[Row, ...]
    accuracy: Mapping[tuple[str, int, str], Interval]
    gain: Mapping[tuple[str, int, str], Interval]
    best_of_checks: tuple[BestOfCheck, ...]
    best: BestCell | None
    trajectories: tuple[AccuracyCurve, ...]
    interactions: tuple[Interaction, ...]
    settings: VerdictSettings
    delta: float
    left_out: tuple[str, ...]
    asked: int
    runs_left_out: tuple[str, ...]
    looks: Looks

    def primary(self) -> list[Judgement]:
        """Verdicts on the mean accuracy over benchmarks, by axis; training itself is not among them."""
        return [r.judgement for r in self.rows if r.family == "primary"]

    def leading(self) -> list[Interaction]:
        """Pairs of axes whose effects are told by simple effects, since one changes what the other does."""
        return [pair for pair in self.interactions if pair.leads]

    def whole_axes(self) -> list[Judgement]:
        """Primary verdicts on axes whose effect does not depend on another axis, and of no interaction."""
        apart = {axis for pair in self.leading() for axis in pair.axes}
        return [j for j in self.primary() if j.axis not in apart and not is_interaction(j)]

    def training(self) -> Judgement | None:
        """The verdict on the last checkpoint against step 0."""
        found = [r.judgement for r in self.rows if r.family == "training" and r.benchmark == ALL]
        return found[0] if found else None


def analyse(study: Study) -> Analysis:
    """Analyses a study; what was not measured is absent, never zero."""
    verdict = study.grid.get("verdict", {})
    delta = float(verdict.get("delta", 0.02))
    looks = looks_of(study)
    settings = VerdictSettings(
        alpha=max(looks.level, _LEAST_LEVEL),
        power=float(verdict.get("power", 0.8)),
        seeds=max(1, study.cells["seed"].nunique()),
    )
    layout = lay_out(study)
    known = counts(study)
    measured = shares(known)
    totals = run_scores(study)
    curves = curves_of(layout, measured, totals, settings, delta)
    shared = on_every_level(layout, totals)

    def respond(names: Sequence[str]) -> Responses:
        own = {b: measured[b] for b in names if b in measured}
        return responses(study, own, {b: totals[b] for b in names})

    rows = accuracy_rows(layout, totals, respond, shared, settings, delta)
    primary = [r.judgement for r in rows if r.family == "primary"]
    pairs = interactions_of(layout, respond(shared), primary, settings, delta) if totals else ()
    rows += [
        Row("accuracy", c.benchmark, trajectory_judgement(c, layout.within or "step", delta), "trajectory")
        for c in curves
        if c.reported
    ]
    rows += coverage_rows(study, layout, known, totals, shared, settings, delta)
    rows += performance_rows(study, layout, settings)
    accuracy, gain = _intervals(study, layout, measured)
    # What an undeclared interaction does is no noise between runs.
    crossed = replace(
        layout, interactions=(*layout.interactions, *(p.axes for p in pairs if p.found and not p.declared))
    )
    checks = best_of_checks(study, crossed, accuracy, totals)
    best = _best(layout, respond(list(totals)), accuracy, checks, settings) if checks else None
    return Analysis(
        study=study,
        layout=layout,
        rows=tuple(rows),
        accuracy=accuracy,
        gain=gain,
        best_of_checks=_agreeing(checks, best),
        best=best,
        trajectories=tuple(curves),
        interactions=pairs,
        settings=settings,
        delta=delta,
        left_out=tuple(b for b in totals if b not in shared),
        looks=looks,
        runs_left_out=_left_out(layout, [totals[b] for b in shared]),
        asked=sum(width(measured[b]) for b in shared) if set(shared) <= set(measured) else 0,
    )


Intervals = dict[tuple[str, int, str], Interval]


def _intervals(study: Study, layout: Layout, measured: Mapping[str, Shares]) -> tuple[Intervals, Intervals]:
    """Intervals of accuracy and of the gain over step 0, by run, step and benchmark."""
    accuracy: Intervals = {}
    gain: Intervals = {}
    for group, part in study.questions().groupby(["run", "step", "benchmark"], sort=False):
        run, step, benchmark = cast(tuple[str, int, str], group)
        key = (str(run), int(step), str(benchmark))
        accuracy[key] = accuracy_interval(part["samples"], part["correct"])
        frame = measured[key[2]]
        before = (layout.base.get(key[0], ""), 0)
        if before in frame:
            gain[key] = paired_gain(frame[before], frame[key[:2]])
    for e in records(study.evaluations):
        key = (str(e["run"]), int(e["step"]), str(e["benchmark"]))
        if key[2] not in measured:
            # Samples of one question may be copies of one another: questions are all that surely counts.
            questions = float(e["questions"])
            accuracy[key] = wilson(float(e["accuracy"]) * questions, questions)
    every = benchmarks_measured(study)
    for intervals in (accuracy, gain):
        for run, step in dict.fromkeys((r, s) for r, s, _ in intervals):
            parts = [intervals.get((run, step, b)) for b in every]
            known = [p for p in parts if p is not None]
            if len(known) == len(parts):
                intervals[run, step, ALL] = mean_interval(known)
    return accuracy, gain


def _best(
    layout: Layout,
    made: Responses,
    accuracy: Intervals,
    checks: tuple[BestOfCheck, ...],
    settings: VerdictSettings,
) -> BestCell | None:
    scores = {(run, step): found.estimate for (run, step, name), found in accuracy.items() if name == ALL}
    overall = checks[-1]
    return best_cell(
        layout, made.lookup, made.strata, scores, overall.result, overall.variance, settings.alpha
    )


def _agreeing(checks: tuple[BestOfCheck, ...], best: BestCell | None) -> tuple[BestOfCheck, ...]:
    """The checks; that of the mean over benchmarks claims no more than the search over cells, where that can tell.

    Both ask whether the best is more than luck. The p-value of a claim that needs both is the larger one.
    """
    if best is None or best.p_value is None:
        return checks
    last = checks[-1]
    p_value = max(last.result.p_value, best.p_value)
    return (*checks[:-1], replace(last, result=replace(last.result, p_value=p_value)))


def _left_out(layout: Layout, totals: Sequence[RunScores]) -> tuple[str, ...]:
    """Runs with some figures that verdicts do without: not every benchmark and training length was measured."""
    lengths = set(layout.required)
    found = []
    for block in layout.blocks:
        places = [place for length, place in block.checkpoints.items() if length in lengths]
        there = [place in scores for place in places for scores in totals]
        if any(there) and (not all(there) or len(places) < len(lengths)):
            found.append(places[0][0])
    return tuple(dict.fromkeys(found))
