import copy
import errno
import json
import random

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.spec.recipe import OptimizerSpec
from harness.store.errors import StoreError
from harness.store.schema import load
from harness.training.checkpoints import Checkpoints
from harness.training.errors import DamagedCheckpoint
from harness.training.generators import seed_generators
from harness.training.optimizer import build_optimizer


class NoTokenizer:
    def save_pretrained(self, folder):
        (folder / "tokenizer.json").write_text("{}")


def _train(model, optimizer, steps):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 31, (4, 12), generator=generator)
    for _ in range(steps):
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture
def trained(random_model, tmp_path):
    optimizer = build_optimizer(random_model, OptimizerSpec(learning_rate=1e-3))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    _train(random_model, optimizer, 3)
    checkpoints.save(3, random_model, NoTokenizer(), optimizer)
    return random_model, optimizer, checkpoints


def _weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def test_training_goes_on_bit_for_bit(trained):
    model, optimizer, checkpoints = trained
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other_optimizer = build_optimizer(other, OptimizerSpec(learning_rate=1e-3))
    checkpoints.load_weights(3, other)
    checkpoints.load_optimizer(3, other, other_optimizer)
    _train(model, optimizer, 2)
    _train(other, other_optimizer, 2)
    assert all(torch.equal(a, b) for a, b in zip(_weights(model).values(), _weights(other).values()))


def test_a_checkpoint_is_a_folder_that_transformers_loads(trained):
    model, _, checkpoints = trained
    loaded = AutoModelForCausalLM.from_pretrained(checkpoints.path(3))
    assert all(torch.equal(a, b) for a, b in zip(_weights(model).values(), _weights(loaded).values()))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "config.json"])
def test_a_flipped_bit_is_noticed(trained, name):
    model, _, checkpoints = trained
    path = checkpoints.path(3) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match=name):
        checkpoints.load_weights(3, model)


def test_a_missing_file_and_a_torn_state_are_noticed(trained):
    model, _, checkpoints = trained
    state = checkpoints.path(3) / "state.json"
    whole = state.read_text()
    state.write_text(whole[: len(whole) // 2])
    with pytest.raises(DamagedCheckpoint, match=r"state\.json"):
        checkpoints.load_weights(3, model)
    state.write_text(whole)
    (checkpoints.path(3) / "model.safetensors").unlink()
    with pytest.raises(DamagedCheckpoint, match=r"model\.safetensors"):
        checkpoints.load_weights(3, model)


def test_a_newer_schema_is_refused(trained):
    model, _, checkpoints = trained
    path = checkpoints.path(3) / "state.json"
    path.write_text(json.dumps({**load("checkpoint", path), "schema": 99}))
    with pytest.raises(StoreError, match=r"schema 99.*update the harness"):
        checkpoints.load_weights(3, model)


def test_what_cannot_be_read_now_does_not_count_as_damaged(trained, monkeypatch):
    model, _, checkpoints = trained

    def too_many(*_, **__):
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr("pathlib.Path.read_bytes", too_many)
    with pytest.raises(OSError, match="too many open files"):
        checkpoints.load_weights(3, model)


def test_the_count_of_steps_lies_where_the_fused_optimiser_wants_it(trained):
    model, _, checkpoints = trained
    elsewhere = copy.deepcopy(model).to("meta")
    optimizer = build_optimizer(elsewhere, OptimizerSpec(learning_rate=1e-3))
    checkpoints.load_optimizer(3, elsewhere, optimizer)
    assert {value.device.type for state in optimizer.state.values() for value in state.values()} == {"meta"}


def test_a_half_written_checkpoint_does_not_count_and_is_cleared(trained, tmp_path):
    model, optimizer, checkpoints = trained
    half = tmp_path / "checkpoints" / ".step-000004.1"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"torn")
    assert checkpoints.steps() == [3]
    checkpoints.save(4, model, NoTokenizer(), optimizer)
    assert checkpoints.steps() == [3, 4]
    assert not half.exists()


def test_pruning_keeps_levels_and_the_two_latest_moments(trained):
    model, optimizer, checkpoints = trained
    for step in (4, 5, 6, 7):
        checkpoints.save(step, model, NoTokenizer(), optimizer)
        checkpoints.prune(frozenset({3, 5}), frozenset(), at=step)
    assert checkpoints.steps() == [3, 5, 6, 7]
    assert checkpoints.resumable() == [6, 7]
    checkpoints.load_weights(3, model)


def test_a_run_behind_checkpoints_of_an_earlier_attempt_keeps_its_own(trained):
    model, optimizer, checkpoints = trained
    for step in (8, 9, 4, 5, 6):
        checkpoints.save(step, model, NoTokenizer(), optimizer)
        checkpoints.prune(frozenset({9}), frozenset(), at=step)
    assert checkpoints.resumable() == [5, 6, 8, 9]


def test_pruning_leaves_what_others_fork_from_whole(trained):
    model, optimizer, checkpoints = trained
    for step in (4, 5, 6, 7):
        checkpoints.save(step, model, NoTokenizer(), optimizer)
        checkpoints.prune(frozenset({7}), frozenset({4}), at=step)
    assert (checkpoints.steps(), checkpoints.resumable()) == ([4, 6, 7], [4, 6, 7])


@pytest.mark.parametrize("links", [True, False])
def test_a_checkpoint_taken_over_is_the_same_one_and_stands_alone(trained, tmp_path, monkeypatch, links):
    model, _, checkpoints = trained
    if not links:
        monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    other, called = Checkpoints(tmp_path / "other"), []
    other.take_over(checkpoints, 3, first=lambda: called.append(other.steps()))
    assert called == [[]]
    linked = [
        p.stat().st_nlink for p in other.path(3).iterdir() if p.name != "state.json"
    ]  # it names its run
    assert set(linked) == {2 if links else 1}
    checkpoints.discard(3)
    other.verify(3)
    assert other.resumable() == [3]
    other.load_weights(3, model)


@pytest.mark.parametrize("harm", ["flipped", "pruned", "absent"])
def test_a_checkpoint_that_is_not_whole_is_not_taken_over(trained, tmp_path, harm):
    _, _, checkpoints = trained
    moments = checkpoints.path(3) / "optimizer.safetensors"
    if harm == "flipped":
        data = bytearray(moments.read_bytes())
        data[-1] ^= 1
        moments.write_bytes(data)
    elif harm == "pruned":
        moments.unlink()
    other = Checkpoints(tmp_path / "other")
    with pytest.raises(DamagedCheckpoint):
        other.take_over(checkpoints, 4 if harm == "absent" else 3, first=lambda: pytest.fail("too early"))
    assert other.steps() == []


def test_a_checkpoint_written_again_replaces_the_old_one(trained, tmp_path):
    model, optimizer, checkpoints = trained
    _train(model, optimizer, 1)
    checkpoints.save(3, model, NoTokenizer(), optimizer)
    checkpoints.verify(3)
    assert checkpoints.steps() == [3]
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_removal_that_dies_halfway_leaves_no_half_checkpoint(trained, tmp_path, monkeypatch):
    model, optimizer, checkpoints = trained

    def die(path):
        next(p for p in path.iterdir() if p.suffix == ".safetensors").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("harness.training.checkpoints.shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.discard(3)
    assert checkpoints.steps() == []
    checkpoints.save(4, model, NoTokenizer(), optimizer)
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_global_generators_are_a_function_of_seed_and_step():
    def draws(seed, step):
        seed_generators(seed, step)
        return random.random(), np.random.rand(), torch.rand(1).item()

    first = draws(0, 3)
    assert draws(0, 4) != first
    assert draws(1, 3) != first
    assert draws(0, 3) == first
