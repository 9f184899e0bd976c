"""The log-probs that are trained against those of the model itself, for families that transform their logits."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from harness.spec.errors import SpecError
from harness.training.batch import Sample, micro_batches
from harness.training.policy import completion_logprobs, logit_divisor

SMALL = {
    "vocab_size": 31,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}, 1.0),
    "granite": (GraniteConfig, GraniteForCausalLM, {"logits_scaling": 6.0}, 6.0),
    "cohere": (CohereConfig, CohereForCausalLM, {"logit_scale": 0.0625}, 16.0),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM, {"final_logit_softcapping": 3.0, "head_dim": 8}, 1.0),
}


def made(family):
    config, model, options, divisor = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = model(config(**SMALL, **options))
        for parameter in built.parameters():
            if parameter.dim() >= 2:
                torch.nn.init.normal_(parameter, std=0.25)
    return built.eval(), divisor


@pytest.mark.parametrize("family", FAMILIES)
def test_the_log_probs_are_the_models_own(family):
    model, divisor = made(family)
    assert logit_divisor(model) == divisor
    sample = Sample((3, 9, 4), (7, 30, 11, 5), (-1.0,) * 4, 1.0, False)
    (batch,) = micro_batches([sample], [0], budget_tokens=100, device=model.device, mode="padded")
    with torch.no_grad():
        found, _ = completion_logprobs(model, batch, temperature=0.7 * divisor, bf16=False)
        logits = model(torch.tensor([[3, 9, 4, 7, 30, 11, 5]])).logits[0, 2:-1] / 0.7
    wanted = logits.log_softmax(-1).gather(-1, torch.tensor([[7], [30], [11], [5]]))[:, 0]
    torch.testing.assert_close(found[0], wanted, rtol=1e-5, atol=1e-5)


def test_a_model_whose_logits_are_something_else_is_refused():
    model, _ = made("qwen2")
    plain = model.forward

    def shifted(*arguments, **options):
        out = plain(*arguments, **options)
        out.logits[..., 3] += 2
        return out

    model.forward = shifted
    with pytest.raises(SpecError, match="Qwen2ForCausalLM"):
        logit_divisor(model)
