import pytest

from harness.reporting.tables.plan import plan_table
from harness.store.schema import load, write_record
from harness.store.study import load_study

SMALL = {"benchmarks": {"easy": 20}, "steps": (2,), "samples": 1, "axes": {"reward": ("accuracy", "cosine")}}


@pytest.fixture
def planned(study_at, tmp_path):
    """A finished study of three jobs whose plan said 80 s and half a GiB of each, and its plan file."""
    out = study_at(tmp_path / "study", **SMALL)
    file = out / "plan.json"
    plan = load("output", file)
    trained = sum(job["kind"] == "train" for job in plan["jobs"])
    for number, job in enumerate(plan["jobs"]):
        job.setdefault("label", f"job {number}")
        job["estimate"] = {"seconds": 80.0, "usd": 0.001, "gib": 0.5}
    bases = len(plan["jobs"]) - trained
    plan["totals"] = {
        "cells": len(plan["cells"]), "runs": trained, "base_models": bases, "evaluations": 4, "slots": 1,
        "runs_to_do": len(plan["jobs"]), "evaluations_to_do": 4,
        "estimate": {"wall_hours": 0.07, "device_hours": 0.07, "usd": 0.003, "gib_per_device": 0.5},
    }  # fmt: skip
    plan["assumptions"] = ["one thing", "another"]
    write_record("output", plan, file)
    return out, file, plan


def test_planned_and_measured_side_by_side(planned):
    out, _, plan = planned
    study = load_study(out)
    table = plan_table(study)
    rows = table.frame.set_index("run")
    assert list(rows.index) == [*(job["run"] for job in plan["jobs"]), "total"]
    wall = {str(r["run"]): r["wall_seconds"] for r in study.runs.to_dict("records")}
    for job in plan["jobs"]:
        assert rows.loc[job["run"], "hours"] == pytest.approx(wall[job["run"]] / 3600)
        assert rows.loc[job["run"], "hours_ratio"] == pytest.approx(wall[job["run"]] / 80)
        trained = job["kind"] == "train"
        assert (rows.loc[job["run"], "gib"] > 0) == trained
    assert rows.loc["total", "planned_hours"] == pytest.approx(len(plan["jobs"]) * 80 / 3600)
    assert rows.loc["total", "hours_ratio"] == pytest.approx(sum(wall.values()) / 80 / len(wall))
    assert rows.loc["total", "gib"] == rows.loc[[j["run"] for j in plan["jobs"]], "gib"].max()
    assert "one thing; another" in table.notes[0]


def test_a_plan_of_what_was_left_is_not_compared(planned):
    """Its estimates are of the rest, the measurements of all."""
    out, file, plan = planned
    plan["totals"]["runs_to_do"] -= 1
    write_record("output", plan, file)
    assert plan_table(load_study(out)) is None
    del plan["totals"]
    write_record("output", plan, file)
    assert plan_table(load_study(out)) is None
