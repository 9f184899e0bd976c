"""A run that forks from another one ends bit for bit as one that trains all its steps, and costs what it trained."""

import dataclasses
import json
import shutil

import pytest
from safetensors.torch import load_file

from harness.matrix import worker
from harness.matrix.planning.estimator import Estimator
from harness.matrix.planning.hardware import Machine
from harness.matrix.planning.measurements import read_measurements
from harness.matrix.planning.planner import grid_json, make_plan
from harness.reporting.analysis.performance import PERFORMANCE, checkpoint_metric, spending
from harness.spec.grid import load_grid
from harness.store.folders import Store
from harness.store.records import Provenance
from harness.store.schema import write_record
from harness.store.study import load_study
from harness.training.errors import Interrupted
from harness.training.run import execute

GRID = """
name: lengths
question: Does a fork change anything?
base:
  model: {model}
  data: {{size: 40, sources: [{{source: sums, terms: [2]}}]}}
  rollout: {{prompts_per_step: 2, completions_per_prompt: 3, max_completion_tokens: 12, zero_spread: resample}}
  reward: {{functions: [{{name: cosine}}]}}
  optimizer: {{learning_rate: 1e-3, schedule: wsd, decay_fraction: 0.5, warmup_steps: 1, weight_decay: 0.1}}
  objective: {{beta: 0.1}}
axes:
  steps: {{training.steps: [4, 6]}}
evaluate:
  base: false
  samples: 2
  max_completion_tokens: 12
  benchmarks: [{{name: sums-2, questions: 5, source: {{source: sums, terms: [2]}}}}]
hardware: {{device: cpu, devices_per_run: 1}}
"""
FORK = 2
"""The 4-step run begins to fall after so many steps."""


class Planned:
    """The plan of two lengths; what was run of it in its output folder, and of each run alone in another."""

    def __init__(self, folder, model):
        file = folder / "grid.yaml"
        file.write_text(GRID.format(model=model))
        self.plan = make_plan(load_grid(file), folder / "out", Machine(cores=2))
        self.out = self.plan.out
        self.out.mkdir()
        write_record("output", grid_json(self.plan.grid), self.out / "grid.resolved.json")
        write_record("output", self.plan.record(), self.out / "plan.json")
        self.fork, self.trunk = self.plan.jobs
        assert (self.fork.steps, self.fork.fork.step) == ((4,), FORK)
        assert self.fork.fork.run_id == self.trunk.run_id
        assert self.trunk.fork_steps == (FORK,)
        self.trunk_run, _ = ran(self.trunk, self.out)
        self.whole, _ = ran(alone(self.fork), folder / "alone")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, light_runs):
    """Both runs, and the fork's as a run of its own."""
    made = Planned(tmp_path_factory.mktemp("tiny"), "tiny")
    made.trunk_only = tmp_path_factory.mktemp("trunk")
    shutil.copytree(made.out, made.trunk_only, dirs_exist_ok=True)
    made.fork_run, made.events = ran(made.fork, made.out)
    return made


@pytest.fixture(scope="module")
def lora(tmp_path_factory, light_runs):
    """The same of adapters."""
    made = Planned(tmp_path_factory.mktemp("lora"), "{name: tiny, lora: {r: 2}}")
    made.fork_run, made.events = ran(made.fork, made.out)
    return made


@pytest.fixture
def trunk_alone(tiny, tmp_path):
    """A copy of the output folder before the fork ran."""
    return shutil.copytree(tiny.trunk_only, tmp_path / "out")


def ran(job, out, stop=lambda: False):
    """Executes a job as a worker does; returns its folder and the attempt's events."""
    folder = Store(out).run(job.run_id)
    folder.write_job(job)
    attempt = folder.reserve_attempt()
    attempt.begin(Provenance())
    status = "finished"
    try:
        execute(job, folder, attempt, stop)
    except Interrupted:
        status = "interrupted"
    attempt.finish(status, seconds_by_phase=worker.seconds_by_phase(folder, attempt))
    return folder, {e.kind: e for e in attempt.events()}


def alone(job):
    return dataclasses.replace(job, fork=None, fork_steps=())


def bare(record):
    """A record without clocks, ids and what memory happened to be in use."""
    gone = ("timing", "memory", "energy", "load", "time", "created_at", "cost_usd", "attempt", "forked_from")
    return {key: value for key, value in vars(record).items() if key not in gone}


def assert_same(one, other):
    step = one.checkpoint_steps()[-1]
    path = f"checkpoints/step-{step:06d}"
    for name in ("model.safetensors", "adapter_model.safetensors", "optimizer.safetensors"):
        if not (one.path / path / name).exists():
            continue
        ours, theirs = load_file(one.path / path / name), load_file(other.path / path / name)
        assert ours.keys() == theirs.keys()
        assert all(ours[key].equal(theirs[key]) for key in ours)
    assert list(map(bare, one.steps())) == list(map(bare, other.steps()))
    assert list(map(bare, one.evaluations())) == list(map(bare, other.evaluations()))
    for record in one.evaluations():
        key = (record.step, record.benchmark, record.evaluation_id)
        columns = ["question_index", "sample", "text", "correct"]
        assert one.samples(*key, columns).equals(other.samples(*key, columns))


@pytest.mark.parametrize("planned", ["tiny", "lora"])
def test_a_fork_ends_bit_for_bit_as_a_run_of_its_own(planned, request):
    planned = request.getfixturevalue(planned)
    trunk, fork, events = planned.trunk, planned.fork, planned.events
    assert (events["forked"].step, events["forked"].figures["trunk"]) == (FORK, trunk.run_id)
    assert events["resumed"].step == FORK
    assert_same(planned.fork_run, planned.whole)
    records = planned.fork_run.steps()
    assert [r.forked_from for r in records] == [trunk.run_id] * FORK + [None] * 2
    assert {(r.run_id, r.attempt) for r in records} == {(fork.run_id, 1)}
    # The trunk's checkpoint is still whole, for others to fork from.
    assert (planned.trunk_run.checkpoints / "step-000002" / "optimizer.safetensors").exists()


def test_a_trunk_ends_bit_for_bit_as_a_run_that_nothing_forks_from(tiny, tmp_path):
    unforked, _ = ran(alone(tiny.trunk), tmp_path / "alone")
    assert_same(tiny.trunk_run, unforked)


def test_money_is_counted_once_and_a_cell_costs_what_it_takes(tiny):
    plan, fork, folder = tiny.plan, tiny.fork, tiny.fork_run
    taken, own = folder.steps()[:FORK], folder.steps()[FORK:]
    seconds = {
        name: sum(r.timing.total_seconds for r in part) for name, part in (("own", own), ("taken", taken))
    }
    study = load_study(plan.out)
    assert list(study.steps[study.steps["run"] == fork.run_id]["attempt"]) == [0, 0, 1, 1]
    # What was paid: the attempt's own time, of which its own steps are the training.
    (attempt,) = folder.attempts()
    row = study.runs.set_index("run").loc[fork.run_id]
    assert row["wall_seconds"] == pytest.approx(attempt.wall_seconds)
    assert spending(study, fork.run_id).training == pytest.approx(seconds["own"])
    estimator = Estimator(Store(plan.out), plan.jobs, plan.models, plan.hardware)
    assert estimator.spent_seconds() == pytest.approx(study.runs["wall_seconds"].sum())
    assert len(read_measurements(folder).steps) == len(own) - 1
    phases = attempt.end().seconds_by_phase
    assert phases["rollout"] == pytest.approx(sum(r.timing.seconds["rollout"] for r in own))
    # What training the cell takes: every step of it.
    (metric,) = [m for m in PERFORMANCE if m.name == "training_cost_usd"]
    cost = checkpoint_metric(study, metric)[fork.run_id, 4]
    assert cost == pytest.approx((seconds["own"] + seconds["taken"]) * fork.device_usd_per_second)
    costs = [r.cost_usd for r in folder.steps()]
    assert costs == sorted(costs)
    assert costs[FORK] > costs[FORK - 1]


def test_a_fork_that_was_interrupted_goes_on_and_still_knows_its_cost(tiny, trunk_alone):
    first, _ = ran(tiny.fork, trunk_alone, stop=lambda: True)
    assert first.checkpoint_steps() == [2, 3]
    folder, events = ran(tiny.fork, trunk_alone)
    assert "forked" not in events
    assert events["resumed"].step == 3
    costs = [r.cost_usd for r in folder.steps()]
    assert costs == sorted(costs)
    assert_same(folder, tiny.whole)


@pytest.mark.parametrize("harm", ["bit", "records", "absent"])
def test_what_cannot_be_taken_over_is_told_and_trained(tiny, trunk_alone, harm):
    theirs = Store(trunk_alone).run(tiny.trunk.run_id)
    if harm == "absent":
        shutil.rmtree(theirs.path)
    elif harm == "bit":
        file = theirs.checkpoints / "step-000002" / "optimizer.safetensors"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif harm == "records":
        (attempt,) = theirs.attempts()
        lines = attempt.steps_file.read_text().splitlines(keepends=True)
        attempt.steps_file.write_text("".join(line for line in lines if json.loads(line)["step"] != 1))
    folder, events = ran(tiny.fork, trunk_alone)
    assert "forked" not in events
    assert "resumed" not in events
    assert events["fork_failed"].message.endswith("; the run trains from step 0")
    assert not any(record.forked_from for record in folder.steps())
    assert_same(folder, tiny.whole)
