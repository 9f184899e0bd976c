"""`harness.plan --simulate` as a user sees it."""

from __future__ import annotations

import json

from harness import plan
from tests.harness.matrix.conftest import GRID


def test_the_plan_says_what_an_update_allocates(tmp_path, capsys):
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID.format(model="tiny"))
    arguments = ["--grid", str(grid), "--out", str(tmp_path / "out"), "--simulate"]
    assert plan.main(arguments) == 0
    text = capsys.readouterr().out
    assert "[cap=32 seed=0]: 0.0" in text
    assert "  held by: " in text
    assert ", update 0.0" in text
    assert "not in it: the process" in text
    assert plan.main([*arguments, "--json"]) == 0
    simulated = json.loads(capsys.readouterr().out)["simulated"]
    assert [jobs["jobs"] for jobs in simulated] == [["cap=32 seed=0"], ["cap=16 seed=0"]]
    assert (
        simulated[0]["bytes"]
        == max(simulated[0]["by_phase"].values())
        == sum(simulated[0]["held_by"].values())
    )


def test_without_triton_a_gpus_step_is_not_guessed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("harness.simulation.jobs.triton_installed", lambda: False)
    grid = tmp_path / "grid.yaml"
    text = GRID.format(model="tiny").replace(
        "{device: cpu, devices_per_run: 1}", "{device: cuda, profile: rtx4090}"
    )
    grid.write_text(text)
    assert plan.main(["--grid", str(grid), "--out", str(tmp_path / "out"), "--simulate"]) == 2
    assert "--simulate: a GPU's step needs Triton" in capsys.readouterr().err
