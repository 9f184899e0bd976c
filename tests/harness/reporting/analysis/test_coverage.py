"""Verdicts on coverage and reliability of a study of ours."""

import math

import numpy as np
import pytest

from harness.reporting.analysis.analysis import analyse
from harness.reporting.analysis.responses import counts
from harness.stats.passk import pass_at_k
from harness.store.study import load_study


@pytest.fixture(scope="module")
def analysis(study_at, tmp_path_factory):
    folder = tmp_path_factory.mktemp("coverage") / "out"
    return analyse(load_study(study_at(folder, effects={("reward", "cosine"): 0.15}, gain=0.2)))


def _rows(analysis, metric):
    return {(r.judgement.axis, r.judgement.level): r for r in analysis.rows if r.metric == metric}


def test_pass_at_k_is_judged_as_accuracy_is(analysis):
    rows = _rows(analysis, "pass@4")
    assert {axis for axis, _ in rows} == {"data", "length_cap", "reward", "steps"}
    assert {r.family for r in rows.values()} == {"secondary"}
    cosine = rows["reward", "cosine"].judgement
    scores = {}
    for name, found in counts(analysis.study).items():
        for place, (n, c) in found.items():
            scores.setdefault(place, {})[name] = float(pass_at_k(n.astype(int), c.astype(int), 4).mean())
    cells = analysis.study.cells
    cells = cells.assign(
        score=[
            np.mean(list(scores[str(r), int(s)].values()))
            for r, s in zip(cells["run"], cells["step"], strict=True)
        ]
    )
    means = cells.groupby("reward")["score"].mean()
    assert cosine.effect == pytest.approx(means["cosine"] - means["accuracy"])
    assert cosine.verdict == "works"


def test_a_gain_is_split_into_what_was_within_reach_and_what_was_not(analysis):
    within = _rows(analysis, "gain within pass@3")
    beyond = _rows(analysis, "gain beyond pass@3")
    parts = [next(iter(rows.values())).judgement for rows in (within, beyond)]
    training = analysis.training()
    assert sum(j.effect for j in parts) == pytest.approx(training.effect)
    assert all(math.isfinite(j.standard_error) and j.runs == training.runs for j in parts)
    assert parts[0].effect > 0
