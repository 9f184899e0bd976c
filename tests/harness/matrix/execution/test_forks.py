"""Runs that fork: which, where, and that none waits for ever."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.matrix.execution.checkpoint_cleanup import CheckpointCleaner
from harness.matrix.execution.run_matrix import _write_plan, prepare
from harness.matrix.planning.detectable_effects import detectable_effects
from harness.matrix.planning.estimator import Estimator
from harness.matrix.planning.forks import agreed_steps, trunk_state, with_forks
from harness.matrix.planning.hardware import Machine
from harness.matrix.planning.planner import make_plan
from harness.matrix.planning.start_order import start_order
from harness.spec.grid import load_grid
from harness.spec.identity import RECIPE
from harness.spec.recipe import OptimizerSpec, Recipe, TrainingSpec
from harness.spec.schedule import SCHEDULE_FIELDS, learning_rate, learning_rates
from harness.store.atomic import write_json
from harness.store.checkpoints import OPTIMIZER_FILE
from harness.store.folders import Store
from harness.store.leases import LeaseWatch, Owner
from harness.store.records import Provenance
from harness.store.records.form import to_data
from harness.store.study import load_study
from tests.harness.examples import step_record
from tests.harness.matrix import fake_worker
from tests.harness.matrix.execution.test_ablate import started, steps_trained, wait_for

WSD = ("  prompt:", "  optimizer: {schedule: wsd}\n  prompt:")
LENGTHS = ("[2, 4]", "[4, 8]")
AXIS = "  cap: {rollout.max_completion_tokens: [32, 16]}\n"


@pytest.fixture
def changed(grid):
    """The small grid after replacements in its text."""

    def change(*replacements):
        text = grid.read_text()
        for old, new in replacements:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        grid.write_text(text)
        return grid

    return change


@pytest.fixture
def planned(changed, tmp_path):
    return lambda *replacements: make_plan(
        load_grid(changed(*replacements)), tmp_path / "out", Machine(cores=4)
    )


def forks(plan):
    """Label and step by label."""
    labels = {job.run_id: job.label for job in plan.jobs}
    return {job.label: (labels[job.fork.run_id], job.fork.step) for job in plan.jobs if job.fork}


specs = st.builds(
    OptimizerSpec,
    learning_rate=st.sampled_from([1e-6, 3e-6]),
    schedule=st.sampled_from(["constant", "wsd", "linear", "cosine"]),
    schedule_steps=st.sampled_from([None, None, 9, 30]),
    warmup_steps=st.sampled_from([0, 0, 3]),
    decay_fraction=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    min_learning_rate_ratio=st.sampled_from([0.0, 0.1, 1.0]),
)
lengths = st.lists(st.integers(1, 20), min_size=1, max_size=3, unique=True).map(sorted)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A job to be varied."""
    file = tmp_path_factory.mktemp("grid") / "grid.yaml"
    file.write_text(
        "name: g\nquestion: '?'\nbase:\n  model: tiny\n  data: {sources: [{source: sums}]}\n"
        "  reward: {functions: [{name: accuracy}]}\nhardware: {device: cpu}\n"
        "evaluate: {base: false, benchmarks: [{name: s, questions: 4, source: {source: sums}}]}\n"
    )
    return make_plan(load_grid(file), file.parent / "out", Machine(cores=2)).jobs[0]


def varied(job, name, spec, steps):
    training = job.recipe.training.model_copy(update={"steps": steps[-1]})
    recipe = job.recipe.model_copy(update={"optimizer": spec, "training": training})
    return dataclasses.replace(job, run_id=name, recipe=recipe, steps=tuple(steps))


def brute(one, other):
    """Steps on whose rates two jobs agree, counted one by one."""
    count = 0
    for step in range(1, min(one.steps[-1], other.steps[-1]) + 1):
        rates = [learning_rate(j.recipe.optimizer, step=step, steps=j.steps[-1]) for j in (one, other)]
        if rates[0] != rates[1]:
            break
        count = step
    return count


@given(specs, specs, st.integers(1, 40), st.integers(1, 40))
def test_agreement_is_that_of_the_rates(one, other, steps, others):
    found = agreed_steps(learning_rates(one, steps), learning_rates(other, others))
    pairs = zip(learning_rates(one, steps), learning_rates(other, others))
    assert found == next((i for i, (a, b) in enumerate(pairs) if a != b), min(steps, others))


@given(st.lists(st.tuples(specs, lengths), min_size=2, max_size=8))
def test_every_fork_is_sound_and_none_could_be_later(job, family):
    jobs = [varied(job, f"{n:012d}", spec, steps) for n, (spec, steps) in enumerate(family)]
    found = {j.run_id: j for j in with_forks(jobs)}
    order = sorted(jobs, key=lambda j: (j.steps[0] - j.steps[-1], -j.steps[-1]))
    for place, one in enumerate(order):
        fork = found[one.run_id].fork
        best = max((min(brute(one, other), one.steps[0] - 1) for other in order[:place]), default=0)
        assert (fork.step if fork else 0) == best
        if fork:
            trunk = found[fork.run_id]
            assert fork.step in trunk.fork_steps
            assert brute(one, trunk) >= fork.step
            assert trunk.fork is None or trunk.fork.step < fork.step
            assert fork.run_id in {other.run_id for other in order[:place]}
    assert [dataclasses.replace(j, fork=None, fork_steps=()) for j in found.values()] == jobs


def test_what_a_family_may_differ_in_are_fields_of_the_recipe():
    assert {f"optimizer.{name}" for name in SCHEDULE_FIELDS} < RECIPE.identity
    assert set(SCHEDULE_FIELDS) < set(OptimizerSpec.model_fields)
    assert {"steps", "checkpoint_every"} < set(TrainingSpec.model_fields)
    assert {"optimizer", "training", "stability"} < set(Recipe.model_fields)


def test_short_runs_leave_the_longest_where_they_begin_to_fall(planned):
    plan = planned(WSD, ("[2, 4]", "[10, 20, 50]"))
    long = "cap=32 steps=50 seed=0"
    found = forks(plan)
    assert (found["cap=32 steps=10 seed=0"], found["cap=32 steps=20 seed=0"]) == ((long, 8), (long, 16))
    trunk = next(job for job in plan.jobs if job.label == long)
    assert (trunk.fork, trunk.fork_steps) == (None, (8, 16))
    (sentence,) = [s for s in plan.sharing if "fork" in s]
    assert sentence == (
        "4 runs fork from a checkpoint of another, because their learning rates agree up to there, such as "
        "[cap=32 steps=10 seed=0] from the step-8 checkpoint of [cap=32 steps=50 seed=0]: saves 48 of 160 steps."
    )
    entries = {job.label: to_data(job).get("fork") for job in plan.record().jobs}
    assert entries["cap=32 steps=10 seed=0"] == {"run": trunk.run_id, "step": 8}
    assert entries[long] is None


def test_schedules_as_an_axis(planned):
    """The constant run, evaluated at both lengths, is the trunk: as a fork it would save little."""
    axis = "  schedule: {constant: {optimizer: {schedule: constant}}, wsd: {optimizer: {schedule: wsd}}}\n"
    plan = planned((AXIS, axis), ("[2, 4]", "[10, 20]"))
    trunk = "schedule=constant seed=0"
    assert forks(plan) == {
        "schedule=wsd steps=10 seed=0": (trunk, 8),
        "schedule=wsd steps=20 seed=0": (trunk, 16),
    }


def test_detectable_effects_count_families(planned):
    """Two caps × two schedules of one trunk × 4 seeds: 16 runs, eight families."""
    axis = "  schedule: {constant: {optimizer: {schedule: constant}}, wsd: {optimizer: {schedule: wsd}}}\n"
    both = "  cap: {rollout.max_completion_tokens: [32, 16]}\n" + axis
    plan = planned((AXIS, both), ("[2, 4]", "[10]"), ("seeds: [0]", "seeds: [0, 1, 2, 3]"))
    assert len(forks(plan)) == 8
    found = {d.axis: d for d in detectable_effects(plan)}
    # Six questions leave five; eight families less the mean, the caps and three more seeds leave three.
    assert (found["cap"].df, found["schedule"].df) == (3, 5)
    assert found["schedule"].effect < found["cap"].effect


def test_a_fork_of_a_fork(planned):
    fractions = "  decay: {optimizer.decay_fraction: [0.5, 0.4, 0.2]}\n"
    found = forks(planned(WSD, (AXIS, fractions), ("[2, 4]", "[20]")))
    assert found == {
        "decay=0.4 steps=20 seed=0": ("decay=0.5 steps=20 seed=0", 10),
        "decay=0.2 steps=20 seed=0": ("decay=0.4 steps=20 seed=0", 12),
    }


@pytest.mark.parametrize(
    ("axis", "count"),
    [
        ("knob: {training.checkpoint_every: [1, 2]}", 1),
        ("knob: {optimizer.learning_rate: [1.0e-6, 2.0e-6]}", 2),
        ("knob: {optimizer.weight_decay: [0.0, 0.1]}", 2),
        ("knob: {rollout.temperature: [1.0, 0.9]}", 2),
    ],
)
def test_only_what_may_differ_may_differ(planned, axis, count):
    """Levels of the schedule fork within a level of what else changes a run, or its rounding."""
    plan = planned(WSD, ("  cap: {rollout.max_completion_tokens: [32, 16]}", f"  {axis}"), LENGTHS)
    assert len(forks(plan)) == count
    assert all(name.split()[0] == trunk.split()[0] for name, (trunk, _) in forks(plan).items())


def test_runs_that_round_otherwise_do_not_fork(planned):
    """The levels differ in a knob that changes no identity, but the last bits of a gradient."""
    steps = "steps: {a: {training: {steps: 4, microbatch_tokens: 64}}, b: {training: {steps: 8}}}"
    plan = planned(WSD, ("steps: {training.steps: [2, 4]}", steps))
    assert plan.grid.steps_axes == ["steps"]
    assert forks(plan) == {}


def test_runs_that_may_roll_back_do_not_fork(planned):
    """Where a rollback leads to depends on the checkpoints that are there, so a fork could change a result."""
    assert forks(planned(WSD, LENGTHS))
    rolling = ("  prompt:", "  stability: {kl: {policy: rollback}}\n  prompt:")
    assert not forks(planned(rolling))


def test_seeds_do_not_share(planned):
    plan = planned(WSD, LENGTHS, ("seeds: [0]", "seeds: [0, 1]"))
    found = forks(plan)
    assert len(found) == 4
    assert all(name.split()[-1] == trunk.split()[-1] for name, (trunk, _) in found.items())
    order = [job.run_id for job in start_order(plan)]
    assert all(order.index(j.fork.run_id) < order.index(j.run_id) for j in plan.jobs if j.fork)
    assert [job.seed for job in start_order(plan) if job.kind == "train"] == [0] * 4 + [1] * 4


def test_lengths_with_a_checkpoint_interval_of_their_own_share_a_run(planned):
    steps = "steps: {a: {training: {steps: 2, checkpoint_every: 1}}, b: {training: {steps: 4}}}"
    plan = planned(("steps: {training.steps: [2, 4]}", steps))
    assert [(job.steps, job.label) for job in plan.jobs if job.kind == "train"] == [
        ((2, 4), "cap=32 seed=0"),
        ((2, 4), "cap=16 seed=0"),
    ]


def test_an_estimate_counts_what_a_fork_trains_itself(planned):
    plan = planned(WSD, LENGTHS)
    store = Store(plan.out)
    estimator = Estimator(store, plan.jobs, plan.models, plan.hardware)
    fork = next(job for job in plan.jobs if job.fork)
    alone = dataclasses.replace(fork, fork=None)
    saved = estimator.remaining(alone).seconds - estimator.remaining(fork).seconds
    assert saved == pytest.approx(3 * estimator.step_seconds(fork))
    assert trunk_state(fork.fork, store) == "ahead"
    # The trunk went on without leaving that checkpoint.
    (store.run(fork.fork.run_id).checkpoints / "step-000006").mkdir(parents=True)
    assert trunk_state(fork.fork, store) == "passed"
    assert estimator.remaining(fork) == estimator.remaining(alone)
    weights = store.run(fork.fork.run_id).checkpoints / "step-000003"
    weights.mkdir()
    assert trunk_state(fork.fork, store) == "passed"
    (weights / OPTIMIZER_FILE).touch()
    assert trunk_state(fork.fork, store) == "there"


def test_only_steps_that_are_taken_over_are_told_as_saved(planned):
    plan = planned(WSD, LENGTHS)
    store, (one, other) = Store(plan.out), (job for job in plan.jobs if job.fork)
    store.root.mkdir()
    write_json(store.grid_file, {"schema": 1, "name": "small"})

    def saved():
        return [s.partition(": saves ")[2] for s in planned().sharing if "fork" in s]

    assert saved() == ["6 of 24 steps."]
    (store.run(one.fork.run_id).checkpoints / "step-000008").mkdir(parents=True)
    assert saved() == ["3 of 24 steps."], "its trunk is done, without a checkpoint to fork from"
    (store.run(other.fork.run_id).checkpoints / "step-000008").mkdir(parents=True)
    assert saved() == []
    store.run(one.run_id).new_attempt(Provenance()).append_step(step_record(1, forked_from=one.fork.run_id))
    store.run(other.run_id).new_attempt(Provenance()).append_step(step_record(1))
    assert saved() == ["3 of 24 steps."], "one forked while it could, the other trained them itself"


def by_label(out):
    """Steps trained, by label."""
    labels = {job["run"]: job["label"] for job in json.loads((out / "plan.json").read_text())["jobs"]}
    return {labels[run]: steps for run, steps in steps_trained(out).items() if labels[run][0] == "c"}


def checkpoints(out):
    """Steps that have one, by label."""
    return {folder.read_job().label: folder.checkpoint_steps() for folder in Store(out).runs()}


ALL = [str(step) for step in range(1, 9)]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_fork_trains_only_what_is_its_own(changed, tmp_path, ablate, workers):
    """With several at a time it waits for the trunk's checkpoint, and no longer."""
    out = tmp_path / "out"
    grid = changed(WSD, LENGTHS)
    done = ablate("--grid", grid, "--out", out, "--workers", workers, FAKE_STEP_SECONDS="0.1")
    assert done.returncode == 0, done.stderr
    assert by_label(out) == {
        f"cap={cap} steps={steps} seed=0": trained
        for cap in (32, 16)
        for steps, trained in ((4, ["4"]), (8, ALL))
    }
    assert "2 runs fork from a checkpoint of another" in done.stdout
    assert done.stdout.count(", from step 3 of run ") == 2
    assert list(load_study(out).runs["status"]) == ["finished"] * 5
    # Nobody forks from step 3 any more.
    assert sorted(checkpoints(out).values()) == [[], [4], [4], [8], [8]]


NOTHING = ("  prompt:", "  training: {keep: nothing}\n  prompt:")


def test_a_checkpoint_goes_when_all_that_fork_from_it_have(changed, tmp_path):
    plan = prepare(str(changed(WSD, LENGTHS, ("[32, 16]", "[32]"))), tmp_path / "out").plan
    trunk, fork = next(j for j in plan.jobs if j.fork_steps), next(j for j in plan.jobs if j.fork)
    store = Store(plan.out)
    cleaner, folder = CheckpointCleaner(store, plan.jobs), store.run(trunk.run_id)
    attempt = folder.new_attempt(Provenance())
    for step in (3, 8):
        fake_worker.checkpoint(folder, step)
    fake_worker.evaluate(trunk, folder, attempt, 8)
    cleaner.on_finished(trunk)
    assert folder.resumable_steps() == [3, 8], "it may be at work"
    attempt.finish("finished")
    cleaner.on_finished(trunk)
    assert folder.resumable_steps() == [3, 8], "the fork is to come"
    fake_worker.checkpoint(store.run(fork.run_id), 3)
    cleaner.on_finished(trunk)
    assert folder.resumable_steps() == [8]


def test_a_run_that_failed_goes_on_whatever_is_kept_of_finished_ones(changed, tmp_path, ablate):
    out = tmp_path / "out"
    grid = changed(NOTHING, WSD, LENGTHS, ("[32, 16]", "[32]"))
    assert ablate("--grid", grid, "--out", out, FAKE_CRASH="steps=4@4").returncode == 1
    short, long = "cap=32 steps=4 seed=0", "cap=32 steps=8 seed=0"
    assert checkpoints(out)[short] == [3]
    assert ablate("--grid", grid, "--out", out).returncode == 0
    assert by_label(out)[short] == ["4"]
    assert (checkpoints(out)[short], checkpoints(out)[long]) == ([], [])


def test_what_is_kept_may_be_decided_later(changed, tmp_path, ablate):
    out = tmp_path / "out"
    grid = changed(("[32, 16]", "[32]"))
    assert ablate("--grid", grid, "--out", out).returncode == 0
    assert checkpoints(out)["cap=32 seed=0"] == [2, 4]
    changed(NOTHING)
    done = ablate("--grid", grid, "--out", out)
    assert (done.returncode, checkpoints(out)["cap=32 seed=0"]) == (0, [])
    assert "are done" in done.stdout


@pytest.mark.parametrize(("crash", "trained"), [("2", ALL[:4]), ("6", ["4"])])
@pytest.mark.parametrize("how", ["raise", "kill"])
def test_a_trunk_that_fails_for_good_holds_nobody_up(changed, tmp_path, ablate, crash, trained, how):
    out = tmp_path / "out"
    grid = changed(WSD, LENGTHS, ("[32, 16]", "[32]"))
    crashes = {"FAKE_CRASH": f"steps=8@{crash}", "FAKE_CRASH_HOW": how}
    done = ablate("--grid", grid, "--out", out, "--workers", 2, **crashes)
    assert done.returncode == 1
    assert by_label(out)["cap=32 steps=4 seed=0"] == trained
    runs = load_study(out).runs.set_index("label")["status"]
    assert (runs["cap=32 steps=4 seed=0"], runs["cap=32 steps=8 seed=0"]) == ("finished", "failed")


def test_a_trunk_that_fails_once_is_waited_for(changed, tmp_path, ablate):
    out = tmp_path / "out"
    grid = changed(WSD, LENGTHS, ("[32, 16]", "[32]"))
    crashes = {"FAKE_CRASH": "steps=8@2", "FAKE_CRASH_HOW": "once"}
    assert ablate("--grid", grid, "--out", out, "--workers", 2, **crashes).returncode == 0
    assert by_label(out)["cap=32 steps=4 seed=0"] == ["4"]


def test_a_trunk_that_diverged_before_holds_nobody_up(changed, tmp_path, ablate):
    out = tmp_path / "out"
    grid = changed(WSD, LENGTHS, ("[32, 16]", "[32]"))
    crashes = {"FAKE_CRASH": "steps=8@2", "FAKE_CRASH_HOW": "diverge"}
    done = ablate("--grid", grid, "--out", out, "--workers", 2, **crashes)
    assert done.returncode == 0
    assert by_label(out)["cap=32 steps=4 seed=0"] == ALL[:4]


def test_a_finished_trunk_without_the_checkpoint_holds_nobody_up(changed, tmp_path, ablate):
    """It was trained before the grid had the shorter length, so nobody asked it to keep one."""
    out = tmp_path / "out"
    grid = changed(WSD, ("[2, 4]", "[8]"), ("[32, 16]", "[32]"))
    assert ablate("--grid", grid, "--out", out).returncode == 0
    grid.write_text(grid.read_text().replace("[8]", "[4, 8]"))
    assert ablate("--grid", grid, "--out", out).returncode == 0
    assert by_label(out) == {"cap=32 steps=4 seed=0": ALL[:4], "cap=32 steps=8 seed=0": ALL}


def test_a_trunk_beyond_the_budget_holds_nobody_up(changed, tmp_path, ablate):
    out = tmp_path / "out"
    grid = changed(WSD, LENGTHS, ("[32, 16]", "[32]"))
    before = time.monotonic()
    done = ablate("--grid", grid, "--out", out, "--budget-usd", "1e-9")
    assert "left out for the budget: 3 runs" in done.stdout
    assert time.monotonic() - before < 20


def test_a_fork_that_has_begun_by_itself_does_not_wait(changed, tmp_path, ablate):
    out = tmp_path / "out"
    grid = changed(WSD, LENGTHS, ("[32, 16]", "[32]"))
    matrix = prepare(str(grid), out)
    out.mkdir()
    _write_plan(matrix)
    fork = next(job for job in matrix.plan.jobs if job.fork)
    (Store(out).run(fork.run_id).checkpoints / "step-000001").mkdir(parents=True)
    assert ablate("--grid", grid, "--out", out).returncode == 0
    assert by_label(out)[fork.label] == ALL[1:4]


def test_a_trunk_at_work_in_another_runner_is_waited_for_up_to_the_fork(changed, tmp_path):
    """This test is the other runner: it has the trunk, and finishes it when the fork is done."""
    out = tmp_path / "out"
    grid = changed(WSD, LENGTHS, ("[32, 16]", "[32]"))
    matrix = prepare(str(grid), out)
    out.mkdir()
    _write_plan(matrix)
    trunk = next(job for job in matrix.plan.jobs if job.fork_steps)
    fork = next(job for job in matrix.plan.jobs if job.fork)
    folder = Store(out).run(trunk.run_id)
    folder.write_job(trunk)
    attempt = folder.claim(LeaseWatch())
    write_json(attempt.path / "launched", to_data(Owner("another/boot/namespace", "another", 7, 1.0)))
    process = started(grid, out, "--workers", "2")
    lines = []
    for line in process.stdout:
        attempt.beat()
        lines.append(line)
        if f"waiting [{fork.label}] for step 3 of run {trunk.run_id}" in line:
            break
    assert fork.run_id not in steps_trained(out), lines
    fake_worker.checkpoint(folder, 3)

    def forked():
        attempt.beat()
        return Store(out).run(fork.run_id).finished(fork)

    wait_for(forked)
    fake_worker.evaluate(trunk, folder, attempt, 8)
    attempt.finish("finished")
    assert process.communicate(timeout=60) is not None
    assert process.returncode == 0
    assert steps_trained(out)[fork.run_id] == ["4"]
