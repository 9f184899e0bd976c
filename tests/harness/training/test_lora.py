"""Adapters: their gradient by hand, the base model as reference, merging, and checkpoints that hold nothing else."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.data.mix import build_mix
from harness.meters.clock import PhaseClock
from harness.models.catalog import resolve_model
from harness.models.loading import load_model
from harness.models.lora import add_adapters, has_adapters, merged_weights, without_adapters
from harness.rewards.composite import CompositeReward
from harness.rollout.engine import Request, Sampling
from harness.rollout.transformers_engine import TransformersEngine
from harness.spec.errors import SpecError
from harness.spec.recipe import LoraSpec, OptimizerSpec, Recipe
from harness.training.batch import Sample
from harness.training.checkpoints import Checkpoints
from harness.training.optimizer import build_optimizer
from harness.training.trainer import Trainer
from harness.training.update import Updater

SPEC = LoraSpec(r=3, alpha=6.0, targets=("q_proj", "down_proj"))


def make_recipe(**sections):
    base = {
        "model": {"name": "tiny"},
        "data": {"size": 60, "sources": [{"source": "sums", "terms": [2, 3]}]},
        "reward": {"functions": [{"name": "cosine"}]},
        "rollout": {"prompts_per_step": 3, "completions_per_prompt": 4, "max_completion_tokens": 16},
        "optimizer": {"learning_rate": 1e-2, "max_grad_norm": None},
    }
    return Recipe.model_validate({**base, **{k: {**base.get(k, {}), **v} for k, v in sections.items()}})


def disturb(model, seed=3, scale=0.1):
    """Gives the second factors values, as training does: at zero, the first factors have no gradient."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def make_samples():
    generator = torch.Generator().manual_seed(2)
    samples = []
    for prompt, count, advantage in ((4, 5, 1.0), (4, 3, -0.7), (6, 4, 0.4)):
        ids = torch.randint(1, 31, (prompt + count,), generator=generator).tolist()
        samples.append(Sample(tuple(ids[:prompt]), tuple(ids[prompt:]), (0.0,) * count, advantage, False))
    return samples


class Recorder(torch.optim.SGD):
    """Keeps gradients by name instead of following them."""

    def __init__(self, model):
        super().__init__([p for p in model.parameters() if p.requires_grad], lr=0.0)
        self.model, self.gradients = model, {}

    def step(self, closure=None):
        self.gradients = {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}


def gradients(model, recipe, reference=None):
    optimizer = Recorder(model)
    result = Updater(model, reference, optimizer, recipe, PhaseClock()).update(make_samples())
    return optimizer.gradients, result


@pytest.mark.parametrize("packing", ["padded", "packed"])
def test_the_gradient_is_the_chain_rule_through_the_full_one(random_model, packing):
    adapted = copy.deepcopy(random_model)
    add_adapters(adapted, SPEC, seed=1)
    disturb(adapted)
    merged = copy.deepcopy(random_model)
    merged.load_state_dict(dict(merged_weights(adapted)))
    recipe = make_recipe(training={"packing": packing})
    full, _ = gradients(merged, recipe)
    found, _ = gradients(adapted, recipe)
    assert found
    assert all("lora_" in name for name in found)
    factors = dict(adapted.named_parameters())
    scale = SPEC.alpha / SPEC.r
    for name, gradient in found.items():
        layer, _, factor = name.partition(".lora_")
        whole = full[f"{layer}.weight"]
        a, b = factors[f"{layer}.lora_A.default.weight"], factors[f"{layer}.lora_B.default.weight"]
        # W = W₀ + s·B·A: dL/dA = s·Bᵀ·dL/dW and dL/dB = s·dL/dW·Aᵀ.
        expected = scale * (b.T @ whole if factor.startswith("A") else whole @ a.T)
        expected = expected.detach()
        size = float(expected.abs().max())
        assert size > 1e-4
        torch.testing.assert_close(gradient, expected, rtol=0, atol=2e-5 * max(1.0, size))


def test_the_reference_is_the_model_without_its_adapters(random_model):
    adapted = copy.deepcopy(random_model)
    add_adapters(adapted, SPEC, seed=1)
    disturb(adapted)
    recipe = make_recipe(objective={"loss": "grpo", "beta": 0.2})
    found, result = gradients(adapted, recipe)
    explicit, other = gradients(copy.deepcopy(adapted), recipe, reference=random_model)
    assert result.metrics["kl"] > 1e-3
    assert result.metrics["kl"] == pytest.approx(other.metrics["kl"], rel=1e-5)
    for name in found:
        torch.testing.assert_close(found[name], explicit[name], rtol=1e-5, atol=1e-6)
    ids = torch.arange(1, 9)[None]
    with torch.no_grad(), without_adapters(adapted):
        assert torch.equal(adapted(ids).logits, random_model(ids).logits)
    with torch.no_grad():
        assert not torch.allclose(adapted(ids).logits, random_model(ids).logits)


def test_new_adapters_change_nothing_and_depend_on_the_seed_alone(random_model):
    one, other, third = (copy.deepcopy(random_model) for _ in range(3))
    before = torch.random.get_rng_state()
    add_adapters(one, SPEC, seed=1)
    torch.manual_seed(99)
    add_adapters(other, SPEC, seed=1)
    add_adapters(third, SPEC, seed=2)
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        assert torch.equal(one(ids).logits, random_model(ids).logits)
    first, second, last = (m.state_dict() for m in (one, other, third))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert any(not torch.equal(first[k], last[k]) for k in first)
    torch.random.set_rng_state(before)
    trainable = sum(p.numel() for p in one.parameters() if p.requires_grad)
    # Two layers: q_proj 32 → 32 and down_proj 48 → 32, each with factors of rank 3.
    assert trainable == 2 * 3 * ((32 + 32) + (48 + 32))


def test_merged_weights_compute_the_same_and_are_all_there(random_model):
    adapted = copy.deepcopy(random_model)
    add_adapters(adapted, SPEC, seed=1)
    disturb(adapted)
    plain = copy.deepcopy(random_model)
    weights = dict(merged_weights(adapted))
    assert set(weights) == set(plain.state_dict())
    plain.load_state_dict(weights)
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, adapted(ids).logits, rtol=1e-5, atol=1e-4)
    assert set(dict(merged_weights(random_model))) == set(random_model.state_dict())


def test_an_engine_with_a_copy_samples_from_the_merged_weights(random_model):
    engine = TransformersEngine(random_model, end_ids=[0], pad_id=0, bf16=True)
    requests = [Request((1, 2, 3), seed) for seed in range(4)]
    before = engine.generate(requests, Sampling(6))
    add_adapters(random_model, SPEC, seed=1)
    engine.update_weights()
    assert engine.generate(requests, Sampling(6)) == before
    disturb(random_model, scale=2.0)
    engine.update_weights()
    assert engine.generate(requests, Sampling(6)) != before


def test_what_cannot_be_adapted_is_told(random_model):
    with pytest.raises(SpecError, match="no linear layer 'wq'"):
        add_adapters(random_model, LoraSpec(targets=("q_proj", "wq")), seed=0)
    assert not has_adapters(random_model)
    with pytest.raises(ValueError, match="layers of the body"):
        LoraSpec(targets=("q_proj", "lm_head"))


def trainer(recipe, rewards):
    loaded = load_model(resolve_model(recipe.model), recipe.model)
    engine = TransformersEngine(
        loaded.model, end_ids=loaded.special.end_ids, pad_id=loaded.tokenizer.pad_token_id
    )
    return Trainer(
        recipe, 0, loaded, engine, rewards, build_mix(recipe.data).problems, peak_flops=1e11
    ), loaded


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_a_run_learns_resumes_bit_for_bit_and_stores_its_adapters_alone(tmp_path):
    lora = {"r": 4, "alpha": 8.0}
    recipe = make_recipe(model={"lora": lora}, objective={"loss": "grpo", "beta": 0.05})
    checkpoints = Checkpoints(tmp_path / "c")
    with CompositeReward(recipe.reward) as rewards:
        first, loaded = trainer(recipe, rewards)
        frozen = {k: v.clone() for k, v in loaded.model.state_dict().items() if "lora_" not in k}
        records = [first.train_step()]
        first.save(checkpoints)
        records.append(first.train_step())
        second, resumed = trainer(recipe, rewards)
        second.restore(checkpoints, 1)
        again = second.train_step()
        assert records[0].objective["kl"] == pytest.approx(0.0, abs=1e-6)
        assert records[1].objective["kl"] > 1e-6
        for part in ("objective", "reward", "completion", "tokens"):
            assert getattr(again, part) == getattr(records[1], part)
        one, other = loaded.model.state_dict(), resumed.model.state_dict()
        assert all(torch.equal(one[k], other[k]) for k in one)
        assert all(torch.equal(one[k], frozen[k]) for k in frozen)
        second.reset(loaded.model)
        assert second.train_step().objective == records[0].objective
    folder = checkpoints.path(1)
    held = load_file(folder / "adapter_model.safetensors")
    assert not (folder / "model.safetensors").exists()
    assert sum(t.numel() for t in held.values()) == sum(v.numel() for k, v in one.items() if "lora_" in k)
    moments = load_file(folder / "optimizer.safetensors")
    assert all("lora_" in name for name in moments)
    AutoTokenizer.from_pretrained(folder)


def test_peft_itself_loads_the_checkpoint(random_model, tmp_path):
    from peft import PeftModel

    base = copy.deepcopy(random_model)
    add_adapters(random_model, SPEC, seed=1)
    disturb(random_model)
    optimizer = build_optimizer(random_model, OptimizerSpec())

    class NoTokenizer:
        def save_pretrained(self, folder):
            (folder / "tokenizer.json").write_text("{}")

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, random_model, NoTokenizer(), optimizer)
    base.save_pretrained(tmp_path / "base")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = PeftModel.from_pretrained(plain, checkpoints.path(1)).eval()
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, random_model(ids).logits, rtol=1e-6, atol=1e-6)
