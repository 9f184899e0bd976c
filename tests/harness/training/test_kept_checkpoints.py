"""Which checkpoints a run leaves: those asked for, those evaluated before, the latest; none that a kill left over."""

import dataclasses
import shutil

import pytest

from harness.matrix.planning.disk_model import disk_need
from harness.matrix.planning.estimator import Estimator
from harness.matrix.planning.hardware import Machine, resolve_hardware
from harness.matrix.planning.planner import make_plan
from harness.models.catalog import resolve_model
from harness.spec.grid import load_grid
from harness.spec.hardware import HardwareSpec
from harness.store.checkpoints import CheckpointFolder
from harness.store.folders import Store
from harness.store.records import Provenance
from harness.training.run import execute

GRID = """
name: kept
question: Which checkpoints stay?
base:
  model: tiny
  data: {size: 20, sources: [{source: sums, terms: [2]}]}
  rollout: {prompts_per_step: 2, completions_per_prompt: 6, max_completion_tokens: 12}
  reward: {functions: [{name: cosine}]}
  optimizer: {learning_rate: 1.0e-3}
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


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    file = tmp_path_factory.mktemp("grid") / "grid.yaml"
    file.write_text(GRID)
    return make_plan(load_grid(file), file.parent / "out", Machine(cores=2)).jobs[0]


@pytest.fixture(scope="module")
def trained(job, tmp_path_factory, light_runs):
    """The run, and the most bytes that its checkpoints took while it trained."""
    out, most = tmp_path_factory.mktemp("trained"), []
    prune = CheckpointFolder.prune

    def measured(self, *arguments, **options):
        most.append(size(Store(out).run(job.run_id)))
        return prune(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointFolder, "prune", measured)
        return ran(job, out), max(most)


@pytest.fixture
def finished(trained, tmp_path):
    """A copy of the run."""
    folder = Store(tmp_path / "out").run(trained[0].run_id)
    shutil.copytree(trained[0].path, folder.path)
    return folder


@pytest.fixture(scope="module")
def longer(job, tmp_path_factory, light_runs):
    """The same run with a level more, trained in one go."""
    return ran(dataclasses.replace(job, steps=(1, 6)), tmp_path_factory.mktemp("longer"))


def ran(job, out):
    folder = Store(out).run(job.run_id)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_job(job)
    attempt = folder.reserve_attempt()
    attempt.begin(Provenance())
    execute(job, folder, attempt, lambda: False)
    attempt.finish("finished")
    return folder


def hardware():
    return resolve_hardware(HardwareSpec(device="cpu"), Machine(2))


def size(folder):
    return sum(p.stat().st_size for p in folder.checkpoints.rglob("*") if p.is_file())


def kept(job, policy):
    training = job.recipe.training.model_copy(update={"keep": policy})
    return dataclasses.replace(job, recipe=job.recipe.model_copy(update={"training": training}))


@pytest.mark.parametrize(
    ("policy", "steps", "resumable"),
    [("resumable", [1, 4], [4]), ("weights", [1, 4], []), ("nothing", [], [])],
)
def test_what_a_finished_run_keeps_and_takes_on_disk(job, trained, finished, policy, steps, resumable):
    job = kept(job, policy)
    finished.prune_finished(job, frozenset())
    assert (finished.checkpoint_steps(), finished.resumable_steps()) == (steps, resumable)
    need = disk_need([(job, resolve_model(job.recipe.model))], slots=1)
    # What is reckoned leaves out tokenizers and checksums, 26 kB a checkpoint of 1.3 MB and more.
    assert size(finished) == pytest.approx(need.kept * 2**30, rel=0.05)
    assert trained[1] == pytest.approx(need.peak * 2**30, rel=0.05)


def test_a_run_that_is_not_done_or_may_be_at_work_keeps_everything(job, finished):
    folder = finished
    before = folder.resumable_steps()
    nothing = kept(job, "nothing")
    folder.prune_finished(dataclasses.replace(nothing, steps=(1, 9)), frozenset())
    assert folder.resumable_steps() == before
    attempt = folder.reserve_attempt()
    folder.prune_finished(nothing, frozenset())
    assert folder.resumable_steps() == before
    attempt.begin(Provenance())
    attempt.finish("finished")
    folder.prune_finished(nothing, frozenset({3}))
    assert folder.resumable_steps() == [3]
    folder.prune_finished(nothing, frozenset())
    assert folder.checkpoint_steps() == []


@pytest.mark.parametrize("policy", ["resumable", "weights", "nothing"])
def test_a_longer_run_ends_the_same_whatever_was_kept(job, finished, longer, tmp_path, policy):
    job = kept(job, policy)
    more, whole, folder = dataclasses.replace(job, steps=(1, 6)), longer, finished
    folder.prune_finished(job, frozenset())
    store = Store(tmp_path / "out")
    estimator = Estimator(store, [more], {job.run_id: resolve_model(job.recipe.model)}, hardware())
    to_train = estimator.steps_to_train(more)
    ran(more, tmp_path / "out")
    made = [record.step for record in folder.attempt(2).steps()]
    # A step that is checkpointed is written twice, the second time with what that took.
    assert (
        sorted(set(made))
        == list(range(7 - to_train, 7))
        == ([5, 6] if policy == "resumable" else [1, 2, 3, 4, 5, 6])
    )
    weights = "checkpoints/step-000006/model.safetensors"
    assert (folder.path / weights).read_bytes() == (whole.path / weights).read_bytes()
    assert [e.accuracy for e in folder.evaluations() if e.step in (1, 6)] == [
        e.accuracy for e in whole.evaluations()
    ]


def test_what_a_kill_left_over_is_removed_when_the_run_goes_on(job, finished, tmp_path):
    folder = finished
    assert folder.checkpoint_steps() == [1, 3, 4]
    third, second = (folder.checkpoints / f"step-00000{n}" for n in (3, 2))
    shutil.copytree(third, second)
    (folder.checkpoints / "step-000001" / "optimizer.safetensors").write_bytes(b"left")
    ran(job, tmp_path / "out")
    assert folder.checkpoint_steps() == [1, 3, 4]
    assert not (folder.checkpoints / "step-000001" / "optimizer.safetensors").exists()


def test_what_was_evaluated_stays_when_other_lengths_are_asked_for(job, tmp_path, light_runs):
    folder = ran(dataclasses.replace(job, steps=(1, 2)), tmp_path / "out")
    assert folder.checkpoint_steps() == [1, 2]
    ran(dataclasses.replace(job, steps=(5,)), tmp_path / "out")
    assert folder.checkpoint_steps() == [1, 2, 4, 5]
