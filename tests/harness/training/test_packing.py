"""Packed sequences: the same gradient as padded ones, with nothing but their own tokens in the model."""

import copy
from dataclasses import replace

import pytest
import torch

from harness.meters.clock import PhaseClock
from harness.spec.recipe import Recipe
from harness.training.batch import Sample, micro_batches
from harness.training.packing import SharedPrompts, choose_packing
from harness.training.update import Updater
from kernels.grpo_loss.objective import VARIANTS

CPU = torch.device("cpu")


def make_recipe(packing, **sections):
    base = {
        "model": {"name": "tiny"},
        "data": {"sources": [{"source": "sums"}]},
        "reward": {"functions": [{"name": "accuracy"}]},
        "rollout": {"max_completion_tokens": 9, "temperature": 0.8},
        "optimizer": {"max_grad_norm": None},
        "training": {"packing": packing},
    }
    return Recipe.model_validate({**base, **{k: {**base.get(k, {}), **v} for k, v in sections.items()}})


def make_samples():
    """Three groups: of mixed lengths with completions of one token, of zero advantage, and of one completion."""
    generator = torch.Generator().manual_seed(6)

    def draw(count):
        return tuple(torch.randint(1, 31, (count,), generator=generator).tolist())

    groups = [
        (5, [(7, 1.0), (1, -0.5), (9, 0.3), (2, -0.8)]),
        (2, [(4, 0.0), (3, 0.0)]),
        (8, [(1, 0.9)]),
        (3, [(6, -1.1), (6, 1.1)]),
    ]
    samples = []
    for prompt_tokens, completions in groups:
        prompt = draw(prompt_tokens)
        for tokens, advantage in completions:
            logprobs = tuple((-3 * torch.rand(tokens, generator=generator)).tolist())
            samples.append(Sample(prompt, draw(tokens), logprobs, advantage, tokens == 9))
    return samples


class Recorder(torch.optim.SGD):
    """Follows the gradient a little, so that later updates are off-policy, and keeps it."""

    def __init__(self, model):
        super().__init__(model.parameters(), lr=1e-3)
        self.model, self.gradients = model, []

    def step(self, closure=None):
        grads = [p.grad.flatten() for p in self.model.parameters() if p.grad is not None]
        self.gradients.append(torch.cat(grads).clone())
        super().step()


def gradients_of(model, reference, recipe):
    model = copy.deepcopy(model)
    optimizer = Recorder(model)
    result = Updater(model, reference, optimizer, recipe, PhaseClock()).update(make_samples())
    return result, optimizer.gradients


OBJECTIVES = [
    *({"loss": n} for n in VARIANTS),
    {"loss": "grpo", "beta": 0.3},
    {"loss": "dapo", "mask_truncated": True, "entropy_bonus": 0.01},
    {"loss": "dapo", "top_entropy_quantile": 0.4},
    {"loss": "grpo", "importance": "sequence_mask", "importance_cap": 1.0},
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: "-".join(map(str, o.values())))
def test_packed_is_padded_in_double_precision(random_model, objective):
    model = random_model.double()
    reference = None
    if objective.get("beta"):
        reference = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in reference.parameters():
                parameter.mul_(1.05)
    loop = {"minibatches": 2, "inner_epochs": 2}
    sections = {"objective": objective}
    padded = gradients_of(
        model, reference, make_recipe("padded", **sections, training={**loop, "packing": "padded"})
    )
    assert len(padded[1]) == 4
    assert padded[1][0].abs().max() > 1e-3
    for budget in (1000, 20, 1):
        training = {**loop, "packing": "packed", "microbatch_tokens": budget}
        packed = gradients_of(model, reference, make_recipe("packed", **sections, training=training))
        errors = []
        for one, other in zip(packed[1], padded[1], strict=True):
            errors.append(float((one - other).norm() / other.norm()))
        # transformers' norms, and old log-probs, are fp32 whatever the weights; updates carry that on.
        assert errors[0] < 2e-6, errors
        assert max(errors) < 1e-4, errors
        assert packed[0].metrics["loss"] == pytest.approx(padded[0].metrics["loss"], abs=1e-6)
        # Of fp32 log-probs, whose kernels round differently from processor to processor: they differed by 1.02e-6
        # without AVX, where this bound had been 1e-6.
        assert packed[0].metrics["ratio_max"] == pytest.approx(padded[0].metrics["ratio_max"], rel=1e-5)


def test_single_precision_differs_by_its_own_rounding(random_model):
    exact = gradients_of(copy.deepcopy(random_model).double(), None, make_recipe("padded"))[1][0]
    errors = {}
    for packing in ("padded", "packed"):
        found = gradients_of(random_model, None, make_recipe(packing))[1][0]
        errors[packing] = float((found.double() - exact).norm() / exact.norm())
    assert errors["packed"] < 2 * errors["padded"] + 1e-7


@pytest.mark.parametrize("attention", ["float32", "bfloat16"])
def test_bf16_under_autocast_and_checkpointing_stay_close(random_model, attention):
    sections = {"model": {"dtype": attention}}
    truth = gradients_of(random_model, None, make_recipe("padded", **sections))[1][0]
    checkpointed = {"packing": "packed", "gradient_checkpointing": True}
    found = gradients_of(random_model, None, make_recipe("packed", **sections, training=checkpointed))[1][0]
    tolerance = 1e-5 if attention == "float32" else 0.05
    assert float((found - truth).norm() / truth.norm()) < tolerance


def test_only_the_tokens_that_matter_go_through_the_model(random_model):
    seen = []
    random_model.get_input_embeddings().register_forward_hook(lambda m, a, out: seen.append(a[0].numel()))
    model, recipe = random_model, make_recipe("packed")
    result = Updater(model, None, Recorder(model), recipe, PhaseClock()).update(make_samples())
    # Groups of 5, 8 and 3 prompt tokens; of each completion all but its last token.
    assert seen == [5 + (6 + 0 + 8 + 1) + 8 + 0 + 3 + (5 + 5)]
    assert result.trained == [0, 1, 2, 3, 6, 7, 8]


@pytest.mark.parametrize("budget", [1000, 14, 9, 1])
@pytest.mark.parametrize("mode", ["shared", "varlen"])
def test_packed_rows_hold_every_completion_once_within_the_budget(budget, mode):
    samples = make_samples()
    batches = micro_batches(samples, range(9), budget_tokens=budget, device=CPU, mode=mode)
    assert sorted(row for b in batches for row in b.rows) == list(range(9))
    for batch in batches:
        assert batch.input_ids.shape == batch.position_ids.shape
        assert batch.input_ids.numel() <= budget or len(batch.rows) == 1
        assert batch.targets.tolist() == [t for row in batch.rows for t in samples[row].completion_ids]
        ids, positions = batch.input_ids[0].tolist(), batch.position_ids[0].tolist()
        at = 0
        for row in batch.rows:
            sample = samples[row]
            whole = sample.prompt_ids + sample.completion_ids
            for offset in range(len(sample.completion_ids)):
                here = batch.predictors[at].item()
                assert ids[here] == whole[len(sample.prompt_ids) + offset - 1]
                assert positions[here] == len(sample.prompt_ids) + offset - 1
                at += 1
        assert at == len(batch.predictors)


def test_a_group_that_does_not_fit_repeats_its_prompt_and_nothing_else():
    samples = [replace(s) for s in make_samples()[:4]]
    batches = micro_batches(samples, range(4), budget_tokens=14, device=CPU, mode="shared")
    assert [b.rows for b in batches] == [(0, 1), (2, 3)]
    assert [b.input_ids.numel() for b in batches] == [5 + 6, 5 + 8 + 1]


def test_masks_are_lower_right_triangles():
    layout = batches_layout()
    like = torch.zeros(1)
    mask = layout.mask(2, 3, like)
    expected = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]).bool()
    assert torch.equal(torch.isinf(mask), expected)


def batches_layout():
    layout = micro_batches(make_samples(), range(9), budget_tokens=1000, device=CPU, mode="shared")[0].layout
    assert isinstance(layout, SharedPrompts)
    return layout


def test_auto_packs_wide_models_alone_and_a_sliding_window_is_refused(random_model):
    assert choose_packing(random_model, "auto") == "padded"
    assert choose_packing(random_model, "packed") == "shared"
    random_model.config.hidden_size = 576
    assert choose_packing(random_model, "auto") == "shared"
    random_model.config.layer_types = ["full_attention", "sliding_attention"]
    assert choose_packing(random_model, "auto") == "padded"
    with pytest.raises(ValueError, match="sliding window"):
        choose_packing(random_model, "packed")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_varlen_is_padded_on_a_gpu(random_model):
    pytest.importorskip("flash_attn")
    model = random_model.to("cuda")
    sections = {"model": {"dtype": "bfloat16"}}
    truth = gradients_of(model, None, make_recipe("padded", **sections))[1][0]
    model.set_attn_implementation("flash_attention_2")
    assert choose_packing(model, "auto") == "varlen"
    found = gradients_of(model, None, make_recipe("packed", **sections))[1][0]
    assert float((found - truth).norm() / truth.norm()) < 0.05
