"""The time estimate against hand arithmetic for the reference layout, and against published rates of an A40."""

from __future__ import annotations

import dataclasses

import pytest

from harness.matrix.planning.time_model import COMPLETION_SHARE, LONGEST_CAP, TRAINED_SHARE, CostModel, rates
from harness.meters.flops import FlopsModel
from harness.models.known import KNOWN
from tests.harness.matrix.planning.test_memory_model import A40, hardware, open_rs, recipe

QWEN = KNOWN["deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"]
BODY = 1_777_088_000 - 151_936 * 1536
"""Weights in a matrix product: all but the embedding, from which rows are only looked up."""
PEAK = 149.7e12 * 0.35
VLLM = {"engine": "vllm", "prompts_per_step": 12, "completions_per_prompt": 6, "max_completion_tokens": 3584}


def cost(made, **fields):
    return CostModel(made, QWEN, hardware(**{**A40, **fields}))


def update_seconds(model):
    rollout = model.recipe.rollout
    shape = rollout.prompts_per_step, rollout.completions_per_prompt, rollout.max_completion_tokens
    return model.step_seconds - model.generation_seconds(*shape) - model.rates.step_overhead_seconds


def test_three_devices_update_while_one_generates():
    found = cost(open_rs())
    length = found.prompt_tokens + COMPLETION_SHARE * 3584
    forward = 72 * length * (2 * BODY + 4 * 28 * 1536 * (length + 1) / 2)
    # Forward, backward twice that, recomputed once, of what has an advantage; and the reference's forward of all.
    assert update_seconds(found) == pytest.approx((4 * TRAINED_SHARE + 1) * forward / (3 * PEAK))
    alone = cost(open_rs(), devices_per_run=1)
    assert update_seconds(alone) == pytest.approx(3 * update_seconds(found))


def test_an_engine_of_its_own_gains_nothing_from_more_trainers_and_colocated_ones_do():
    own, fewer = cost(open_rs()), cost(open_rs(), devices_per_run=2)
    assert own.generation_seconds(500, 1, 3584) == fewer.generation_seconds(500, 1, 3584)
    beside = recipe(rollout=VLLM)
    four, one = cost(beside), cost(beside, devices_per_run=1)
    assert four.generation_seconds(500, 4, 3584) < 0.5 * one.generation_seconds(500, 4, 3584)


def test_decoding_takes_about_what_was_published_of_an_a40():
    """vLLM with this model: four calls of 18 sequences in 115 to 143 s, 500 questions at 1,628 to 2,106 tokens/s."""
    model = cost(recipe(rollout=VLLM), devices_per_run=1)
    assert 115 / 1.25 < 4 * model.generation_seconds(3, 6, 3584) < 143 * 1.25
    tokens = 500 * COMPLETION_SHARE * LONGEST_CAP
    assert 1628 / 1.25 < tokens / model.generation_seconds(500, 1, 32768) < 2106 * 1.25


def test_a_full_batch_is_refilled_and_the_longest_runs_alone():
    model = cost(recipe(rollout=VLLM), devices_per_run=1)
    one, full, twice = (model.generation_seconds(n, 1, 1024) for n in (1, 256, 512))
    tail = one * (1 - COMPLETION_SHARE)
    assert twice - tail == pytest.approx(2 * (full - tail), rel=0.01)
    # Without refilling, the second half waits for the longest of the first.
    plain = cost(recipe(rollout={"engine": "transformers"}), devices_per_run=1)
    assert plain.generation_seconds(2048, 1, 1024) == pytest.approx(
        2 * plain.generation_seconds(1024, 1, 1024)
    )


def test_a_higher_cap_lengthens_the_tail_alone():
    model = cost(recipe(rollout=VLLM), devices_per_run=1)
    seconds = [model.generation_seconds(30, 1, cap) for cap in (8192, 16384, 32768)]
    step = (seconds[1] - seconds[0]) / 8192
    assert seconds[2] - seconds[1] == pytest.approx(16384 * step)
    fixed = 28 * 5e-5 + 1.5e-4  # launches with CUDA graphs, and the sequence's own
    assert step == pytest.approx(fixed + 2 * BODY / (0.7 * 696e9), rel=0.05)


def test_frozen_weights_have_no_gradient():
    full = cost(recipe(), devices_per_run=1)
    adapted = cost(recipe(model={"name": "tiny", "dtype": "bfloat16", "lora": {"r": 8}}), devices_per_run=1)
    assert update_seconds(adapted) == pytest.approx(update_seconds(full) * 2 / 3)
    assert update_seconds(cost(recipe(training={"inner_epochs": 2}), devices_per_run=1)) == pytest.approx(
        update_seconds(full) * (2 * 3 + 1) / 3
    )


@pytest.mark.parametrize(
    ("packing", "attention", "device", "hidden", "shares"),
    [
        ("auto", "sdpa", "cpu", 576, True),
        ("auto", "sdpa", "cpu", 128, False),
        ("auto", "sdpa", "cuda", 576, False),
        ("packed", "sdpa", "cuda", 576, True),
        ("packed", "flash_attention_2", "cuda", 576, False),
        ("padded", "sdpa", "cpu", 576, False),
    ],
)
def test_prompts_that_are_shared_are_trained_once_a_group(packing, attention, device, hidden, shares):
    made = recipe(
        model={"name": "tiny", "attention": attention},
        prompt={"system": "x" * 1600},
        training={"packing": packing},
        rollout={"prompts_per_step": 4, "completions_per_prompt": 8, "max_completion_tokens": 100},
    )
    model = dataclasses.replace(QWEN, hidden_size=hidden)
    profile = {"device": device, "profile": "a40" if device == "cuda" else "cpu-core"}
    found = CostModel(made, model, hardware(**profile))
    flops = FlopsModel(model.matrix_weights, hidden, model.layers)
    prompt, length = found.prompt_tokens, found.prompt_tokens + COMPLETION_SHARE * 100
    assert prompt > 400
    apart = 4 * 8 * flops.forward([length])
    once = apart - 4 * 7 * flops.forward([prompt])
    seconds = 3 * TRAINED_SHARE * (once if shares else apart) / rates(found.hardware, "float32").train_flops
    assert update_seconds(found) == pytest.approx(seconds)


def test_weights_in_products():
    assert QWEN.matrix_weights == BODY
    assert dataclasses.replace(QWEN, tied=True).matrix_weights == 1_777_088_000
    assert QWEN.cache_values * 2 == 28_672
