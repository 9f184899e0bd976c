"""A probe trains the most_expensive run of each model for a few steps, and the plan reckons with what they took."""

from __future__ import annotations

import json
import sys

import pytest

from harness import plan
from harness.matrix.execution import probe
from harness.matrix.execution.run_matrix import prepare
from harness.matrix.planning.estimator import probe_store
from harness.matrix.planning.measurements import read_measurements
from harness.store.folders import Store
from tests.harness.matrix.conftest import GRID

FORKING = ("  prompt:", "  optimizer: {schedule: wsd}\n  prompt:")


@pytest.fixture
def planned(tmp_path, capsys, monkeypatch):
    """Prints the plan of a grid on the model that comes with the harness, after a probe; the exit code and text."""
    monkeypatch.setattr(probe, "STEPS", 3)
    monkeypatch.setattr(probe, "QUESTIONS", 2)
    grid, out = tmp_path / "grid.yaml", tmp_path / "out"

    def run(*replacements):
        text = GRID.format(model="tiny").replace("[2, 4]", "[400, 800]")
        for old, new in replacements:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        grid.write_text(text)
        code = plan.main(["--grid", str(grid), "--out", str(out), "--probe", "--json"])
        told = capsys.readouterr()
        return code, told.out, told.err, probe_store(Store(out))

    return run


def test_a_plan_reckons_with_what_a_probe_took_until_a_knob_changes(planned):
    code, text, err, probes = planned(FORKING)
    assert code == 0, err
    data = json.loads(text)
    (folder,) = probes.runs()
    job, seen = folder.read_job(), read_measurements(folder)
    assert (job.steps, job.recipe.training.steps, job.fork, job.fork_steps) == ((3,), 3, None, ())
    assert job.recipe.rollout.max_completion_tokens == 32, "the dearer of the two caps"
    assert [e.questions for e in folder.evaluations()] == [2]
    assert any(line.startswith("times and memory of a probe of 2 steps") for line in data["assumptions"])
    entries = {entry["label"]: entry for entry in data["jobs"]}
    # 800 steps of the very recipe that was probed; the start and one evaluation are little beside them.
    seconds = entries["cap=32 steps=800 seed=0"]["estimate"]["seconds"]
    assert seconds == pytest.approx(800 * sum(seen.steps) / 2 + seen.startup[0], rel=0.05)
    # The shorter run forks, and takes only the steps after that.
    fork = entries["cap=32 steps=400 seed=0"]
    assert fork["fork"]["step"] == 320
    assert fork["estimate"]["seconds"] == pytest.approx(80 * sum(seen.steps) / 2 + seen.startup[0], rel=0.2)

    # A probe after a change of a knob measures anew, and leaves no weights.
    changed = (FORKING[0], f"  training: {{microbatch_tokens: 64}}\n{FORKING[1]}")
    code, text, err, probes = planned(changed)
    assert code == 0, err
    (folder,) = probes.runs()
    assert folder.read_job().recipe.training.microbatch_tokens == 64
    assert [len(attempt.steps()) for attempt in folder.attempts()] == [3]
    assert any("a probe of 2 steps" in line for line in json.loads(text)["assumptions"])
    assert folder.checkpoint_steps() == []


def test_a_probe_that_fails_says_where_to_look_and_is_no_evidence(planned, tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "WORKER", (sys.executable, "-c", "raise SystemExit(1)"))
    code, _, err, probes = planned()
    assert code == 2
    assert "the probe of [probe of cap=32" in err
    assert str(probes.root) in err
    matrix = prepare(str(tmp_path / "grid.yaml"), tmp_path / "out", planning=True)
    assert not any("probe" in line for line in matrix.estimator.assumptions())
