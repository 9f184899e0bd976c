"""The memory of a simulated step: against what torch's allocator counts, against arithmetic, and by phase."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

from harness.meters.clock import PhaseClock
from harness.models.catalog import ModelSource
from harness.simulation.step import equal_samples, model_config, simulate_step
from harness.spec.recipe import Recipe
from harness.training.optimizer import build_optimizer
from harness.training.update import Updater

H, LAYERS, VOCABULARY, INNER = 64, 4, 512, 176
SOURCE = ModelSource(
    name="random", kind="hub", path=None, fingerprint="", model_type="qwen2", context_tokens=4096,
    hidden_size=H, layers=LAYERS, vocabulary=VOCABULARY, intermediate_size=INNER, heads=4, kv_heads=2, head_dim=16,
    tied=True, parameters=1,
)  # fmt: skip
WEIGHTS = VOCABULARY * H + LAYERS * (2 * H * H + 2 * H * 32 + H + 2 * 32 + 3 * H * INNER + 2 * H) + H
"""Embedding, layers (queries, output, keys and values with biases, feed-forward, norms), last norm."""


def recipe(**sections):
    base = {
        "model": {"name": "random"},
        "data": {"sources": [{"source": "sums"}]},
        "reward": {"functions": [{"name": "accuracy"}]},
        "prompt": {"max_tokens": 16},
        "rollout": {"prompts_per_step": 4, "completions_per_prompt": 4, "max_completion_tokens": 48},
        "training": {"steps": 1, "microbatch_tokens": 256, "packing": "padded"},
    }
    return Recipe.model_validate(
        {k: {**base.get(k, {}), **sections.get(k, {})} for k in {**base, **sections}}
    )


def allocated(made, samples):
    """The peak of bytes that torch's CPU allocator gave out for the same two steps, by its own events."""
    with (
        warnings.catch_warnings(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler,
    ):
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(model_config(SOURCE, made), dtype=torch.float32).eval()
        updater = Updater(model, None, build_optimizer(model, made.optimizer), made, PhaseClock())
        updater.update(equal_samples(1, 1, 3, made))
        updater.update(samples)
    now = most = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_cpu_step_allocates_what_is_predicted(checkpointing):
    made = recipe(training={"gradient_checkpointing": checkpointing})
    simulated = simulate_step(made, SOURCE, on_gpu=False)
    assert (simulated.tokens, simulated.sequences, simulated.microbatches) == (64, 4, 2)
    assert simulated.peak.bytes == pytest.approx(allocated(made, equal_samples(8, 16, 64, made)), rel=0.005)


def test_weights_gradients_and_moments_are_counted_once():
    held = simulate_step(recipe(), SOURCE, on_gpu=True).phases["optimizer"].by_label
    assert held["weights"] == pytest.approx(4 * WEIGHTS, rel=0.02)
    assert held["gradients"] == pytest.approx(4 * WEIGHTS, rel=0.02)
    assert held["optimiser moments"] == pytest.approx(8 * WEIGHTS, rel=0.05)


def test_a_reference_is_another_set_of_weights_and_a_pass_without_gradient():
    made = recipe(objective={"beta": 0.1})
    simulated = simulate_step(made, SOURCE, on_gpu=True)
    held = simulated.peak.by_label
    assert held["reference policy"] == held["weights"]
    assert simulated.operations["logprob"] > 0


def test_adapters_alone_have_gradients_and_moments():
    rank = 4
    adapters = LAYERS * rank * ((H + H) + 2 * (H + 32) + (H + H) + 3 * (H + INNER))
    held = (
        simulate_step(recipe(model={"lora": {"r": rank}}), SOURCE, on_gpu=True).phases["optimizer"].by_label
    )
    assert held["gradients"] == pytest.approx(4 * adapters, rel=0.1)
    assert held["optimiser moments"] == pytest.approx(8 * adapters, rel=0.35), "many are rounded up"


def test_ranks_share_what_is_sharded_and_each_has_a_replica():
    held = simulate_step(recipe(), SOURCE, on_gpu=True, ranks=2).phases["optimizer"].by_label
    assert held["replica for rollouts"] == pytest.approx(4 * WEIGHTS, rel=0.02)
    assert held["weights"] == pytest.approx(2 * WEIGHTS, rel=0.05)
    assert held["optimiser moments"] == pytest.approx(4 * WEIGHTS, rel=0.1)


def test_eight_bit_moments_take_a_byte_each_and_their_scales():
    made = recipe(optimizer={"name": "adamw_8bit"})
    sizes = [p.numel() for p in AutoModelForCausalLM.from_config(model_config(SOURCE, made)).parameters()]
    held = simulate_step(made, SOURCE, on_gpu=False).phases["optimizer"].by_label
    # Small tensors keep theirs in float32.
    assert held["optimiser moments"] == sum(2 * (n + 4 * (n // 256)) if n >= 4096 else 8 * n for n in sizes)


def test_bfloat16_keeps_a_copy_of_the_weights_that_products_use():
    held = simulate_step(recipe(model={"dtype": "bfloat16"}), SOURCE, on_gpu=True).peak.by_label
    assert held["weights in bfloat16"] >= 2 * LAYERS * 3 * H * INNER


def test_how_often_the_host_waits_for_the_device_in_a_step():
    """As it is today: four a micro-batch, one for the gradient's norm, and those of the step's metrics."""
    simulated = simulate_step(recipe(), SOURCE, on_gpu=True)
    assert simulated.waits["update"] == 4 * simulated.microbatches
    assert simulated.waits["optimizer"] == 1
