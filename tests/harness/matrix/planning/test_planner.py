"""Cells → runs → evaluations: sharing and its reasons, order, labels, stability; and why a cell would be rerun."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from dataclasses import replace

import pytest

from harness.matrix.execution import run_matrix as matrix_module
from harness.matrix.execution.run_matrix import Matrix, _write_plan, prepare, slots_of
from harness.matrix.execution.scheduler import Budget
from harness.matrix.planning.detectable_effects import detectable_effects
from harness.matrix.planning.disk_model import DiskNeed, disk_need
from harness.matrix.planning.estimator import Estimator
from harness.matrix.planning.explain import explain, find_cell
from harness.matrix.planning.hardware import Machine, resolve_hardware, slot_count, usable_cores
from harness.matrix.planning.planner import grid_json, make_plan
from harness.matrix.planning.render import limit_warnings, plan_record, print_plan
from harness.matrix.planning.time_model import assumptions
from harness.spec.errors import SpecError
from harness.spec.grid import load_grid
from harness.spec.hardware import HardwareSpec
from harness.store.folders import Store
from harness.store.records import DiskEstimate, Provenance
from tests.harness.examples import step_record
from tests.harness.matrix import fake_worker

MACHINE = Machine(cores=4)


@pytest.fixture
def planned(grid, tmp_path):
    """The plan of the small grid, after replacements in its text."""

    def plan(*replacements, machine=MACHINE):
        text = grid.read_text()
        for old, new in replacements:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        grid.write_text(text)
        return make_plan(load_grid(grid), tmp_path / "out", machine)

    return plan


def runs(plan):
    return [job for job in plan.jobs if job.kind == "train"]


def test_cells_that_differ_in_steps_share_a_run(planned):
    plan = planned()
    assert len(plan.cells) == 4
    assert [(job.kind, job.steps, job.label) for job in plan.jobs[1:]] == [
        ("train", (2, 4), "cap=32 seed=0"),
        ("train", (2, 4), "cap=16 seed=0"),
    ]
    assert [job.recipe.training.steps for job in runs(plan)] == [4, 4]
    assert [c.step for c in plan.cells] == [2, 4, 2, 4]
    assert len({c.run_id for c in plan.cells}) == 2
    assert any("4 cells are checkpoints of 2 runs" in s for s in plan.sharing)
    base = plan.jobs[0]
    assert (base.kind, base.steps) == ("base", (0,))
    assert base.evaluation_ids == runs(plan)[0].evaluation_ids


def test_a_schedule_that_looks_ahead_splits_them_and_says_why(planned):
    plan = planned(("  prompt:", "  optimizer: {schedule: cosine}\n  prompt:"))
    assert [(job.steps, job.label) for job in runs(plan)] == [
        ((2,), "cap=32 steps=2 seed=0"),
        ((4,), "cap=32 steps=4 seed=0"),
        ((2,), "cap=16 steps=2 seed=0"),
        ((4,), "cap=16 steps=4 seed=0"),
    ]
    assert any("4 cells are a run each for every training length" in s for s in plan.sharing)
    assert not any("checkpoints of" in s for s in plan.sharing)


def test_whole_seeds_come_first(planned):
    plan = planned(("seeds: [0]", "seeds: [3, 1]"))
    assert [job.seed for job in runs(plan)] == [3, 3, 1, 1]
    assert sum(job.kind == "base" for job in plan.jobs) == 1


def test_the_untrained_model_is_evaluated_only_where_asked(planned):
    assert all(job.kind == "train" for job in planned(("  samples: 2", "  base: false\n  samples: 2")).jobs)


def test_a_base_per_prompt(planned):
    plan = planned(("  cap: {", "  think: {no: {}, yes: {prompt: {system: Think.}}}\n  cap: {"))
    assert sum(job.kind == "base" for job in plan.jobs) == 2


def test_cells_that_are_the_same_checkpoint_are_told(planned):
    plan = planned(("  cap: {", "  speed: {training.microbatch_tokens: [64, 128]}\n  cap: {"))
    assert len(runs(plan)) == 2
    assert len(plan.warnings) == 4
    assert "[speed=64 cap=32 steps=2 seed=0] and [speed=128 cap=32 steps=2 seed=0]" in plan.warnings[0]


@pytest.mark.parametrize(
    ("short", "long", "kept"), [("nothing", "resumable", "resumable"), ("weights", "nothing", "weights")]
)
def test_a_shared_run_keeps_what_any_of_its_cells_keeps(planned, short, long, kept):
    steps = f"{{a: {{training: {{steps: 2, keep: {short}}}}}, b: {{training: {{steps: 4, keep: {long}}}}}}}"
    plan = planned(("{training.steps: [2, 4]}", steps))
    assert [(job.steps, job.recipe.training.keep) for job in runs(plan)] == [((2, 4), kept)] * 2


def test_adding_levels_and_seeds_changes_no_run(planned):
    before = {(c.cell.label, c.run_id, c.step) for c in planned().cells}
    after = planned(("seeds: [0]", "seeds: [7, 0]"), ("[32, 16]", "[8, 32, 16]"), ("[2, 4]", "[2, 3, 4]"))
    assert before < {(c.cell.label, c.run_id, c.step) for c in after.cells}


def test_another_model_under_the_same_name_is_another_run(planned, model):
    before = runs(planned())[0].run_id
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(
        config.replace('"max_position_embeddings": 128', '"max_position_embeddings": 127')
    )
    assert runs(planned())[0].run_id != before


def test_exclude_and_include(planned):
    extra = "exclude:\n  - {cap: 16}\ninclude:\n  - {cap: 16, steps: 4}\n"
    plan = planned(("hardware:", extra + "hardware:"))
    assert [c.cell.label for c in plan.cells] == [
        "cap=32 steps=2 seed=0",
        "cap=32 steps=4 seed=0",
        "cap=16 steps=4 seed=0",
    ]
    assert [job.steps for job in runs(plan)] == [(2, 4), (4,)]


def test_resolved_grid(planned):
    data = grid_json(planned().grid)
    assert data["axes"] == {"cap": ["32", "16"], "steps": ["2", "4"]}
    assert data["steps_axes"] == ["steps"]
    assert data["baselines"] == {"cap": "32", "steps": "2"}
    assert data["cells"][0]["recipe"]["optimizer"]["learning_rate"] == 1e-6


def test_plan_figures(planned):
    plan = planned()
    store = Store(plan.out)
    record = plan_record(plan, Estimator(store, plan.jobs, plan.models, plan.hardware), 2)
    totals = record.totals
    assert (totals.cells, totals.runs, totals.base_models, totals.evaluations) == (4, 2, 1, 5)
    assert (totals.runs_to_do, totals.evaluations_to_do) == (3, 5)
    seconds = sum(job.estimate.seconds for job in record.jobs)
    assert totals.estimate.device_hours == pytest.approx(seconds / 3600)
    assert totals.estimate.wall_hours == pytest.approx(seconds / 7200)
    assert totals.estimate.usd == pytest.approx(seconds / 3600 * 0.05)
    assert not plan.out.exists(), "a plan writes nothing"


def test_longer_caps_and_larger_batches_take_longer(planned):
    plan = planned(("[32, 16]", "[64, 16]"))
    estimator = Estimator(Store(plan.out), plan.jobs, plan.models, plan.hardware)
    _, long, short = plan.jobs
    assert estimator.step_seconds(long) > estimator.step_seconds(short) > 0


def test_estimates_learn_from_what_ran(planned):
    plan = planned()
    _, first, second = plan.jobs
    estimator = Estimator(Store(plan.out), plan.jobs, plan.models, plan.hardware)
    modelled = [estimator.step_seconds(job) for job in (first, second)]
    attempt = Store(plan.out).run(first.run_id).new_attempt(Provenance())
    for step in range(1, 5):
        memory = {"update": {"resident_gib": 1.5, "device_gib": None}}
        attempt.append_step(step_record(step, timing={"total_seconds": 7.0}, memory=memory))
    estimator.refresh(first)
    assert estimator.step_seconds(first) == 7.0
    assert estimator.step_seconds(second) == pytest.approx(modelled[1] * 7.0 / modelled[0])
    assert estimator.gib(first) == 1.5
    assert estimator.remaining(first).measured


def test_what_was_spent_is_the_whole_folders_at_the_prices_of_then(planned):
    before = planned(("device: cpu", "device: cpu, usd_per_hour: 36"))
    for job in before.jobs[1:]:
        folder = Store(before.out).run(job.run_id)
        folder.write_job(job)
        folder.new_attempt(Provenance()).finish("failed", wall_seconds=50.0)
    (before.out / "grid.resolved.json").write_text('{"schema": 1, "name": "small"}')
    plan = planned(("usd_per_hour: 36", "usd_per_hour: 1"), ("[32, 16]", "[32, 12]"))
    estimator = Estimator(Store(plan.out), plan.jobs, plan.models, plan.hardware)
    assert (estimator.spent_usd(), estimator.spent_seconds()) == (pytest.approx(1.0), 100.0)


def test_detectable_effects(planned):
    few = {d.axis: d for d in detectable_effects(planned())}
    assert (few["cap"].df, few["steps"].df) == (0, 1)
    many = {d.axis: d for d in detectable_effects(planned(("seeds: [0]", "seeds: [0, 1, 2, 3, 4]")))}
    # 10 runs less the mean, one contrast and four seeds; 6 questions leave 5.
    assert (many["cap"].df, many["steps"].df) == (4, 5)
    assert many["cap"].effect > many["cap"].one_more_seed > 0


def why(plan, text):
    return explain(plan, find_cell(plan, text))


def test_why_with_nothing_on_file(planned):
    lines = why(planned(), "cap=16 steps=4")
    assert lines[0].startswith("[cap=16 steps=4 seed=0] is step 4 of run ")
    assert lines[-1] == "run: no run is on file yet"


def test_why_names_the_fields_that_differ_from_the_nearest_run(planned):
    plan = planned()
    for job in plan.jobs:
        Store(plan.out).run(job.run_id).write_job(job)
    (plan.out / "grid.resolved.json").write_text('{"schema": 1, "name": "small"}')
    text = "\n".join(why(planned(("[32, 16]", "[32, 16, 12]")), "cap=12 steps=4"))
    assert "the nearest is" in text
    assert re.search(r"rollout\.max_completion_tokens: (16|32) there, 12 here", text)
    assert text.count(" there, ") == 1


def test_why_an_evaluation_is_made_again(planned):
    plan = planned()
    job = plan.jobs[1]
    Store(plan.out).run(job.run_id).write_job(job)
    (plan.out / "grid.resolved.json").write_text('{"schema": 1, "name": "small"}')
    text = "\n".join(why(planned(("  samples: 2", "  samples: 3")), "cap=32 steps=4"))
    assert "easy: evaluated under other settings: samples: 2 there, 3 here" in text


def test_why_says_from_where_a_run_is_trained_and_that_it_diverged(planned):
    plan = planned()
    job = plan.jobs[1]
    folder = Store(plan.out).run(job.run_id)
    folder.write_job(job)
    cell = "cap=32 steps=4"
    assert "no checkpoint of step 4 is on file: it is trained from step 0 on" in "\n".join(why(plan, cell))
    fake_worker.checkpoint(folder, 2)
    assert "it is trained from step 2 on" in "\n".join(why(plan, cell))
    folder.new_attempt(Provenance()).finish("diverged", diverged_at=3)
    assert why(plan, cell)[-1] == "reused: the run diverged at step 3, a result, and is not trained again"
    fake_worker.checkpoint(folder, 4)
    assert "is trained" not in "\n".join(why(plan, "cap=32 steps=2"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpa=32", "no axis 'cpa'\n  did you mean \"cap\"?"),
        ("cap=99", "no such cell"),
        ("cap=32", "2 cells, such as cap=32 steps=2 seed=0; cap=32 steps=4 seed=0"),
    ],
)
def test_why_of_no_or_several_cells(planned, text, message):
    with pytest.raises(SpecError) as caught:
        why(planned(), text)
    assert message in str(caught.value)


GPUS = Machine(cores=16, gpu_ids=("0", "1", "2", "3"), gpu_name="NVIDIA A40")


@pytest.mark.parametrize(
    ("spec", "machine", "device", "profile", "slots"),
    [
        (HardwareSpec(), MACHINE, "cpu", "cpu-core", 4),
        (HardwareSpec(devices_per_run=3), MACHINE, "cpu", "cpu-core", 1),
        (HardwareSpec(devices_per_run=9), MACHINE, "cpu", "cpu-core", 1),
        (HardwareSpec(), GPUS, "cuda", "a40", 4),
        (HardwareSpec(devices_per_run=2), GPUS, "cuda", "a40", 2),
        (HardwareSpec(device="cpu"), GPUS, "cpu", "cpu-core", 16),
        (
            HardwareSpec(),
            Machine(cores=8, gpu_ids=("0",), gpu_name="NVIDIA H100 80GB HBM3"),
            "cuda",
            "h100",
            1,
        ),
        (HardwareSpec(profile="a40"), MACHINE, "cpu", "cpu-core", 4),
    ],
)
def test_hardware(spec, machine, device, profile, slots):
    hardware = resolve_hardware(spec, machine)
    assert (hardware.spec.device, hardware.spec.profile) == (device, profile)
    assert slot_count(hardware, machine) == slots
    assert slot_count(hardware, machine, 7) == 7


def test_prices():
    assert resolve_hardware(HardwareSpec(), GPUS).usd_per_hour == 0.4375
    assert resolve_hardware(HardwareSpec(usd_per_hour=2.0), GPUS).usd_per_hour == 2.0
    free = resolve_hardware(HardwareSpec(device="cpu", usd_per_hour=0), MACHINE)
    assert assumptions(free, set())[0] == "cpu-core at $0/h (hardware.usd_per_hour), 1 per run"
    planning = resolve_hardware(HardwareSpec(profile="a40"), MACHINE, planning=True)
    assert (planning.spec.device, planning.usd_per_hour) == ("cuda", 0.4375)


def test_slots_divide_the_devices(planned):
    plan = planned(("device: cpu, devices_per_run: 1", "devices_per_run: 2"), machine=GPUS)
    estimator = Estimator(Store(plan.out), plan.jobs, plan.models, plan.hardware)
    matrix = Matrix(plan, Store(plan.out), estimator, GPUS, 3, "local", Budget())
    assert [slot.gpu_ids for slot in slots_of(matrix)] == [("0", "1"), ("2", "3"), ("0", "1")]


@pytest.mark.parametrize(("text", "most"), [("150000 100000", 1), ("max 100000", 10**6), ("50000 100000", 1)])
def test_a_container_s_quota_counts(tmp_path, text, most):
    (tmp_path / "cpu.max").write_text(text)
    assert 1 <= usable_cores(tmp_path / "cpu.max") <= most


@pytest.mark.parametrize("last", ["grid.resolved.json", "lint.json", "plan.json"])
def test_a_kill_between_the_first_files_leaves_a_folder_that_the_same_command_takes(
    grid, tmp_path, monkeypatch, last
):
    out, write = tmp_path / "out", matrix_module.write_record

    def killed_after(kind, record, path):
        write(kind, record, path)
        if path.name == last:
            raise KeyboardInterrupt

    for text in (grid.read_text(), grid.read_text().replace("seeds: [0]", "seeds: [0, 1]")):
        grid.write_text(text)
        monkeypatch.setattr(matrix_module, "write_record", killed_after)
        out.mkdir(exist_ok=True)
        with pytest.raises(KeyboardInterrupt):
            _write_plan(prepare(str(grid), out))
        monkeypatch.setattr(matrix_module, "write_record", write)
        _write_plan(prepare(str(grid), out))
        cells = [
            json.loads((out / name).read_text())["cells"] for name in ("grid.resolved.json", "plan.json")
        ]
        assert [len(c) for c in cells] == [4 * text.count(", 1]") + 4] * 2
        assert (out / "lint.json").exists()


def test_room_on_disk_is_reckoned_and_told(planned, monkeypatch, capsys):
    plan = planned(("seeds: [0]", "seeds: [0, 1]"))
    weights = 4 * plan.models[runs(plan)[0].run_id].parameters / 2**30
    record = plan_record(plan, Estimator(Store(plan.out), plan.jobs, plan.models, plan.hardware), 3)
    estimate = record.totals.estimate
    disk = estimate.disk_gib
    # Four runs with two levels and the last moments (twice the weights); three at work have two each.
    assert disk.kept == pytest.approx(4 * (2 + 2) * weights)
    assert disk.peak == pytest.approx(4 * (2 + 2) * weights + 3 * 2 * weights)
    monkeypatch.setattr("harness.matrix.planning.disk_model.free_gib", lambda _: 0.9 * disk.peak)
    assert any("training.keep" in warning for warning in limit_warnings(plan, estimate))
    monkeypatch.setattr("harness.matrix.planning.disk_model.free_gib", lambda _: 1.1 * disk.peak)
    assert not limit_warnings(plan, estimate)
    estimate = replace(estimate, disk_gib=DiskEstimate(peak=218.46, kept=178.7))
    print_plan(plan, replace(record, totals=replace(record.totals, estimate=estimate)))
    told = capsys.readouterr().out
    assert (
        "8 cells from 4 runs, 1 untrained model; 9 evaluations; to do: 4 runs, 1 untrained model, 9" in told
    )
    assert "up to 218.5 GiB more on disk while runs are at work, 178.7 GiB more when all are done" in told


@pytest.mark.parametrize(
    ("steps", "every", "forks", "keep", "kept", "peak"),
    [
        # In weights; moments are twice that.
        ((10,), None, (), "resumable", 3, 3),
        ((10, 25, 50), None, (), "weights", 3, 9),
        ((50,), 10, (), "nothing", 0, 3 + 6),
        ((50,), 20, (10,), "resumable", 3, (1 + 1 + 2) + 2 * (1 + 3)),
        ((10, 25, 50), None, (10, 25), "resumable", 5, 9),
    ],
)
def test_the_most_checkpoints_of_a_run_at_a_time(planned, steps, every, forks, keep, kept, peak):
    plan = planned()
    job = runs(plan)[0]
    model, weights = plan.models[job.run_id], 4 * plan.models[job.run_id].parameters / 2**30
    training = job.recipe.training.model_copy(update={"checkpoint_every": every, "keep": keep})
    recipe = job.recipe.model_copy(update={"training": training})
    job = dataclasses.replace(job, recipe=recipe, steps=steps, fork_steps=forks)
    need = disk_need([(job, model)], slots=1)
    assert (need.kept, need.peak) == (pytest.approx(kept * weights), pytest.approx(peak * weights))


def test_trunks_that_are_done_hold_the_moments_from_which_others_are_to_fork(planned):
    plan = planned()
    job = dataclasses.replace(runs(plan)[0], steps=(10, 25, 50), fork_steps=(10, 25))
    model = plan.models[job.run_id]
    need = disk_need([(job, model)] * 4, slots=1)
    assert need.peak == pytest.approx(4 * (3 + 3 * 2) * 4 * model.parameters / 2**30)


def test_what_is_on_file_takes_no_more_room(planned):
    plan = planned()
    job, store = runs(plan)[0], Store(plan.out)
    folder, model = store.run(job.run_id), plan.models[job.run_id]
    weights = 4 * model.parameters / 2**30
    fake_worker.checkpoint(folder, 2)
    need = disk_need([(job, model)], 1, store)
    assert (need.kept, need.peak) == (pytest.approx(weights), pytest.approx(3 * weights))
    fake_worker.checkpoint(folder, 4)
    assert disk_need([(job, model)], 1, store) == DiskNeed(0.0, 0.0), "only evaluations are missing"


def test_a_disk_without_room_is_told_before_runs_start(grid, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("harness.matrix.planning.disk_model.free_gib", lambda _: 1e-6)
    monkeypatch.setattr(matrix_module, "report_matrix", lambda _: None)
    matrix = prepare(str(grid), tmp_path / "out")
    assert matrix_module.execute(matrix, [sys.executable, fake_worker.__file__]) == 0
    told = capsys.readouterr().out
    assert "training.keep" in told[: told.index("start   [")]
