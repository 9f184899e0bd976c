"""The best checkpoint beside the best of as many identical ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.reporting.analysis.questions import questions_of
from harness.reporting.analysis.responses import (
    FloatArray,
    Layout,
    RunScores,
    benchmarks,
    mean_run_scores,
)
from harness.reporting.analysis.verdict_rows import ALL
from harness.stats.bestof import BestOf, RunNoise, best_of_identical, best_of_mean, question_rates
from harness.stats.effects import run_effects
from harness.stats.intervals import Interval
from harness.stats.power import ASSUMED
from harness.store.study import Study


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


def best_of_checks(
    study: Study,
    layout: Layout,
    accuracy: Mapping[tuple[str, int, str], Interval],
    totals: Mapping[str, RunScores],
) -> tuple[BestOfCheck, ...]:
    """The best trained checkpoint by benchmark, beside the best of as many identical ones.

    Identical ones differ by their answers and by their seeds: what runs differ by once axes and seeds are accounted
    for, or, where too few degrees of freedom measure that, what plans assume.
    """
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
        variance = float((tries * rates * (1 - rates)).sum()) / float(tries.sum()) ** 2
        noise = _run_noise(layout, totals[benchmark], variance)
        result = best_of_identical(len(scores), mean, best, rates=rates, samples=tries, run_noise=noise)
        checks.append(BestOfCheck(benchmark, run, step, result, variance))
        parts.append((mean, variance))
    every = {k[:2]: v.estimate for k, v in accuracy.items() if k[2] == ALL}
    if len(parts) > 1 and len(every) > 1:
        (run, step), best = max(every.items(), key=lambda item: item[1])
        variance = sum(v for _, v in parts) / len(parts) ** 2
        noise = _run_noise(layout, mean_run_scores(list(totals.values())), variance)
        result = best_of_mean(len(every), best, parts, run_noise=noise)
        checks.append(BestOfCheck(ALL, run, step, result, variance))
    return tuple(checks)


def _run_noise(layout: Layout, scores: RunScores, sampling: float) -> RunNoise:
    """Noise between runs on a benchmark, or on the mean over several."""

    def lookup(run: str, step: int) -> FloatArray | None:
        found = scores.get((run, step))
        return None if found is None else np.array([found[0]])

    square, df = math.nan, 0
    for question in questions_of(layout, lookup, np.zeros(1, dtype=np.intp)):
        if question.axis in layout.between:
            effects = run_effects(question.y[:, :, 0], question.matrix, question.weights)
            square, df = float(effects.run_variance[0] / effects.leverage[0]), effects.df
            break
    # Families are compared by means over their cells, which share the run and not the drawing of answers.
    return RunNoise.of(square, sampling / len(layout.cells), df, assumed=ASSUMED.run)
