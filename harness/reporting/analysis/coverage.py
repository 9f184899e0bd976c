"""Coverage and reliability: verdicts on pass@k and maj@k, and whether a gain is on questions already within reach."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from harness.reporting.analysis.responses import (
    Counts,
    Layout,
    RunScores,
    Shares,
    responses,
)
from harness.reporting.analysis.verdict_rows import ALL, Row, tests_of
from harness.reporting.frames import records
from harness.stats.coverage import newly_reached
from harness.stats.passk import pass_at_k
from harness.stats.verdicts import Test, VerdictSettings, judge_secondary
from harness.store.study import EVALUATION, Study

_MAJORITY = EVALUATION.name(lambda r: r.majority_accuracy)


def coverage_rows(
    study: Study,
    layout: Layout,
    known: Mapping[str, Counts],
    totals: Mapping[str, RunScores],
    shared: Sequence[str],
    settings: VerdictSettings,
    delta: float,
) -> list[Row]:
    """Verdicts on the mean over benchmarks, of K samples a question; none where a question has a single one.

    Args:
        study: what is analysed.
        layout: of it.
        known: samples and right ones by benchmark.
        totals: accuracies by benchmark.
        shared: benchmarks of the primary verdicts.
        settings: error rate, power, seeds.
        delta: smallest difference that matters.
    """
    if not shared or any(name not in known for name in shared):
        return []
    own = {name: known[name] for name in shared}
    k = min(int(np.nanmin(samples)) for found in own.values() for samples, _ in found.values())
    if k < 2 or not all(_whole(c) for found in own.values() for _, c in found.values()):
        return []
    passed = {
        name: {place: _passed(n, c, k) for place, (n, c) in found.items()} for name, found in own.items()
    }
    named: list[tuple[str, list[Test]]] = [(f"pass@{k}", _axes(study, layout, passed, totals, delta))]
    voted = _majorities(study, shared)
    if all(voted.values()):
        named.append((f"maj@{k}", tests_of(layout, responses(study, {}, voted), delta)[0]))
    named += [
        (f"gain {where} pass@{k - 1}", tests)
        for where, tests in _split_gain(study, layout, own, totals, k - 1, delta)
    ]
    names = [name for name, tests in named for test in tests for _ in test.contrasts]
    judged = judge_secondary([test for _, tests in named for test in tests], settings)
    return [Row(name, ALL, judgement, "secondary") for name, judgement in zip(names, judged)]


def _whole(correct: npt.NDArray[np.float64]) -> bool:
    """Whether samples are right or wrong: there is no pass@k of half an answer."""
    return bool((np.abs(correct - np.rint(correct))[np.isfinite(correct)] < 1e-6).all())


def _axes(
    study: Study,
    layout: Layout,
    measured: Mapping[str, Shares],
    totals: Mapping[str, RunScores],
    delta: float,
) -> list[Test]:
    made = responses(study, measured, {name: totals[name] for name in measured}, samples=1)
    return tests_of(layout, made, delta)[0]


def _passed(
    samples: npt.NDArray[np.float64], correct: npt.NDArray[np.float64], k: int
) -> npt.NDArray[np.float64]:
    asked = np.isfinite(samples)
    found = np.full(len(samples), math.nan)
    found[asked] = pass_at_k(samples[asked].astype(np.int64), np.rint(correct[asked]).astype(np.int64), k)
    return found


def _majorities(study: Study, names: Sequence[str]) -> dict[str, RunScores]:
    """Accuracy of the majority's answer and its sampling variance, one answer a question."""
    found: dict[str, RunScores] = {name: {} for name in names}
    if _MAJORITY not in study.evaluations.columns:
        return found
    for e in records(study.evaluations):
        value, questions = e[_MAJORITY], float(e["questions"])
        if str(e["benchmark"]) in found and value is not None and value == value:
            rate = (float(value) * questions + 0.5) / (questions + 1)
            place = (str(e["run"]), int(e["step"]))
            found[str(e["benchmark"])][place] = (float(value), rate * (1 - rate) / questions)
    return found


def _split_gain(
    study: Study,
    layout: Layout,
    known: Mapping[str, Counts],
    totals: Mapping[str, RunScores],
    k: int,
    delta: float,
) -> list[tuple[str, list[Test]]]:
    """The gain of the last checkpoints over the untrained model, on what it reaches within k samples and beyond."""
    parts: tuple[dict[str, Shares], dict[str, Shares]] = ({}, {})
    for name, found in known.items():
        for part in parts:
            part[name] = {}
        for (run, step), (n, c) in found.items():
            base = (layout.base.get(run, ""), 0)
            if step == 0 and run in layout.base.values():
                for part in parts:
                    part[name][run, step] = np.zeros(len(n))
            elif base in found:
                before, right = found[base]
                asked = np.isfinite(before) & np.isfinite(n)
                for part in parts:
                    part[name][run, step] = np.full(len(n), math.nan)
                split = newly_reached(before[asked], np.rint(right[asked]), c[asked] / n[asked], k)
                for part, values in zip(parts, split):
                    part[name][run, step][asked] = values
    if any(not part[name] for part in parts for name in known):
        return []
    own = {name: totals[name] for name in known}
    return [
        (where, tests_of(layout, responses(study, part, own, samples=1), delta)[1])
        for where, part in zip(("within", "beyond"), parts)
    ]
