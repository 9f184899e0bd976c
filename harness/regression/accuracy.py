"""Comparison of result folders: accuracy with the statistics of verdicts, speed and memory run by run.

Runs are matched by their levels and seed. Each pair is a block of the design, so the effects of levels and seed
cancel, and the effect of the code has one degree of freedom less than there are pairs.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from harness.regression.errors import CandidateFailed, GateError, MissingBaseline, OtherDevice
from harness.regression.gate import Finding, Settings
from harness.regression.measure import Pairs
from harness.reporting.analysis.performance import memory_column, memory_phases
from harness.stats.design import Contrast
from harness.stats.effects import two_way_effects
from harness.stats.paired import Comparison, Decision, compare, student_interval
from harness.stats.verdicts import Judgement, Test, VerdictSettings, judge_primary
from harness.store.errors import StoreError
from harness.store.records.form import JsonObject
from harness.store.study import STEP, Study, load_study

FLOORS = {"training": 0.10, "memory": 0.05}
"""Least tolerance for figures measured in two separate jobs: other load on the machine, another day."""

GRID: JsonObject = {
    "name": "regress",
    "question": "Does the candidate learn what the baseline learns?",
    "base": {
        "model": "tiny",
        "data": {"size": 200, "sources": [{"source": "sums", "terms": [2, 3], "digits": [1, 2]}]},
        "rollout": {"prompts_per_step": 8, "completions_per_prompt": 8, "max_completion_tokens": 40},
        "reward": {"functions": [{"name": "accuracy"}, {"name": "format", "weight": 0.5}]},
        "optimizer": {"learning_rate": 1e-4},
        "training": {"steps": 8},
    },
    "axes": {"steps": {"training.steps": [8]}},
    "seeds": [0, 1, 2, 3],
    "evaluate": {
        "samples": 2,
        "max_completion_tokens": 40,
        "benchmarks": [
            {"name": "sums-3", "questions": 60, "source": {"source": "sums", "terms": [3], "digits": [2]}}
        ],
    },
    "hardware": {"device": "cpu", "devices_per_run": 1},
}
"""The grid that both trees train to compare their accuracy."""


def compare_trees(
    baseline: Path,
    candidate: Path,
    delta: float,
    log: Callable[[str], None],
    grid: JsonObject | None = None,
) -> list[Finding]:
    """Trains the same small matrix with both source trees and compares the accuracy.

    Args:
        baseline: its tree.
        candidate: its tree.
        delta: smallest loss of accuracy that matters, a fraction.
        log: called with each line of progress.
        grid: what to train; `GRID` unless given.

    Raises:
        CandidateFailed: a run of the candidate fails.
        GateError: a run of the baseline fails.
    """
    with tempfile.TemporaryDirectory(prefix="harness-regress-accuracy-") as folder:
        outs = {}
        file = Path(folder) / "grid.yaml"
        file.write_text(json.dumps(grid or GRID))
        for role, tree in (("baseline", baseline), ("candidate", candidate)):
            log(f"accuracy: the {role} trains")
            outs[role] = Path(folder) / role
            _ablate(role, tree, file, outs[role])
        studies = [load_study(out) for out in outs.values()]
        return [accuracy_finding(studies[0], studies[1], delta)]


def _ablate(role: str, tree: Path, grid: Path, out: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness.ablate", "--grid", str(grid), "--out", str(out), "--workers", "1"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = [line for line in done.stderr.strip().splitlines() if line.strip()]
        message = f"the {role}'s matrix ends with exit code {done.returncode}" + (
            f": {words[0][:300]}" if words else ""
        )
        raise CandidateFailed(message) if role == "candidate" else GateError(message)


def compare_folders(
    baseline: Path, candidate: Path, checks: Sequence[str], delta: float, settings: Settings
) -> tuple[list[Finding], str]:
    """Compares two result folders; returns the findings and the device.

    Args:
        baseline: its folder.
        candidate: its folder.
        checks: of `training`, `memory` and `accuracy`.
        delta: smallest loss of accuracy that matters, a fraction.
        settings: level of the intervals.

    Raises:
        MissingBaseline: the baseline cannot be read, or no finished run of it has a counterpart in the candidate.
        CandidateFailed: the candidate has failed runs, or cannot be read.
        OtherDevice: the two folders come from different devices.
    """
    try:
        first = load_study(baseline)
    except StoreError as error:
        raise MissingBaseline(f"--baseline {baseline}: {error}") from None
    if first.damaged:
        raise MissingBaseline(f"--baseline {baseline}: {first.damaged[0]}")
    try:
        second = load_study(candidate)
    except StoreError as error:
        raise CandidateFailed(f"--candidate {candidate}: {error}") from None
    failed = second.runs[second.runs["status"] != "finished"]
    if len(failed):
        row = failed.iloc[0]
        raise CandidateFailed(
            f"{candidate}: {len(failed)} of {len(second.runs)} runs are not finished: [{row['label']}] is "
            f"{row['status']}"
        )
    device = _same_device(first, second)
    findings = []
    for name, column in (("training", STEP.name(lambda r: r.timing.tokens_per_second)), ("memory", None)):
        if name in checks:
            findings += _speed(first, second, name, column, settings)
    if "accuracy" in checks:
        findings.append(accuracy_finding(first, second, delta))
    return findings, device


def _same_device(first: Study, second: Study) -> str:
    devices = [sorted(set(study.runs["device"].dropna().astype(str))) for study in (first, second)]
    if devices[0] != devices[1]:
        named = [" and ".join(d) or "an unknown device" for d in devices]
        raise OtherDevice(
            f"the baseline ran on {named[0]}, the candidate on {named[1]}",
            "run both on one machine: figures of different devices say nothing about the code",
        )
    return " and ".join(devices[0])


def _key(study: Study) -> list[str]:
    return [axis for axis in study.axes if axis not in study.steps_axes]


def _matched(first: Study, second: Study) -> list[tuple[str, str]]:
    """Runs of both that have the same levels and seed."""
    if _key(first) != _key(second):
        raise MissingBaseline(
            f"the two grids have other axes: {', '.join(_key(first))} and {', '.join(_key(second))}"
        )
    tables = []
    for study in (first, second):
        rows = study.runs[(study.runs["kind"] == "train") & (study.runs["status"] == "finished")]
        names = [*_key(study), "seed"]
        tables.append({tuple(map(str, row[names])): row["run"] for _, row in rows.iterrows()})
    pairs = [(run, tables[1][key]) for key, run in tables[0].items() if key in tables[1]]
    if not pairs:
        raise MissingBaseline("no finished run of the baseline has its like in the candidate")
    return pairs


def _speed(first: Study, second: Study, name: str, column: str | None, settings: Settings) -> list[Finding]:
    differences = []
    for a, b in _matched(first, second):
        values = [
            _figure(study.steps[study.steps["run"] == run], column)
            for study, run in ((first, a), (second, b))
        ]
        if not all(math.isfinite(v) and v > 0 for v in values):
            continue
        # Tokens per second are better when there are more of them, bytes when there are fewer.
        differences.append(math.log(values[1] / values[0]) * (-1 if name == "training" else 1))
    if not differences:
        return []
    found = compare(differences, floor=FLOORS[name], level=settings.level, interval=student_interval)
    note = ""
    if found.level < settings.level:
        found = replace(found, decision="ambiguous")
        note = f"too few matched runs for {100 * settings.level:.0f} %"
    what = "seconds per token of training steps" if name == "training" else "peak memory of training steps"
    return [Finding(name, what, found, None, Pairs(differences), note)]


def _figure(steps: pd.DataFrame, column: str | None) -> float:
    """Median of `column` over a run's steps; without a column, peak memory. NaN where it was not measured."""
    if column is not None:
        return float(steps[column].median()) if column in steps else math.nan
    columns = [
        name
        for phase in memory_phases(steps)
        for name in (memory_column(phase, "resident_gib"), memory_column(phase, "device_gib"))
        if name in steps.columns
    ]
    values = steps[columns].apply(pd.to_numeric, errors="coerce") if columns else pd.DataFrame()
    return float(values.max().max()) if values.size else math.nan


def accuracy_finding(first: Study, second: Study, delta: float) -> Finding:
    """The verdict on accuracy as a finding: each pair of runs is compared at the last step that both evaluated."""
    judgement, same, steps = judge_code(first, second, delta)
    decision: Decision = "ambiguous"
    if judgement.verdict == "hurts":
        decision = "worse"
    elif judgement.verdict in ("works", "no meaningful effect") or judgement.ci_low > -delta or same:
        decision = "fine"
    words = (
        f"{100 * judgement.effect:+.1f} points ({100 * judgement.ci_low:+.1f} to {100 * judgement.ci_high:+.1f}), "
        f"{judgement.verdict}; would find {100 * judgement.detectable_effect:.1f} points"
    )
    if same:
        words = "the same share of right answers to every question in every run"
    words += f"; at step {' or '.join(map(str, steps))}"
    comparison = Comparison(
        decision=decision,
        ratio=judgement.effect,
        low=judgement.ci_low,
        high=judgement.ci_high,
        tolerance=delta,
        noise=0.0,
        level=0.95,
        pairs=judgement.runs // 2,
    )
    return Finding("accuracy", "all benchmarks", comparison, note=words)


def judge_code(first: Study, second: Study, delta: float) -> tuple[Judgement, bool, list[int]]:
    """Judges the effect of the code on accuracy, with two-way uncertainty over runs and questions.

    Args:
        first: the baseline.
        second: the candidate.
        delta: smallest change of accuracy that matters, a fraction.

    Returns:
        The judgement, whether all answers are equally often right, and the steps that were compared.

    Raises:
        MissingBaseline: the two have no evaluation of the same step and questions in common.
    """
    pairs = _matched(first, second)
    rows, labels, steps = [], [], set[int]()
    for number, runs in enumerate(pairs):
        tables = [study.questions() for study in (first, second)]
        parts = [table[table["run"] == run] for table, run in zip(tables, runs)]
        step = _last_common_step(*parts)
        steps.add(step)
        for level, part in enumerate(parts):
            own = part[part["step"] == step]
            key = pd.MultiIndex.from_arrays([own["benchmark"], own[_question(own)].astype(str)])
            rows.append(pd.Series((own["correct"] / own["samples"]).to_numpy(), index=key))
            labels.append((number, level))
    y = pd.concat(rows, axis=1).dropna()
    if y.empty:
        raise MissingBaseline("the two folders were not evaluated on the same questions")
    design = np.zeros((len(labels), len(pairs) + 1))
    for i, (number, level) in enumerate(labels):
        design[i, number] = 1.0
        design[i, -1] = level - 0.5
    weights = np.zeros(len(pairs) + 1)
    weights[-1] = 1.0
    strata = y.index.get_level_values(0).to_numpy()
    effects = two_way_effects(y.to_numpy().T, design, weights[None, :], strata)
    contrast = Contrast("candidate", "baseline", weights)
    test = Test(axis="code", contrasts=(contrast,), effects=effects, delta=delta)
    same = bool((y.to_numpy()[:, 0::2] == y.to_numpy()[:, 1::2]).all())
    return judge_primary([test], VerdictSettings(seeds=len(pairs)))[0], same, sorted(steps)


def _last_common_step(first: pd.DataFrame, second: pd.DataFrame) -> int:
    """The last step that both evaluated: the effect of further steps is not an effect of the code."""
    common = set(first["step"]) & set(second["step"])
    if not common:
        steps = [", ".join(str(s) for s in sorted(set(q["step"]))) or "none" for q in (first, second)]
        raise MissingBaseline(
            f"no step was evaluated in both folders: {steps[0]} in the baseline, {steps[1]} in the candidate"
        )
    return int(max(common))


def _question(frame: pd.DataFrame) -> str:
    return "question_id" if "question_id" in frame else "question"
