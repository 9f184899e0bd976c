"""The records on disk: one of each as it has to look, what is refused and how it is named, and round trips."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.spec.evaluation import EvaluateSpec
from harness.spec.recipe import PromptSpec
from harness.store import records
from harness.store.atomic import to_json
from harness.store.errors import StoreError
from harness.store.folders import RunFolder, Store
from harness.store.records import (
    Alarm,
    AttemptBegin,
    AttemptEnd,
    AttemptError,
    EvaluationRecord,
    EvaluationSettings,
    InvocationRecord,
    PlanRecord,
    Provenance,
    StepRecord,
)
from harness.store.records.form import Columns, parse, to_data, to_row
from harness.store.records.plan import JobEstimate
from harness.store.records.step import StepTokens
from harness.store.schema import (
    VERSIONS,
    current,
    place_of,
    read_record,
    sealed_text,
    write_record,
    written,
)
from harness.store.sealing import line_seal

from ..examples import EVALUATION, OWN, STEP, evaluation_record, rewrite, step_record

GOLDEN = Path(__file__).with_name("assets") / "records"


def from_line(form, text, kind="line"):
    data = current(json.loads(text), kind, GOLDEN)
    return parse(form, {k: v for k, v in data.items() if k != "schema"}, GOLDEN)


KINDS = {
    "step": ("line", StepRecord),
    "forked_step": ("line", StepRecord),
    "evaluation": ("evaluation", EvaluationRecord),
    "cut_evaluation": ("evaluation", EvaluationRecord),
    "attempt": ("attempt", AttemptBegin),
    "end": ("end", AttemptEnd),
    "plan": ("output", PlanRecord),
    "invocation": ("output", InvocationRecord),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_recorded_file_is_read_and_written_back_byte_for_byte(name):
    """The files are what folders on disk hold: a field that is renamed, moved or dropped differs from them."""
    kind, form = KINDS[name]
    path = GOLDEN / f"{name}.json"
    if kind == "line":
        record = from_line(form, path.read_text())
        assert to_json(written(kind, record), indent=1) + "\n" == path.read_text()
        return
    assert sealed_text(kind, read_record(kind, form, path), place_of(kind, path)) == path.read_bytes()


@pytest.mark.parametrize(
    "form", [StepRecord, EvaluationRecord, AttemptBegin, AttemptEnd, PlanRecord, InvocationRecord]
)
def test_the_recorded_files_hold_every_declared_field(form):
    held = {
        key
        for name, (_, of) in KINDS.items()
        if of is form
        for key in json.loads((GOLDEN / f"{name}.json").read_text())
    }
    own = set() if form is StepRecord else {"place", "seal"}
    assert held == {"schema", *own, *(field.name for field in fields(form))}


def parts(value, data):
    """The records in a value, with what the file holds of each."""
    if is_dataclass(value):
        yield type(value), data
        inner = [(getattr(value, f.name), data[f.name]) for f in fields(value) if f.name in data]
    elif isinstance(value, Mapping):
        inner = [(value[key], data[key]) for key in value]
    else:
        inner = zip(value, data) if isinstance(value, tuple) else []
    for below, of in inner:
        yield from parts(below, of)


def test_the_recorded_files_hold_every_field_of_their_sections():
    held = {}
    for name, (kind, form) in KINDS.items():
        path = GOLDEN / f"{name}.json"
        record = from_line(form, path.read_text()) if kind == "line" else read_record(kind, form, path)
        for part, data in parts(record, json.loads(path.read_text())):
            held.setdefault(part, set()).update(data)
    lacking = {part.__name__: {f.name for f in fields(part)} - keys for part, keys in held.items()}
    assert {name: names for name, names in lacking.items() if names} == {}
    assert {StepTokens, EvaluationSettings, JobEstimate} <= held.keys()


def test_the_figures_of_a_recorded_step_by_hand():
    path = GOLDEN / "step.json"
    record = from_line(StepRecord, path.read_text())
    assert (record.step, record.rollbacks, record.forked_from) == (3, 1, None)
    assert (record.reward.functions["format"].mean, record.tokens.skipped_samples) == (0.75, 2)
    assert record.timing.seconds["update"] == 1.25
    assert (record.memory["update"].resident_gib, record.memory["update"].device_gib) == (0.5, None)
    assert record.objective["kl"] is None
    assert record.events == (Alarm("length", 3.0, 5.0, "continue", "3 tokens, below 5"),)


def test_every_setting_of_an_evaluation_is_in_its_record():
    """A setting that is added to the recipe and not to the record would be lost."""
    assert {f.name for f in fields(EvaluationSettings)} - {"engine", "part_rows"} == set(
        EvaluateSpec.model_fields
    ) - {"benchmarks"}


FAULTS = {
    "another type": ({"accuracy": "0.5"}, "accuracy: Input should be a valid number, got '0.5'"),
    "a truth value for a number": ({"step": True}, "step: Input should be a valid integer, got 'True'"),
    "a fraction for a count": ({"samples_seen": 1.5}, "samples_seen: .*got '1.5'"),
    "deep inside": ({"timing": {"seconds": {"update": None}}}, r"timing\.seconds\.update: .*got 'None'"),
    "an unknown key": ({"acuracy": 0.5}, "has acuracy, which this schema does not know"),
    "an unknown key inside": (
        {"tokens": {"trian": 1}},
        r"has tokens\.trian, which this schema does not know",
    ),
    "an unknown policy": (
        {"events": [["d", None, None, "panic", "m"]]},
        r"events\.0",
    ),
    "a newer schema": ({"schema": 99}, "has schema 99, this version reads up to 2: update the harness"),
    "no schema": ({"schema": None}, "no schema number"),
    "a schema that is no number": ({"schema": True}, "no schema number"),
}


def with_changes(data, changes):
    return {
        **data,
        **{k: with_changes(data[k], v) if isinstance(v, dict) else v for k, v in changes.items()},
    }


@pytest.mark.parametrize("fault", FAULTS)
def test_a_line_that_does_not_fit_is_named_with_its_file_and_number(tmp_path, fault):
    changes, message = FAULTS[fault]
    attempt = RunFolder(tmp_path / "r").new_attempt(Provenance())
    sound = {"schema": 1, **STEP}
    bad = with_changes(sound, changes)
    attempt.steps_file.write_text("".join(json.dumps(line) + "\n" for line in (sound, bad, sound)))
    with pytest.raises(StoreError, match=f"line 2: .*{message}") as caught:
        attempt.steps()
    assert caught.value.path == attempt.steps_file
    with pytest.raises(StoreError, match="line 2: "):
        attempt.step_lines(len(json.dumps(sound)) + 1)


@pytest.mark.parametrize("gone", [name for name in STEP if name not in ("run_id", "attempt")])
def test_a_line_without_a_field_is_refused(tmp_path, gone):
    attempt = RunFolder(tmp_path / "r").new_attempt(Provenance())
    attempt.steps_file.write_text(
        json.dumps({"schema": 1, **{k: v for k, v in STEP.items() if k != gone}}) + "\n"
    )
    with pytest.raises(StoreError, match=f"line 1: lacks {gone}"):
        attempt.steps()


def test_early_lines_get_run_and_attempt_from_where_they_lie(tmp_path):
    attempt = RunFolder(tmp_path / "abc").new_attempt(Provenance())
    early = {k: v for k, v in STEP.items() if k not in ("run_id", "attempt")}
    attempt.steps_file.write_text(json.dumps({"schema": 1, **early}) + "\n")
    (record,) = attempt.steps()
    assert (record.run_id, record.attempt) == ("abc", 1)


def test_a_torn_last_line_is_no_fault(tmp_path):
    attempt = RunFolder(tmp_path / "r").new_attempt(Provenance())
    attempt.append_step(step_record(1))
    with attempt.steps_file.open("a") as file:
        file.write('{"schema": 1, "step": 2, "rew')
    assert [r.step for r in attempt.steps()] == [1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"schema": 3, "time": "t", "kind": "k", "message": "m"}', "line 1: has schema 3"),
        ('{"schema": 2, "time": "t", "kind": "k", "message": "m"}', "line 1: .* it has no checksum"),
        ('{"time": "t", "kind": "k", "message": "m"}', "line 1: is not a record"),
        ('{"schema": 1, "time": "t", "kind": "k"}', "line 1: lacks message"),
        ('{"schema": 1, "time": "t", "kind": 7, "message": "m"}', "line 1: kind: .*got '7'"),
        ("[1]", "line 1: is not a record"),
    ],
)
def test_an_event_that_does_not_fit_is_named(tmp_path, line, message):
    attempt = RunFolder(tmp_path / "r").new_attempt(Provenance())
    (attempt.path / "events.jsonl").write_text(line + "\n")
    with pytest.raises(StoreError, match=message):
        attempt.events()


def test_an_event_keeps_figures_of_its_own_kind(tmp_path):
    attempt = RunFolder(tmp_path / "r").new_attempt(Provenance())
    attempt.append_event("rolled_back", "from 4 to 2", step=4, to_step=2)
    text = (attempt.path / "events.jsonl").read_text()
    (event,) = attempt.events()
    assert json.loads(text) == {
        "schema": 2,
        "seal": line_seal(text.encode().strip()),
        "time": event.time,
        "kind": "rolled_back",
        "message": "from 4 to 2",
        "step": 4,
        "to_step": 2,
    }
    assert (event.step, event.figures) == (4, {"step": 4, "to_step": 2})


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("end.json", {"status": "tired"}, "status: .*got 'tired'"),
        ("end.json", {"wall_seconds": None}, "wall_seconds"),
        ("attempt.json", {"worker": {"pid": 1}}, r"lacks worker\.machine"),
    ],
)
def test_a_file_of_an_attempt_that_does_not_fit_is_named(tmp_path, name, changes, message):
    attempt = RunFolder(tmp_path / "r").new_attempt(Provenance())
    attempt.finish("finished")
    path = attempt.path / name
    rewrite(name.removesuffix(".json"), path, changes)
    with pytest.raises(StoreError, match=message) as caught:
        (attempt.end if name == "end.json" else attempt.info)()
    assert str(path) in str(caught.value)


def test_a_plan_that_does_not_fit_is_named(tmp_path):
    store = Store(tmp_path)
    plan = json.loads((GOLDEN / "plan.json").read_text())
    plan["jobs"][1]["steps"] = "4"
    write_record("output", {k: v for k, v in plan.items() if k not in OWN}, store.plan_file)
    with pytest.raises(StoreError, match=r"jobs\.1\.steps") as caught:
        store.plan()
    assert caught.value.path == store.plan_file


def test_an_evaluation_of_an_early_version_has_no_settings(tmp_path):
    run = RunFolder(tmp_path / "r")
    path = run.path / "evaluations" / f"step-000002.easy.{'e' * 12}.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"schema": 1, **EVALUATION, "settings": {}}))
    (record,) = run.evaluations()
    assert record.settings is None
    with pytest.raises(ValueError, match="its settings are unknown"):
        record.known_settings  # noqa: B018


numbers = st.floats(allow_nan=True, allow_infinity=True)
figures = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), st.none() | numbers, max_size=4
)


@given(
    objective=figures,
    accuracy=numbers,
    entropy=st.none() | numbers,
    mfu=st.none() | numbers,
    rollbacks=st.integers(0, 3),
    forked_from=st.none() | st.text(max_size=5),
    seconds=st.dictionaries(st.text("abc", min_size=1), numbers, max_size=3),
    events=st.lists(
        st.tuples(st.text(max_size=4), st.none() | numbers, st.sampled_from(["continue", "stop"]))
    ),
    peak=st.none() | numbers,
)
def test_steps_come_back_as_they_were_written(
    objective, accuracy, entropy, mfu, rollbacks, forked_from, seconds, events, peak
):
    told = [
        {"detector": d, "figure": f, "threshold": None, "policy": p, "message": "m"} for d, f, p in events
    ]
    made = step_record(
        7,
        accuracy=accuracy,
        completion={"sampled_entropy": entropy},
        timing={"mfu": mfu, "seconds": seconds},
        rollbacks=rollbacks,
        forked_from=forked_from,
        events=told,
        memory={"update": {"resident_gib": peak}},
    )
    made = replace(made, objective=objective)
    line = to_json(written("line", made))
    again = from_line(StepRecord, line)
    # Text and not `==`: a NaN comes back as a NaN, and a NaN equals nothing.
    assert to_json(written("line", again)) == line
    assert again.objective.keys() == objective.keys()
    assert (again.rollbacks, again.forked_from, len(again.events)) == (rollbacks, forked_from, len(events))
    row = to_row(again)
    assert ("forked_from" in row) == (forked_from is not None)
    value = row[Columns(StepRecord).name(lambda r: r.accuracy)]
    assert value == accuracy or (math.isnan(value) and math.isnan(accuracy))


@given(
    pairs=st.dictionaries(st.sampled_from(["accuracy", "pass_at_k.4"]), st.tuples(numbers, numbers)),
    commit=st.none() | st.text(max_size=4),
    attempt=st.none() | st.integers(1, 9),
)
def test_evaluations_come_back_as_they_were_written(pairs, commit, attempt):
    made = evaluation_record(
        intervals={k: list(v) for k, v in pairs.items()},
        provenance={"commit": commit, "command": ["a", "b"]},
        attempt=attempt,
        settings={
            "samples": 2,
            "max_completion_tokens": 8,
            "temperature": 1.0,
            "top_p": 1.0,
            "seed": 0,
            "prompt": {},
        },
    )
    text = to_json(written("evaluation", made))
    again = from_line(EvaluationRecord, text, "evaluation")
    assert to_json(written("evaluation", again)) == text
    assert again.settings.prompt == PromptSpec()
    assert again.provenance == Provenance(commit=commit, command=("a", "b"))


def test_columns_are_the_fields_and_nothing_else():
    step = Columns(StepRecord)
    assert step.name(lambda r: r.timing.seconds["update"]) == "timing.seconds.update"
    assert step.name(lambda r: r.energy and r.energy.gpu_joules) == "energy.gpu_joules"
    for ask in (
        lambda r: r.acuracy,
        lambda r: r.timing.second,
        lambda r: r.memory["update"].resident_gb,
        lambda r: r.step.mean,
    ):
        with pytest.raises(AttributeError, match="has no field"):
            step.name(ask)
    columns = [
        "timing.seconds.rollout",
        "memory.update.device_gib",
        "memory.update.resident_gib",
        "memory.sync.x",
    ]
    assert step.keys(columns, lambda r: r.timing.seconds) == ["rollout"]
    assert step.keys(columns, lambda r: r.memory) == ["update", "sync"]


def test_a_row_has_the_names_that_columns_tell():
    row = to_row(step_record(3, timing={"seconds": {"update": 1.25}}, memory={"update": {"device_gib": 2.0}}))
    step = Columns(StepRecord)
    assert row[step.name(lambda r: r.timing.seconds["update"])] == 1.25
    assert row[step.name(lambda r: r.memory["update"].device_gib)] == 2.0
    assert row[step.name(lambda r: r.step)] == 3


def test_all_records_are_frozen():
    for name in records.__all__:
        form = getattr(records, name)
        if is_dataclass(form):
            assert form.__dataclass_params__.frozen, name


def test_versions_stand_first_on_disk():
    end = AttemptEnd(
        status="failed",
        ended_at="t",
        wall_seconds=1.0,
        error=AttemptError(type="E", message="m"),
        seconds_by_phase={},
    )
    assert next(iter(written("end", end).items())) == ("schema", VERSIONS["end"])
    assert to_data(end)["error"] == {"type": "E", "message": "m"}
