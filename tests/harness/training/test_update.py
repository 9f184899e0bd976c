"""The update's gradient against a plain fp64 computation, and what must not change it."""

import copy
import dataclasses
import math

import pytest
import torch

from harness.meters.clock import PhaseClock
from harness.spec.recipe import Recipe
from harness.training import policy
from harness.training.batch import Sample, micro_batches
from harness.training.update import Updater
from kernels.grpo_loss.objective import VARIANTS


def make_recipe(**sections):
    base = {
        "model": "tiny",
        "data": {"sources": [{"source": "sums"}]},
        "reward": {"functions": [{"name": "accuracy"}]},
        "rollout": {"max_completion_tokens": 9, "temperature": 0.8},
        "optimizer": {"max_grad_norm": None},
    }
    return Recipe.model_validate({**base, **{k: {**base.get(k, {}), **v} for k, v in sections.items()}})


def make_samples():
    generator = torch.Generator().manual_seed(5)
    shapes = [(3, 7), (5, 2), (2, 9), (4, 4), (3, 1), (6, 9)]
    advantages = [1.0, -0.5, 0.0, 0.7, -1.2, 0.0]

    def draw(count):
        return tuple(torch.randint(1, 31, (count,), generator=generator).tolist())

    return [
        Sample(draw(p), draw(c), tuple((-torch.rand(c, generator=generator)).tolist()), a, c == 9)
        for (p, c), a in zip(shapes, advantages)
    ]


class Recorder(torch.optim.SGD):
    """Keeps the gradients of every update instead of following them."""

    def __init__(self, model):
        super().__init__(model.parameters(), lr=0.0)
        self.model, self.gradients = model, []

    def step(self, closure=None):
        self.gradients.append(
            {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}
        )


def run(model, recipe, samples=None, reference=None):
    model = copy.deepcopy(model)
    optimizer = Recorder(model)
    result = Updater(model, reference, optimizer, recipe, PhaseClock()).update(samples or make_samples())
    return result, optimizer.gradients


def logprobs64(model, sample, temperature=0.8):
    ids = torch.tensor([sample.prompt_ids + sample.completion_ids])
    logits = model(ids).logits[0, len(sample.prompt_ids) - 1 : -1] / temperature
    return torch.log_softmax(logits, -1).gather(-1, ids[0, len(sample.prompt_ids) :, None])[:, 0]


def truth(model, samples, loss_of):
    model = copy.deepcopy(model).double()
    loss = loss_of(model)
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.named_parameters()}


def assert_same(gradients, expected, tolerance=2e-5):
    scale = max(g.abs().max().item() for g in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name].double(), value.double(), rtol=0, atol=tolerance * scale)


def test_dapo_on_policy_is_the_token_mean_policy_gradient(random_model):
    samples = make_samples()
    result, gradients = run(random_model, make_recipe())

    def loss_of(model):
        total = sum(-(s.advantage * logprobs64(model, s)).sum() for s in samples)
        return total / sum(len(s.completion_ids) for s in samples)

    _, expected = truth(random_model, samples, loss_of)
    assert_same(gradients[0], expected)
    # On policy the ratio is 1: the loss is minus the token-weighted mean advantage.
    weights = [len(s.completion_ids) for s in samples]
    value = -sum(w * s.advantage for w, s in zip(weights, samples)) / sum(weights)
    assert result.metrics["loss"] == pytest.approx(value, abs=1e-6)
    norm = math.sqrt(sum(float(g.square().sum()) for g in expected.values()))
    assert result.metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)


def test_grpo_with_reference_has_the_k3_gradient(random_model):
    samples = make_samples()
    reference = copy.deepcopy(random_model)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(1.1)
    recipe = make_recipe(objective={"loss": "grpo", "beta": 0.3})
    result, gradients = run(random_model, recipe, reference=reference)
    fixed = copy.deepcopy(reference).double()

    def loss_of(model):
        total = 0.0
        for s in samples:
            logprob = logprobs64(model, s)
            with torch.no_grad():
                difference = logprobs64(fixed, s)
            delta = logprob - difference
            ratio = (logprob - logprob.detach()).exp()
            total = total + (-(ratio * s.advantage) + 0.3 * ((-delta).exp() + delta - 1)).mean()
        return total / len(samples)

    value, expected = truth(random_model, samples, loss_of)
    assert result.metrics["loss"] == pytest.approx(value, rel=1e-4)
    assert_same(gradients[0], expected)
    assert result.trained == list(range(6))


def test_samples_without_gradient_are_skipped_exactly(random_model):
    result, gradients = run(random_model, make_recipe())
    assert result.trained == [0, 1, 3, 4]
    # A vanishing entropy bonus makes every sample count; its own gradient is below single precision.
    everything, full = run(random_model, make_recipe(objective={"entropy_bonus": 1e-30}))
    assert everything.trained == list(range(6))
    assert everything.metrics["loss"] == pytest.approx(result.metrics["loss"], abs=1e-7)
    # Other rows in the batch, other order of summation.
    assert_same(gradients[0], full[0], tolerance=1e-5)


@pytest.mark.parametrize("loss", tuple(VARIANTS))
def test_the_microbatch_budget_does_not_change_the_gradient(random_model, loss):
    whole = run(random_model, make_recipe(objective={"loss": loss}, training={"microbatch_tokens": 1000}))
    split = run(random_model, make_recipe(objective={"loss": loss}, training={"microbatch_tokens": 1}))
    assert split[0].metrics["loss"] == pytest.approx(whole[0].metrics["loss"], abs=1e-6)
    assert_same(split[1][0], whole[1][0], tolerance=1e-5)


def test_masked_truncated_completions_leave_the_mean(random_model):
    samples = make_samples()
    _, gradients = run(random_model, make_recipe(objective={"mask_truncated": True}))
    kept = [s for s in samples if not s.truncated]

    def loss_of(model):
        total = sum(-(s.advantage * logprobs64(model, s)).sum() for s in kept)
        return total / sum(len(s.completion_ids) for s in kept)

    assert_same(gradients[0], truth(random_model, samples, loss_of)[1])


def test_a_minibatch_of_truncated_completions_alone_trains_on_nothing(random_model):
    recipe = make_recipe(objective={"mask_truncated": True, "top_entropy_quantile": 0.5})
    samples = [dataclasses.replace(sample, truncated=True) for sample in make_samples()]
    result, gradients = run(random_model, recipe, samples)
    assert (result.trained, result.metrics["loss"], result.non_finite, gradients) == ([], 0.0, False, [{}])


def test_minibatches_and_inner_epochs_make_one_update_each_and_clip_against_the_old_policy(random_model):
    recipe = make_recipe(training={"minibatches": 2, "inner_epochs": 3})
    result, gradients = run(random_model, recipe)
    assert result.updates == 6
    assert len(gradients) == 6
    assert result.measured == [list(range(len(make_samples())))]
    # The recording optimiser leaves the weights alone, so every ratio to the old policy is 1.
    assert result.metrics["ratio_min"] == pytest.approx(1.0, abs=1e-5)
    assert result.metrics["ratio_max"] == pytest.approx(1.0, abs=1e-5)
    assert_same(gradients[0], gradients[2], tolerance=1e-6)


def test_a_non_finite_gradient_stops_before_the_optimiser(random_model):
    with torch.no_grad():
        random_model.model.norm.weight[0] = math.nan
    model = copy.deepcopy(random_model)
    optimizer = Recorder(model)
    recipe = make_recipe(training={"minibatches": 2})
    result = Updater(model, None, optimizer, recipe, PhaseClock()).update(make_samples())
    assert result.non_finite
    assert result.updates == 0
    assert math.isnan(result.metrics["grad_norm"])
    assert optimizer.gradients == []
    assert all(p.grad is None for p in model.parameters())


def test_microbatches_hold_every_row_once_within_the_budget():
    samples = make_samples()
    batches = micro_batches(samples, range(6), budget_tokens=24, device=torch.device("cpu"))
    assert sorted(row for b in batches for row in b.rows) == list(range(6))
    assert all(b.input_ids.numel() <= 24 for b in batches)
    for batch in batches:
        assert batch.targets.tolist() == [t for row in batch.rows for t in samples[row].completion_ids]
        following = batch.input_ids.flatten()[batch.predictors + 1]
        assert torch.equal(following, batch.targets)
        flat = batch.padded(torch.arange(1.0, len(batch.targets) + 1))
        assert torch.equal(flat[batch.mask], torch.arange(1.0, len(batch.targets) + 1))
        assert (flat[~batch.mask] == 0).all()


@pytest.mark.parametrize("tied", [True, False])
def test_large_embeddings_and_heads_accumulate_in_place_to_the_same_gradient(random_model, monkeypatch, tied):
    model = random_model if tied else untied(random_model)
    model.get_input_embeddings().padding_idx = make_samples()[0].prompt_ids[0]
    recipe = make_recipe(training={"microbatch_tokens": 12}, objective={"entropy_bonus": 0.1})
    _, expected = run(model, recipe)
    dense = torch.nn.functional.embedding
    monkeypatch.setattr(policy, "IN_PLACE_FROM", 1)
    calls = []
    monkeypatch.setattr(policy.F, "embedding", lambda ids, weight: calls.append(1) or dense(ids, weight))
    _, found = run(model, recipe)
    assert len(calls) >= 3
    assert found[0].keys() == expected[0].keys()
    assert_same(found[0], expected[0], tolerance=1e-6)


def untied(model):
    config = copy.deepcopy(model.config)
    config.tie_word_embeddings = False
    made = type(model)(config).eval()
    made.load_state_dict(copy.deepcopy(model.state_dict()))
    with torch.no_grad():
        made.lm_head.weight.mul_(1.1)
    assert made.lm_head.weight is not made.get_input_embeddings().weight
    return made
