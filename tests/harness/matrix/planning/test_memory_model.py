"""The memory estimate against hand arithmetic for the reference layout, and against what a run measured."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.matrix.planning.hardware import Machine, resolve_hardware
from harness.matrix.planning.memory_model import memory_parts
from harness.spec.hardware import HardwareSpec
from harness.spec.recipe import Recipe

QWEN = SimpleNamespace(
    parameters=1_777_088_000,
    hidden_size=1536,
    layers=28,
    vocabulary=151_936,
    intermediate_size=8960,
    heads=12,
    kv_heads=2,
    head_dim=128,
)
SMOLLM2 = SimpleNamespace(
    parameters=134_515_008,
    hidden_size=576,
    layers=30,
    vocabulary=49_152,
    intermediate_size=1536,
    heads=9,
    kv_heads=3,
    head_dim=64,
)


def recipe(**sections):
    base = {
        "model": {"name": "tiny", "dtype": "bfloat16"},
        "data": {"sources": [{"source": "sums"}]},
        "reward": {"functions": [{"name": "accuracy"}]},
    }
    return Recipe.model_validate({**base, **sections})


def hardware(**fields):
    return resolve_hardware(HardwareSpec.model_validate(fields), Machine(2), planning=True)


def open_rs(**sections):
    return recipe(
        rollout={
            "engine": "vllm",
            "vllm": {"placement": "own", "devices": [3]},
            "prompts_per_step": 12,
            "completions_per_prompt": 6,
            "max_completion_tokens": 3584,
        },
        training={"gradient_checkpointing": True, "microbatch_tokens": 16384},
        objective={"beta": 0.04},
        **sections,
    )


A40 = {"device": "cuda", "profile": "a40", "devices_per_run": 4}


def test_three_a40_that_train_beside_one_that_generates():
    found = memory_parts(open_rs(), QWEN, hardware(**A40), prompt_tokens=300)
    weights = 1.777088 * 1e9 / 2**30
    assert found.parts["weights"] == pytest.approx(4 * weights / 3)
    assert found.parts["optimiser moments"] == pytest.approx(8 * weights / 3)
    assert found.parts["gradients"] == pytest.approx(4 * weights / 3)
    assert found.parts["reference policy"] == pytest.approx(4 * weights / 3)
    assert found.parts["replica for rollouts"] == pytest.approx(4 * weights)
    assert "keys and values" not in found.parts
    assert found.dominant == "replica for rollouts"
    assert "most of it replica for rollouts (6.6 GiB)" in found.words()
    assert found.total_gib < 44.34
    # The logits and their gradient in bf16, of 16,384 tokens: what an unfused head would add.
    assert found.unfused_head_gib == pytest.approx(16384 * 151_936 * 4 / 2**30)


def test_one_device_alone_is_dominated_by_the_moments_and_keeps_no_replica():
    spec = {"device": "cuda", "profile": "a40", "devices_per_run": 1}
    made = recipe(training={"gradient_checkpointing": True, "microbatch_tokens": 4096})
    found = memory_parts(made, QWEN, hardware(**spec), prompt_tokens=300)
    assert found.dominant == "optimiser moments"
    assert "replica for rollouts" not in found.parts
    assert sum(found.parts.values()) == pytest.approx(found.total_gib)


def test_adapters_need_no_reference_and_few_moments():
    lora = open_rs(model={"name": "tiny", "dtype": "bfloat16", "lora": {"r": 16}})
    found = memory_parts(lora, QWEN, hardware(**A40), prompt_tokens=300)
    assert "reference policy" not in found.parts
    # 28 layers, rank 16, and the widths in and out of seven products.
    ends = 2 * (1536 + 1536) + 2 * (1536 + 256) + 3 * (1536 + 8960)
    assert found.parts["optimiser moments"] == pytest.approx(8 * 28 * 16 * ends / 3 / 2**30)


def test_vllm_beside_the_trainer_on_a_cpu_and_the_update_take_turns():
    # results/baselines/versus-trl-fp32.json: 32 completions of at most 64 tokens, 256 tokens a pass: 3.52 GiB.
    def parts(**vllm):
        made = recipe(
            model={"name": "tiny"},
            rollout={
                "engine": "vllm",
                "vllm": {"cache_gib": 0.2, **vllm},
                "prompts_per_step": 4,
                "completions_per_prompt": 8,
                "max_completion_tokens": 64,
            },
            prompt={"max_tokens": 96},
            training={"microbatch_tokens": 256},
        )
        return memory_parts(made, SMOLLM2, hardware(device="cpu"), prompt_tokens=46)

    found, awake = parts(), parts(sleep_level=0)
    assert found.total_gib == pytest.approx(3.52, rel=0.1)
    # Cache and weights are larger than the activations of 256 tokens, which come on top where vLLM stays awake.
    assert found.parts["vLLM"] == pytest.approx(0.2 + 4 * SMOLLM2.parameters / 2**30)
    assert "activations" not in found.parts
    assert awake.total_gib - found.total_gib == pytest.approx(awake.parts["activations"], rel=0.01)


def test_the_estimate_is_near_what_a_committed_study_measured():
    # results/studies/smollm2-cpu: 24 completions of at most 20 tokens, fp32, 1024 tokens a pass: 4.96 GiB resident.
    made = recipe(
        model={"name": "tiny"},
        rollout={"prompts_per_step": 4, "completions_per_prompt": 6, "max_completion_tokens": 20},
        prompt={"max_tokens": 96},
        training={"microbatch_tokens": 1024},
    )
    found = memory_parts(made, SMOLLM2, hardware(device="cpu"), prompt_tokens=60)
    assert found.total_gib == pytest.approx(4.96, rel=0.25)
