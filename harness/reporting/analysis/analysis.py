"""Everything that the report says about a study, computed once: verdicts, gains over step 0, best-of checks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from harness.reporting.analysis.best_cell import BestCell, best_cell
from harness.reporting.analysis.performance import PERFORMANCE, RELATIVE_DELTA, checkpoint_metric
from harness.reporting.analysis.responses import (
    FloatArray,
    Layout,
    Lookup,
    Question,
    RunScores,
    Shares,
    benchmarks,
    benchmarks_measured,
    gain_question,
    lay_out,
    mean_run_scores,
    questions_of,
    run_scores,
    shares,
)
from harness.reporting.analysis.trajectories import AccuracyCurve, curves_of, trajectory_judgement
from harness.reporting.frames import records
from harness.stats.bestof import BestOf, best_of_identical, best_of_mean, question_rates
from harness.stats.effects import run_effects, two_way_effects
from harness.stats.intervals import Interval, accuracy_interval, mean_interval, paired_gain, wilson
from harness.stats.power import ASSUMED
from harness.stats.verdicts import Judgement, Test, VerdictSettings, judge_primary, judge_secondary
from harness.store.study import Study

ALL = "all"
"""The mean over benchmarks, each weighing the same."""


@dataclass(frozen=True)
class Row:
    """One verdict.

    Attributes:
        metric: `accuracy`, or a performance metric.
        benchmark: a benchmark's name, `all`, or empty for performance metrics.
        judgement: accuracy in fractions, performance metrics as natural logarithms of ratios.
        family: whose error rate is controlled together: `primary`, the declared axes on mean accuracy; `training`,
            the last checkpoint against step 0, which no axis declares; `trajectory`, decline along training;
            `secondary`, single benchmarks and other metrics.
    """

    metric: str
    benchmark: str
    judgement: Judgement
    family: Literal["primary", "training", "trajectory", "secondary"]


@dataclass(frozen=True)
class BestOfCheck:
    """The best checkpoint of a benchmark beside what chance would give.

    Attributes:
        benchmark: a benchmark's name or `all`.
        run, step: the checkpoint.
        result: its score and that of the best of identical ones.
        variance: of one evaluation of an identical one, from drawing answers anew.
    """

    benchmark: str
    run: str
    step: int
    result: BestOf
    variance: float


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
        settings: error rate, power, seeds.
        delta: smallest accuracy difference that matters.
        left_out: benchmarks that are not in the primary verdicts, because a level was never measured on them.
        asked: questions of the others, whether or not every run was measured on them; 0 where none are known.
    """

    study: Study
    layout: Layout
    rows: tuple[Row, ...]
    accuracy: Mapping[tuple[str, int, str], Interval]
    gain: Mapping[tuple[str, int, str], Interval]
    best_of_checks: tuple[BestOfCheck, ...]
    best: BestCell | None
    trajectories: tuple[AccuracyCurve, ...]
    settings: VerdictSettings
    delta: float
    left_out: tuple[str, ...]
    asked: int

    def primary(self) -> list[Judgement]:
        """Verdicts on the mean accuracy over benchmarks, by axis; training itself is not among them."""
        return [r.judgement for r in self.rows if r.family == "primary"]

    def training(self) -> Judgement | None:
        """The verdict on the last checkpoint against step 0."""
        found = [r.judgement for r in self.rows if r.family == "training" and r.benchmark == ALL]
        return found[0] if found else None


def analyse(study: Study) -> Analysis:
    """Analyses a study; what was not measured is absent, never zero."""
    verdict = study.grid.get("verdict", {})
    delta = float(verdict.get("delta", 0.02))
    settings = VerdictSettings(
        alpha=float(verdict.get("alpha", 0.05)),
        power=float(verdict.get("power", 0.8)),
        seeds=max(1, study.cells["seed"].nunique()),
    )
    layout = lay_out(study)
    measured = shares(study)
    totals = run_scores(study)
    curves = curves_of(layout, measured, totals, settings, delta)
    shared = _on_every_level(layout, totals)
    rows = _accuracy_rows(layout, measured, totals, shared, settings, delta)
    rows += [
        Row("accuracy", c.benchmark, trajectory_judgement(c, layout.within or "step", delta), "trajectory")
        for c in curves
        if c.reported
    ]
    rows += _performance_rows(study, layout, settings)
    accuracy, gain = _intervals(study, layout, measured)
    checks = _best_of_checks(study, accuracy)
    return Analysis(
        study=study,
        layout=layout,
        rows=tuple(rows),
        accuracy=accuracy,
        gain=gain,
        best_of_checks=checks,
        best=_best(layout, _responses(measured, totals), accuracy, checks, settings) if checks else None,
        trajectories=tuple(curves),
        settings=settings,
        delta=delta,
        left_out=tuple(b for b in totals if b not in shared),
        asked=sum(_width(measured[b]) for b in shared) if set(shared) <= set(measured) else 0,
    )


def _on_every_level(layout: Layout, totals: Mapping[str, RunScores]) -> list[str]:
    """Benchmarks on which every level was measured that was measured at all; every benchmark if there are none."""
    places: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for block in layout.blocks:
        for axis, level in block.levels.items():
            places.setdefault((axis, level), set()).update(block.checkpoints.values())
    of_level = [{b for b, found in totals.items() if own & found.keys()} for own in places.values()]
    shared = set(totals).intersection(*(names for names in of_level if names))
    return [b for b in totals if b in shared] or list(totals)


def _accuracy_rows(
    layout: Layout,
    measured: Mapping[str, Shares],
    totals: Mapping[str, RunScores],
    shared: Sequence[str],
    settings: VerdictSettings,
    delta: float,
) -> list[Row]:
    if not totals:
        return []
    primary, gain = _tests_of(
        layout, {b: measured[b] for b in shared if b in measured}, {b: totals[b] for b in shared}, delta
    )
    rows = [Row("accuracy", ALL, j, "primary") for j in judge_primary(primary, settings)]
    rows += [Row("accuracy", ALL, j, "training") for j in judge_primary(gain, settings)]
    single: list[Test] = []
    names: list[str] = []
    for benchmark in totals:
        own = {benchmark: measured[benchmark]} if benchmark in measured else {}
        tests = list(chain(*_tests_of(layout, own, {benchmark: totals[benchmark]}, delta)))
        single += tests
        names += [benchmark for test in tests for _ in test.contrasts]
    judged = judge_secondary(single, settings)
    return rows + [Row("accuracy", name, j, "secondary") for name, j in zip(names, judged)]


def _tests_of(
    layout: Layout, measured: Mapping[str, Shares], totals: Mapping[str, RunScores], delta: float
) -> tuple[list[Test], list[Test]]:
    """Tests of the axes, and of training itself."""
    lookup, strata, noise = _responses(measured, totals)
    gain = gain_question(layout, lookup, strata)
    asked = questions_of(layout, lookup, strata)
    return _tests(asked, delta, noise), _tests([gain] if gain else [], delta, noise)


def _responses(
    measured: Mapping[str, Shares], totals: Mapping[str, RunScores]
) -> tuple[Lookup, npt.NDArray[np.intp], float | None]:
    """Responses by question where every benchmark's are known, else means of runs with their sampling variance.

    Returns:
        The lookup, the benchmark of every question [Q], and the variance of one evaluation, None by question.
    """
    if set(measured) == set(totals):
        strata = np.repeat(np.arange(len(measured)), [_width(f) for f in measured.values()])
        return _lookup(list(measured.values())), strata, None
    scores = mean_run_scores(list(totals.values()))

    def lookup(run: str, step: int) -> FloatArray | None:
        found = scores.get((run, step))
        return None if found is None else np.array([found[0]])

    return lookup, np.zeros(1, dtype=np.intp), max((v for _, v in scores.values()), default=0.0)


def _performance_rows(study: Study, layout: Layout, settings: VerdictSettings) -> list[Row]:
    tests: list[Test] = []
    names: list[str] = []
    one = np.zeros(1, dtype=np.intp)
    for metric in PERFORMANCE:
        values = checkpoint_metric(study, metric)
        logs = {key: np.array([math.log(v)]) for key, v in values.items() if v > 0}

        def lookup(run: str, step: int, logs: dict[tuple[str, int], FloatArray] = logs) -> FloatArray | None:
            return logs.get((run, step))

        for question in questions_of(layout, lookup, one):
            if question.axis == layout.within and not metric.grows_with_steps:
                continue
            effects = run_effects(question.y[:, :, 0], question.matrix, question.weights)
            tests.append(
                Test(
                    axis=question.axis,
                    contrasts=question.contrasts,
                    effects=effects,
                    delta=math.log1p(RELATIVE_DELTA),
                    better=metric.better,
                    blocked=question.blocked,
                )
            )
            names += [metric.name] * len(question.contrasts)
    return [Row(name, "", j, "secondary") for name, j in zip(names, judge_secondary(tests, settings))]


def _width(measured: Shares) -> int:
    return len(next(iter(measured.values())))


def _lookup(measured: list[Shares]) -> Lookup:
    """Responses over the questions of several benchmarks; None unless each has the checkpoint."""
    keys = set.intersection(*(set(m) for m in measured))
    stacked = {key: np.concatenate([m[key] for m in measured]) for key in keys}

    def lookup(run: str, step: int) -> FloatArray | None:
        return stacked.get((run, step))

    return lookup


def _tests(questions: list[Question], delta: float, noise: float | None) -> list[Test]:
    """Tests; `noise` is the sampling variance of one evaluation where no questions are known."""
    tests = []
    for q in questions:
        if not q.y.shape[-1]:
            continue
        if noise is None:
            effects = two_way_effects(q.y, q.matrix, q.weights, q.strata)
        else:
            y = q.y[:, :, 0]
            effects = run_effects(y, q.matrix, q.weights, np.full(y.shape, noise * q.evaluations))
        tests.append(
            Test(
                axis=q.axis,
                contrasts=q.contrasts,
                effects=effects,
                delta=delta,
                assumed_run=ASSUMED.run,
                blocked=q.blocked,
            )
        )
    return tests


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
    for intervals in (accuracy, gain):
        for run, step in dict.fromkeys((r, s) for r, s, _ in intervals):
            parts = [intervals.get((run, step, b)) for b in benchmarks_measured(study)]
            known = [p for p in parts if p is not None]
            if len(known) == len(parts):
                intervals[run, step, ALL] = mean_interval(known)
    return accuracy, gain


def _best_of_checks(
    study: Study, accuracy: Mapping[tuple[str, int, str], Interval]
) -> tuple[BestOfCheck, ...]:
    """The best trained checkpoint by benchmark, beside the best of as many identical ones."""
    trained = set(study.runs.loc[study.runs["kind"] != "base", "run"].astype(str))
    questions, evaluations = (
        t[(t["step"] > 0) & t["run"].isin(trained)] for t in (study.questions(), study.evaluations)
    )
    accuracy = {k: v for k, v in accuracy.items() if k[1] > 0 and k[0] in trained}
    checks: list[BestOfCheck] = []
    parts: list[tuple[float, float]] = []
    for benchmark in benchmarks(study):
        own = questions[questions["benchmark"] == benchmark]
        made = evaluations[evaluations["benchmark"] == benchmark]
        scores = {k[:2]: v.estimate for k, v in accuracy.items() if k[2] == benchmark}
        if made.empty or len(scores) < 2:
            continue
        if own.empty:
            asked = round(float(made["questions"].astype(float).median()))
            rates = np.full(asked, float(np.mean(list(scores.values()))))
            tries = np.full(asked, round(float(made["samples"].astype(float).median())), dtype=np.int64)
        else:
            table = own.pivot_table(
                index=["run", "step"], columns="question_index", values=["samples", "correct"]
            )
            samples, correct = (table[c].to_numpy(dtype=np.float64) for c in ("samples", "correct"))
            samples, correct = np.nan_to_num(samples), np.nan_to_num(correct)
            rates = question_rates(samples, correct)
            tries = np.rint(samples.max(axis=0)).astype(np.int64)
        (run, step), best = max(scores.items(), key=lambda item: item[1])
        mean = float(np.mean(list(scores.values())))
        result = best_of_identical(len(scores), mean, best, rates=rates, samples=tries)
        variance = float((tries * rates * (1 - rates)).sum()) / float(tries.sum()) ** 2
        checks.append(BestOfCheck(benchmark, run, step, result, variance))
        parts.append((mean, variance))
    every = {k[:2]: v.estimate for k, v in accuracy.items() if k[2] == ALL}
    if len(parts) > 1 and len(every) > 1:
        (run, step), best = max(every.items(), key=lambda item: item[1])
        variance = sum(v for _, v in parts) / len(parts) ** 2
        checks.append(BestOfCheck(ALL, run, step, best_of_mean(len(every), best, parts), variance))
    return tuple(checks)


def _best(
    layout: Layout,
    responses: tuple[Lookup, npt.NDArray[np.intp], float | None],
    accuracy: Intervals,
    best_of_checks: tuple[BestOfCheck, ...],
    settings: VerdictSettings,
) -> BestCell | None:
    lookup, strata, _ = responses
    scores = {(run, step): found.estimate for (run, step, name), found in accuracy.items() if name == ALL}
    overall = best_of_checks[-1]
    return best_cell(layout, lookup, strata, scores, overall.result, overall.variance, settings.alpha)
