"""Every verdict of a study: accuracy, coverage and reliability, performance, single benchmarks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

import numpy as np

from harness.reporting.analysis.performance import (
    COMPETING,
    LOAD,
    PERFORMANCE,
    RELATIVE_DELTA,
    Metric,
    checkpoint_metric,
)
from harness.reporting.analysis.questions import Question, gain_question, questions_of
from harness.reporting.analysis.responses import FloatArray, Layout, Responses, RunScores
from harness.stats.design import INTERACTION_SIGN
from harness.stats.effects import AnswerNoise, run_effects, two_way_effects
from harness.stats.power import ASSUMED
from harness.stats.verdicts import Judgement, Test, VerdictSettings, judge_primary, judge_secondary
from harness.store.study import Study

MOST_LOAD = math.log1p(RELATIVE_DELTA) / 2
"""Half of the smallest difference that matters: where the load of levels may explain more, time has no verdict."""
ALL = "all"
"""The mean over benchmarks, each weighing the same."""


@dataclass(frozen=True)
class Row:
    """One verdict.

    Attributes:
        metric: `accuracy`, or a performance metric.
        benchmark: a benchmark's name, `all`, or empty for performance metrics.
        judgement: accuracy in fractions, performance metrics as natural logarithms of ratios.
        load: of an effect on time that has no verdict for it: logarithm of what other programs' load may explain.
        family: whose error rate is controlled together: `primary`, the declared axes on mean accuracy; `training`,
            the last checkpoint against step 0, which no axis declares; `trajectory`, decline along training;
            `secondary`, single benchmarks and other metrics.
    """

    metric: str
    benchmark: str
    judgement: Judgement
    family: Literal["primary", "training", "trajectory", "secondary"]
    load: float = 0.0


def is_share(metric: str) -> bool:
    """Whether a metric is a share of right answers, whose effects are differences: other effects are ratios."""
    return metric == "accuracy" or metric.startswith(("pass@", "maj@", "gain "))


def is_interaction(judgement: Judgement) -> bool:
    """Whether it is about two axes at once: a difference of effects, which nobody can choose."""
    return INTERACTION_SIGN in judgement.axis


def on_every_level(layout: Layout, totals: Mapping[str, RunScores]) -> list[str]:
    """Benchmarks on which every level was measured that was measured at all; every benchmark if there are none."""
    places: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for block in layout.blocks:
        for axis, level in block.levels.items():
            places.setdefault((axis, level), set()).update(block.checkpoints.values())
    of_level = [{b for b, found in totals.items() if own & found.keys()} for own in places.values()]
    shared = set(totals).intersection(*(names for names in of_level if names))
    return [b for b in totals if b in shared] or list(totals)


def accuracy_rows(
    layout: Layout,
    totals: Mapping[str, RunScores],
    respond: Callable[[Sequence[str]], Responses],
    shared: Sequence[str],
    settings: VerdictSettings,
    delta: float,
) -> list[Row]:
    """The primary verdicts, training itself, and those of single benchmarks.

    Args:
        layout: of the study.
        totals: accuracies by benchmark.
        respond: responses of several benchmarks.
        shared: benchmarks of the primary verdicts.
        settings: error rate, power, seeds.
        delta: smallest accuracy difference that matters.
    """
    if not totals:
        return []
    primary, gain = tests_of(layout, respond(shared), delta)
    rows = [Row("accuracy", ALL, j, "primary") for j in judge_primary(primary, settings)]
    rows += [Row("accuracy", ALL, j, "training") for j in judge_primary(gain, settings)]
    single: list[Test] = []
    names: list[str] = []
    for benchmark in totals:
        tests = list(chain(*tests_of(layout, respond([benchmark]), delta)))
        single += tests
        names += [benchmark for test in tests for _ in test.contrasts]
    judged = judge_secondary(single, settings)
    return rows + [Row("accuracy", name, j, "secondary") for name, j in zip(names, judged)]


def tests_of(layout: Layout, made: Responses, delta: float) -> tuple[list[Test], list[Test]]:
    """Tests of the axes, and of training itself."""
    gain = gain_question(layout, made.lookup, made.strata)
    asked = questions_of(layout, made.lookup, made.strata)
    return tests_for(layout, asked, made, delta), tests_for(layout, [gain] if gain else [], made, delta)


def tests_for(layout: Layout, questions: Sequence[Question], made: Responses, delta: float) -> list[Test]:
    """The questions with what the responses say about them."""
    tests = []
    for q in questions:
        if not q.y.shape[-1]:
            continue
        if made.noise is None:
            effects = two_way_effects(
                q.y,
                q.matrix,
                q.weights,
                q.strata,
                levels=q.levels,
                clusters=None if made.clusters is None else made.clusters[q.complete],
                samples=made.samples,
                unit=layout.unit,
            )
        else:
            y = q.y[:, :, 0]
            # Of a difference to one and the same evaluation, half of the noise is that evaluation's.
            own = q.evaluations / 2 if q.once else q.evaluations
            answers = AnswerNoise(
                variance=np.full(y.shape, made.noise * own),
                df=made.noise_df,
                shared=made.noise if q.once else 0.0,
            )
            effects = run_effects(y, q.matrix, q.weights, answers, levels=q.levels, unit=layout.unit)
        tests.append(
            Test(
                axis=q.axis,
                contrasts=q.contrasts,
                effects=effects,
                delta=delta,
                assumed_run=ASSUMED.run if layout.unit == "recipe" else None,
                blocked=q.blocked,
                rate=_rate(q),
                unit=layout.unit,
            )
        )
    return tests


def _rate(question: Question) -> float | None:
    """What the baseline level scores; None where only differences are known."""
    if not question.levels:
        return None
    at = [level == question.contrasts[0].baseline for level in question.levels]
    return float(np.clip(np.mean(question.y[:, at]), 0.0, 1.0)) if any(at) else None


def performance_rows(study: Study, layout: Layout, settings: VerdictSettings) -> list[Row]:
    """Verdicts of time, memory and money, on logarithms; none on time where other programs' load explains as much."""
    tests: list[Test] = []
    names: list[Metric] = []
    for metric in PERFORMANCE:
        for question in _performance_questions(study, layout, metric):
            effects = run_effects(
                question.y[:, :, 0], question.matrix, question.weights, levels=question.levels
            )
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
            names += [metric] * len(question.contrasts)
    loads = _loads(study, layout)
    rows = []
    for metric, judged in zip(names, judge_secondary(tests, settings)):
        load = loads.get((judged.axis, judged.level), 0.0) if metric.of_time else 0.0
        if abs(load) > MOST_LOAD and judged.verdict != "inconclusive":
            judged = replace(judged, verdict="inconclusive", corrected_effect=math.nan)
            rows.append(Row(metric.name, "", judged, "secondary", load=load))
        else:
            rows.append(Row(metric.name, "", judged, "secondary"))
    return rows


def _performance_questions(study: Study, layout: Layout, metric: Metric) -> list[Question]:
    logs = {k: np.array([math.log(v)]) for k, v in checkpoint_metric(study, metric).items() if v > 0}

    def lookup(run: str, step: int) -> FloatArray | None:
        return logs.get((run, step))

    asked = questions_of(layout, lookup, np.zeros(1, dtype=np.intp))
    return [q for q in asked if q.axis != layout.within or metric.grows_with_steps]


def _loads(study: Study, layout: Layout) -> dict[tuple[str, str], float]:
    """By axis and level: logarithm of what other programs may have slowed its runs by, more than the baseline's.

    The same contrasts as those of time. Where any run's load is not known, as in records made before it was measured,
    there is none.
    """
    found: dict[tuple[str, str], float] = {}
    if COMPETING not in study.steps.columns:
        return found
    for q in _performance_questions(study, layout, LOAD):
        effects = run_effects(q.y[:, :, 0], q.matrix, q.weights, levels=q.levels).effects
        found.update({(q.axis, c.level): float(e) for c, e in zip(q.contrasts, effects) if math.isfinite(e)})
    return found
