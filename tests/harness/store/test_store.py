"""Records that are whole or absent, attempts that end or are found killed, and what is missing of a job."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.spec.evaluation import EvaluateSpec
from harness.spec.hardware import HardwareSpec
from harness.spec.recipe import Recipe
from harness.store import atomic
from harness.store.atomic import append_line, read_lines, write_json
from harness.store.attempts import STARTED, AttemptFolder, note_start
from harness.store.errors import StoreError
from harness.store.folders import SAMPLE_COLUMNS, RunFolder, Store
from harness.store.job import Fork, RunJob
from harness.store.leases import Owner
from harness.store.records import AttemptError, Provenance
from harness.store.records.form import to_data
from harness.store.schema import VERSIONS, write_record, written

from ..examples import evaluation_record, step_record

SCHEMA_1 = Path(__file__).parent / "assets" / "schema-1"
SPECS = ("schema", "recipe", "evaluate", "hardware")
"""The number of the schema, and sections, in which fields have been added since."""


@pytest.fixture
def job():
    recipe = {
        "model": "tiny",
        "data": {"sources": [{"source": "sums"}]},
        "reward": {"functions": [{"name": "accuracy", "params": {"a": [1, 2]}}]},
        "optimizer": {"learning_rate": 1e-6},
    }
    benchmarks = [{"name": n, "source": {"source": "sums"}} for n in ("easy", "hard.er")]
    return RunJob(
        run_id="0123456789ab",
        kind="train",
        recipe=Recipe.model_validate(recipe),
        seed=3,
        steps=(2, 4),
        evaluate=EvaluateSpec.model_validate({"benchmarks": benchmarks}),
        evaluation_ids={"easy": "aaaaaaaaaaaa", "hard.er": "bbbbbbbbbbbb"},
        hardware=HardwareSpec(device="cpu"),
        usd_per_hour=0.36,
        devices=2,
        label="x=1 seed=3",
        identity={"seed": 3, "rollout.top_p": 1.0},
    )


@pytest.fixture
def run(tmp_path, job):
    folder = Store(tmp_path).run(job.run_id)
    folder.write_job(job)
    return folder


def samples():
    return pd.DataFrame([dict.fromkeys(SAMPLE_COLUMNS, 0)])


def test_a_job_survives_its_file(run, job):
    assert run.read_job() == job
    assert job.device_usd_per_second == pytest.approx(0.36 * 2 / 3600)


def test_a_fork_survives_its_file_and_older_files_have_none(run, job):
    forked = dataclasses.replace(job, fork=Fork(run_id="f" * 12, step=3), fork_steps=(1, 3))
    run.write_job(forked)
    assert run.read_job() == forked
    data = to_data(forked)
    del data["fork"], data["fork_steps"]
    write_record("run", data, run.job_file)
    assert run.read_job() == job


def test_what_does_not_fit_a_job_is_named_with_its_file(run, job):
    good = to_data(job)
    for wrong, message in (
        ({"seed": "3"}, "seed: Input should be a valid integer, got '3'"),
        ({"kind": "other"}, "kind: Input should be 'train' or 'base', got 'other'"),
        ({"colour": "red"}, "has colour, which this schema does not know"),
        ({"recipe": {**good["recipe"], "model": 3}}, "recipe.model"),
    ):
        write_record("run", {**good, **wrong}, run.job_file)
        with pytest.raises(StoreError, match=re.escape(message)) as caught:
            run.read_job()
        assert str(run.path / "run.json") in str(caught.value)


@pytest.mark.parametrize("path", sorted(SCHEMA_1.rglob("run.json")), ids=lambda p: p.parent.name)
def test_jobs_of_the_present_schema_are_read_as_they_lie(path):
    data = json.loads(path.read_text(encoding="utf-8"))
    job = RunFolder(path.parent).read_job()
    assert job.run_id == path.parent.name
    # What a file of an early version lacks has its default; everything else comes back as it was.
    assert {k: v for k, v in written("run", job).items() if k in data and k not in SPECS} == {
        k: v for k, v in data.items() if k not in SPECS
    }


def test_an_equal_job_is_not_written_again(run, job):
    before = (run.path / "run.json").stat().st_mtime_ns
    run.write_job(job)
    assert (run.path / "run.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "no schema number"),
        ('{"schema": 99}', "has schema 99, this version reads up to 2"),
    ],
)
def test_a_foreign_or_newer_record_is_named(run, content, message):
    path = run.path / "run.json"
    path.write_text(content)
    with pytest.raises(StoreError, match=message) as caught:
        run.read_job()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["steps", "events"])
def test_a_line_of_a_newer_version_is_refused(run, name):
    attempt = run.reserve_attempt()
    attempt.append_step(step_record(1))
    attempt.append_event("data", "x")
    path = attempt.path / f"{name}.jsonl"
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["schema"] == VERSIONS["line"]
    read = getattr(attempt, name)
    assert len(read()) == 1
    append_line(path, {**json.loads(line), "schema": 99}, "a/b")
    with pytest.raises(StoreError, match="has schema 99, this version reads up to 2: update the harness"):
        read()


def test_missing_follows_evaluations_and_their_settings(run, job):
    everything = [(2, "easy"), (2, "hard.er"), (4, "easy"), (4, "hard.er")]
    assert run.missing(job) == everything
    record = evaluation_record(step=2, benchmark="hard.er", evaluation_id="bbbbbbbbbbbb", accuracy=0.5)
    run.save_evaluation(record, samples())
    assert run.missing(job) == [e for e in everything if e != (2, "hard.er")]
    saved = run.evaluation(2, "hard.er", "bbbbbbbbbbbb")
    assert saved is not None
    assert saved.samples_digest is not None
    assert replace(saved, samples_digest=None) == record
    assert run.evaluation(2, "hard.er", "cccccccccccc") is None
    run.save_evaluation(replace(record, evaluation_id="cccccccccccc", step=4), samples())
    assert (4, "hard.er") in run.missing(job), "another identity's evaluation counts for nothing"
    assert len(run.evaluations()) == 2
    assert not run.finished(job)


def test_samples_without_a_record_do_not_count(run, job):
    """A crash between the two files leaves samples alone."""
    (run.path / "evaluations").mkdir()
    (run.path / "evaluations" / "step-000002.easy.aaaaaaaaaaaa.parquet").touch()
    assert (2, "easy") in run.missing(job)


def test_samples_must_be_complete(run):
    with pytest.raises(ValueError, match="must have the columns gold"):
        run.save_evaluation(evaluation_record(), samples().drop(columns="gold"))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_json(path, {"a": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(StoreError, match="cannot be written: no space left on device\n  make room"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["record.json"]


@given(cut=st.integers(0, 200), count=st.integers(0, 5))
def test_a_torn_last_line_is_left_for_later(tmp_path_factory, cut, count):
    """Whatever byte a crash stops at, the whole lines before it are read, and reading goes on after it."""
    path = tmp_path_factory.mktemp("lines") / "steps.jsonl"
    for step in range(count):
        append_line(path, {"step": step, "text": "ü" * step}, "a/b")
    data = path.read_bytes() if count else b""
    path.write_bytes(data[:cut])
    records, offset = read_lines(path, lambda data, line, _: (line, data["step"]), place="a/b")
    whole = data[:cut].count(b"\n")
    assert records == [(step + 1, step) for step in range(whole)]
    path.write_bytes(data)
    rest = read_lines(path, lambda data, line, _: line, offset, place="a/b")[0]
    assert rest == list(range(whole + 1, count + 1)), "lines are numbered from the start of the file"


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "steps.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(StoreError, match="line 2: not JSON"):
        read_lines(path, lambda data, *_: data, place="a/b")


def test_attempts_are_numbered_and_never_shared(run):
    first, second = run.reserve_attempt(), run.new_attempt(Provenance(commit="abc"))
    assert [a.number for a in run.attempts()] == [1, 2] == [first.number, second.number]
    assert second.info().provenance == Provenance(commit="abc")
    assert run.attempts()[1].path.name == "attempt-002"


def test_an_attempt_from_start_to_end(run):
    attempt = run.new_attempt(Provenance())
    attempt.append_step(step_record(1))
    attempt.append_event("resumed", "from step 0", step=0, gap=2.5)
    assert attempt.status == "running"
    attempt.finish("failed", error=AttemptError(type="E", message="m", traceback_tail=""))
    again = AttemptFolder(attempt.path)
    assert (again.status, again.end().error.type) == ("failed", "E")
    assert 0 <= again.wall_seconds < 60
    assert again.steps() == [step_record(1)]
    (event,) = again.events()
    assert (event.kind, event.message, event.step, event.figures["gap"]) == ("resumed", "from step 0", 0, 2.5)
    with pytest.raises(
        ValueError, match="must be one of finished, failed, interrupted, diverged, got 'done'"
    ):
        attempt.finish("done")


BEGIN = """
import sys
from pathlib import Path
from harness.store.folders import RunFolder
from harness.store.records import Provenance
attempt = RunFolder(Path(sys.argv[1])).new_attempt(Provenance())
attempt.append_event("begun", "at work")
"""


def test_an_attempt_whose_process_is_gone_was_killed(run):
    subprocess.run([sys.executable, "-c", BEGIN, str(run.path)], check=True)
    (attempt,) = run.attempts()
    assert attempt.status == "killed"
    seconds = attempt.wall_seconds
    time.sleep(0.05)
    assert AttemptFolder(attempt.path).wall_seconds == seconds, "time stands still after the last trace"


def test_an_attempt_that_waits_for_its_devices_has_not_held_them(run):
    attempt, begun = run.reserve_attempt(), run.new_attempt(Provenance())
    for claim in (attempt, begun):
        os.utime(claim.path / "launched", times=(time.time() - 100,) * 2)
    assert (attempt.has_devices, attempt.wall_seconds) == (False, 0.0)
    note_start(attempt.path)
    assert attempt.has_devices
    assert 0 < attempt.wall_seconds < 50
    attempt.begin(Provenance())
    attempt.finish("finished")
    assert attempt.wall_seconds < 50
    (begun.path / STARTED).unlink()
    assert begun.wall_seconds == pytest.approx(100, abs=50), "of an early version, since the claim"


def test_a_process_id_that_was_used_again_does_not_count(run):
    attempt = run.new_attempt(Provenance())
    owner = to_data(Owner.here()) | {"process_started": 1.0, "started_ticks": 1}
    info = json.loads((attempt.path / "attempt.json").read_text())
    (attempt.path / "attempt.json").write_text(json.dumps({**info, "worker": owner}))
    (attempt.path / "launched").write_text(json.dumps(owner))
    assert RunFolder(run.path).attempts()[0].status == "killed"
