"""Log-probs of sampled completions under a model, through the fused head."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.training.batch import MicroBatch
from harness.training.packing import packed_attention
from kernels.token_logprob import token_logprob


def precision(device: torch.device, *, bf16: bool) -> AbstractContextManager[object]:
    """bf16 computation over fp32 weights, or plain fp32."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


def completion_logprobs(
    model: PreTrainedModel, batch: MicroBatch, *, temperature: float, bf16: bool
) -> tuple[Tensor, Tensor]:
    """Log-probs of the completion tokens and entropies of their distributions, at the given temperature.

    The head's product, softmax and gather happen in `kernels.token_logprob` on the completion positions alone;
    the logits of the batch never exist at once.

    Returns:
        fp32 [B, T] each, zero on padding, differentiable in the model's parameters.
    """
    packed = packed_attention(model, batch.layout)
    with precision(batch.input_ids.device, bf16=bf16), packed as options:
        # Right padding under a causal mask: no completion token sees it, so no attention mask is needed.
        hidden = model.base_model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **options
        ).last_hidden_state
    hidden = hidden.flatten(0, 1).index_select(0, batch.predictors)
    head = model.get_output_embeddings()
    out = token_logprob(
        hidden.to(torch.bfloat16) if bf16 else hidden,
        head.weight,
        batch.targets,
        bias=getattr(head, "bias", None),
        temperature=temperature,
        softcap=getattr(model.config.get_text_config(), "final_logit_softcapping", None),
        return_entropy=True,
    )
    assert out.entropy is not None
    return batch.padded(out.logprob), batch.padded(out.entropy)
