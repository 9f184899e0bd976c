"""The tables of an output folder."""

from __future__ import annotations

import pandas as pd
import pytest

from harness.spec.grid import RESERVED_AXES
from harness.store.errors import StoreError
from harness.store.folders import SAMPLE_COLUMNS, Store
from harness.store.records import AttemptError, Provenance
from harness.store.schema import write_record
from harness.store.study import _RUN_COLUMNS, EVALUATION, STEP, EndedAttempt, load_study, run_status

from ..examples import evaluation_record, step_record

GRID = {
    "name": "g",
    "axes": {"cap": ["8", "16"], "steps": ["2", "4"]},
    "steps_axes": ["steps"],
    "baselines": {"cap": "8", "steps": "2"},
}
RUNS = {"8": "a" * 12, "16": "b" * 12}
BASE = "c" * 12


def entry(run, kind, steps, levels):
    return {
        "run": run,
        "kind": kind,
        "label": run,
        "levels": levels,
        "seed": 0,
        "steps": steps,
        "evaluation_ids": {"easy": "e" * 12},
        "devices": 2,
        "usd_per_hour": 1.8,
    }


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    write_record("output", GRID, store.grid_file)
    cells = [
        {"levels": {"cap": cap, "steps": str(step)}, "seed": 0, "run": run, "step": step}
        for cap, run in RUNS.items()
        for step in (2, 4)
    ]
    jobs = [entry(BASE, "base", [0], {})]
    jobs += [entry(run, "train", [2, 4], {"cap": cap}) for cap, run in RUNS.items()]
    write_record("output", {"cells": cells, "jobs": jobs}, store.plan_file)
    return store


def evaluate(store, run, step, correct, evaluation_id="e" * 12):
    rows = [
        {
            **dict.fromkeys(SAMPLE_COLUMNS, 0),
            "question_index": q,
            "question_id": f"q{q}",
            "sample": k,
            "correct": c,
        }
        for q, answers in enumerate(correct)
        for k, c in enumerate(answers)
    ]
    record = evaluation_record(
        run_id=run,
        step=step,
        evaluation_id=evaluation_id,
        questions=len(correct),
        samples=len(correct[0]),
        correct=sum(map(sum, correct)),
    )
    store.run(run).save_evaluation(record, pd.DataFrame(rows))


def test_an_empty_output(store):
    study = load_study(store.root)
    assert list(study.cells.columns) == ["cap", "steps", "seed", "run", "step"]
    assert list(study.cells["step"]) == [2, 4, 2, 4]
    assert list(study.runs["status"]) == ["pending"] * 3
    assert "steps" not in study.runs.columns
    assert pd.isna(study.runs.loc[0, "cap"])
    assert study.steps.empty
    assert list(study.questions().columns)[:3] == ["run", "step", "benchmark"]
    assert study.evaluations.empty


def test_costs_count_every_attempt(store):
    folder = store.run(RUNS["8"])
    folder.new_attempt(Provenance(device="old")).finish(
        "failed", wall_seconds=10.0, error=AttemptError(type="E", message="no")
    )
    folder.new_attempt(Provenance(device="new")).finish("interrupted", wall_seconds=30.0)
    row = load_study(store.root).runs.set_index("run").loc[RUNS["8"]]
    assert (row["attempts"], row["failed_attempts"], row["status"]) == (2, 1, "interrupted")
    assert row["device_seconds"] == 80.0
    assert row["cost_usd"] == pytest.approx(80 / 3600 * 1.8)
    assert row["device"] == "new"


def test_later_attempts_supersede_steps(store):
    folder = store.run(RUNS["8"])
    first = folder.new_attempt(Provenance())
    for step in (1, 2, 3):
        first.append_step(step_record(step, reward={"mean": 0.1}))
    second = folder.new_attempt(Provenance())
    for step in (3, 4):
        second.append_step(step_record(step, reward={"mean": 0.2}, attempt=2))
    steps = load_study(store.root).steps
    assert list(steps.columns[:3]) == ["run", "attempt", "step"]
    assert list(steps["step"]) == [1, 2, 3, 4]
    assert list(steps["attempt"]) == [1, 1, 2, 2]
    assert list(steps[STEP.name(lambda r: r.reward.mean)]) == [0.1, 0.1, 0.2, 0.2]


def test_questions_come_from_the_samples_of_planned_evaluations(store):
    attempt = store.run(RUNS["8"]).new_attempt(Provenance())
    for step in (1, 2, 3, 4):
        attempt.append_step(step_record(step))
    evaluate(store, RUNS["8"], 2, [[True, False], [True, True]])
    evaluate(store, RUNS["8"], 4, [[True, True]], evaluation_id="0" * 12)
    evaluate(store, RUNS["8"], 3, [[True, True]])
    study = load_study(store.root)
    assert list(study.evaluations["step"]) == [2], "other settings and other steps are not in the plan"
    assert study.evaluations[EVALUATION.name(lambda r: r.timing.total_seconds)].item() == 1.5
    questions = study.questions()
    assert questions[["question_id", "samples", "correct"]].values.tolist() == [["q0", 2, 1], ["q1", 2, 2]]


def test_no_axis_may_be_called_as_a_column_of_runs():
    assert {"run", "kind", "label", "seed", *_RUN_COLUMNS} <= RESERVED_AXES


def test_a_folder_without_a_plan_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"grid\.resolved\.json: no such record"):
        load_study(tmp_path)


@pytest.mark.parametrize(
    ("missing", "ends", "status"),
    [
        (False, [], "finished"),
        (False, ["killed", "finished"], "finished"),
        (False, ["diverged"], "diverged"),
        (False, ["diverged", "finished"], "diverged"),  # a benchmark was added
        (True, [], "pending"),
        (True, ["failed", "killed"], "killed"),
        (True, ["finished"], "pending"),  # an earlier, smaller plan was finished
        (True, ["running"], "running"),
    ],
)
def test_status_of_a_run(missing, ends, status):
    attempts = [
        EndedAttempt(
            attempt=number,
            status=end,
            started_at=None,
            wall_seconds=1.0,
            seconds_by_phase={},
            error=None,
            provenance=Provenance(),
        )
        for number, end in enumerate(ends, start=1)
    ]
    assert run_status(missing, attempts, diverged="diverged" in ends) == status
