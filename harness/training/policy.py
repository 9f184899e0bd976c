"""Log-probs of sampled completions under a model, computed with the fused head (`kernels.token_logprob`)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from harness.spec.errors import SpecError
from harness.training.batch import MicroBatch
from harness.training.packing import packed_attention
from kernels.device_choice import device_type
from kernels.token_logprob import token_logprob


def autocast(device: torch.device, *, bf16: bool) -> AbstractContextManager[object]:
    """torch.autocast to bfloat16 over fp32 weights, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


IN_PLACE_FROM = 1 << 22
"""Number of weights from which the gradient of an embedding or head is accumulated in place. Below it, the extra
tensor costs too little memory to matter."""


class _EmbedInPlace(torch.autograd.Function):
    """Embedding lookup in [V, H] whose backward pass adds to the used rows of `weight.grad` in place.

    torch's own backward pass allocates a dense [V, H] gradient for the few rows that a micro-batch uses.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        ctx.weight, ctx.padding = weight, padding
        ctx.save_for_backward(ids)
        return F.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, None, None]:
        (ids,), weight = ctx.saved_tensors, ctx.weight
        if ctx.padding is not None:
            upstream = upstream.masked_fill((ids == ctx.padding)[..., None], 0)
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad.index_add_(0, ids.flatten(), upstream.flatten(0, -2).to(weight.dtype))
        return None, None, None


def _large_leaf(weight: Tensor) -> bool:
    return (
        weight.is_leaf
        and weight.requires_grad
        and torch.is_grad_enabled()
        and device_type(weight.device) == "cpu"  # untested on a GPU
        and weight.numel() >= IN_PLACE_FROM
    )


def _inputs(model: PreTrainedModel, ids: Tensor) -> dict[str, Tensor]:
    """Model inputs for token ids: embeddings from `_EmbedInPlace` where it applies, else the ids."""
    embedding = model.get_input_embeddings()
    if type(embedding) is not nn.Embedding or embedding.max_norm is not None:
        return {"input_ids": ids}
    if embedding.sparse or embedding.scale_grad_by_freq or not _large_leaf(embedding.weight):
        return {"input_ids": ids}
    return {"inputs_embeds": _EmbedInPlace.apply(embedding.weight, ids, embedding.padding_idx)}


_PROBE_TOKENS = 8


def softcap(model: PreTrainedModel) -> float | None:
    """The bound that the model applies to its logits by tanh, as Gemma 2 does; None where there is none."""
    found: float | None = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return found


@torch.no_grad()
def logit_divisor(model: PreTrainedModel) -> float:
    """The constant by which the model divides the output of its head: 1 for most families, not for Granite or Cohere.

    Every family names it differently in its config, so it is measured on a few tokens: the model's logits against the
    product of hidden states and head, from which `completion_logprobs` computes log-probs.

    Raises:
        SpecError: the logits are not a multiple of that product, so the fused head cannot compute this model.
    """
    size = model.config.get_text_config().vocab_size
    ids = torch.arange(_PROBE_TOKENS, device=model.device)[None] * max(1, size // _PROBE_TOKENS) % size
    was_training = model.training
    model.eval()
    theirs = model(input_ids=ids, use_cache=False).logits
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    ours = model.get_output_embeddings()(hidden).double()
    model.train(was_training)
    if (cap := softcap(model)) is not None:
        ours = cap * torch.tanh(ours / cap)
    tolerance = max(1e-3, 4 * torch.finfo(theirs.dtype).eps)
    theirs = theirs.double()
    factor = float((theirs * ours).sum() / (ours * ours).sum())
    if not factor > 0 or float((theirs - factor * ours).abs().max()) > tolerance * float(theirs.abs().max()):
        raise SpecError(
            f"model: the logits of {type(model).__name__} are not its head's product with the last hidden states",
            hint="the log-probs of such a model cannot be computed by the fused head; take another model",
        )
    return float(f"{1 / factor:.6g}")  # drops the rounding error of the two passes


def completion_logprobs(
    model: PreTrainedModel,
    batch: MicroBatch,
    *,
    temperature: float,
    bf16: bool,
    vocab_size: int | None = None,
    in_place: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probs of the completion tokens and entropies of their distributions, at the given temperature.

    `kernels.token_logprob` computes head, softmax and gather for the completion positions alone, in slabs, so the
    logits of the batch are never materialised.

    Args:
        model: the policy or the reference.
        batch: a micro-batch.
        temperature: divides the output of the head. Give the sampling temperature times `logit_divisor`.
        bf16: compute in bfloat16 over fp32 weights.
        vocab_size: rows of the head that are tokens; those from there on are padding, which is never sampled and
            has no part in the softmax. None for all.
        in_place: whether the backward pass may accumulate large gradients of embedding and head directly in `grad`,
            which saves a tensor of their size per micro-batch. Must be False under FSDP, which reduces gradients
            through autograd.

    Returns:
        fp32 [B, T] each, zero on padding, differentiable in the model's parameters.
    """
    packed = packed_attention(model, batch.layout)
    with autocast(batch.input_ids.device, bf16=bf16), packed as options:
        # Padding is on the right and attention causal, so no completion token attends to padding: no mask needed.
        hidden = model.base_model(
            **(_inputs(model, batch.input_ids) if in_place else {"input_ids": batch.input_ids}),
            position_ids=batch.position_ids,
            use_cache=False,
            **options,
        ).last_hidden_state
    hidden = hidden.flatten(0, 1).index_select(0, batch.predictors)
    head = model.get_output_embeddings()
    out = token_logprob(
        hidden.to(torch.bfloat16) if bf16 else hidden,
        head.weight,
        batch.targets,
        bias=getattr(head, "bias", None),
        temperature=temperature,
        softcap=softcap(model),
        vocab_size=vocab_size,
        return_entropy=True,
        accumulate_in_place=in_place and _large_leaf(head.weight),
    )
    assert out.entropy is not None
    return batch.padded(out.logprob), batch.padded(out.entropy)
