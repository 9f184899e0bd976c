"""Which checkpoints a run leaves: those asked for, those evaluated before, the latest; none that a kill left over."""

import dataclasses
import shutil

import pytest

from harness.matrix.machine import Machine
from harness.matrix.planner import make_plan
from harness.spec.grid import load_grid
from harness.store.folders import Store
from harness.training import run as run_module
from harness.training.run import execute

GRID = """
name: kept
question: Which checkpoints stay?
base:
  model: tiny
  data: {size: 20, sources: [{source: sums, terms: [2]}]}
  rollout: {prompts_per_step: 2, completions_per_prompt: 2, max_completion_tokens: 4}
  reward: {functions: [{name: accuracy}]}
  training: {checkpoint_every: 1}
axes:
  steps: {training.steps: [1, 4]}
evaluate:
  base: false
  samples: 1
  max_completion_tokens: 4
  benchmarks: [{name: sums-2, questions: 2, source: {source: sums, terms: [2]}}]
hardware: {device: cpu, devices_per_run: 1}
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "measured_peak", lambda **_: 1e11)
    file = tmp_path / "grid.yaml"
    file.write_text(GRID)
    return make_plan(load_grid(file), tmp_path / "out", Machine(cores=2)).jobs[0]


def ran(job, out):
    folder = Store(out).run(job.run_id)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_job(job)
    attempt = folder.reserve_attempt()
    attempt.begin({})
    execute(job, folder, attempt, lambda: False)
    attempt.finish("finished")
    return folder


def test_what_a_kill_left_over_is_removed_when_the_run_goes_on(job, tmp_path):
    folder = ran(job, tmp_path / "out")
    assert folder.checkpoint_steps() == [1, 3, 4]
    third, second = (folder.checkpoints / f"step-00000{n}" for n in (3, 2))
    shutil.copytree(third, second)
    (folder.checkpoints / "step-000001" / "optimizer.safetensors").write_bytes(b"left")
    ran(job, tmp_path / "out")
    assert folder.checkpoint_steps() == [1, 3, 4]
    assert not (folder.checkpoints / "step-000001" / "optimizer.safetensors").exists()


def test_what_was_evaluated_stays_when_other_lengths_are_asked_for(job, tmp_path):
    folder = ran(dataclasses.replace(job, steps=(1, 2)), tmp_path / "out")
    assert folder.checkpoint_steps() == [1, 2]
    ran(dataclasses.replace(job, steps=(5,)), tmp_path / "out")
    assert folder.checkpoint_steps() == [1, 2, 4, 5]
