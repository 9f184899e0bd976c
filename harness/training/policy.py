"""Log-probs of sampled completions under a model, through the fused head."""

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
from kernels.token_logprob import token_logprob


def precision(device: torch.device, *, bf16: bool) -> AbstractContextManager[object]:
    """bf16 computation over fp32 weights, or plain fp32."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


IN_PLACE_FROM = 1 << 22
"""Weights of an embedding or head from which its gradient is added in place. Below, a tensor more is no matter."""


class _EmbedInPlace(torch.autograd.Function):
    """Rows of an embedding [V, H] whose gradient is added to `weight.grad` row by row.

    torch's own backward makes a gradient of the whole embedding for the few rows of a micro-batch.
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
        and weight.device.type == "cpu"  # not tried on a GPU
        and weight.numel() >= IN_PLACE_FROM
    )


def _inputs(model: PreTrainedModel, ids: Tensor) -> dict[str, Tensor]:
    """The tokens, or their embedding where its gradient is large and torch's plain module makes it."""
    embedding = model.get_input_embeddings()
    if type(embedding) is not nn.Embedding or embedding.max_norm is not None:
        return {"input_ids": ids}
    if embedding.sparse or embedding.scale_grad_by_freq or not _large_leaf(embedding.weight):
        return {"input_ids": ids}
    return {"inputs_embeds": _EmbedInPlace.apply(embedding.weight, ids, embedding.padding_idx)}


_PROBE_TOKENS = 8


def softcap(model: PreTrainedModel) -> float | None:
    """The bound of the model's logits, as Gemma 2 has one."""
    found: float | None = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return found


@torch.no_grad()
def logit_divisor(model: PreTrainedModel) -> float:
    """What the model divides its head's output by: 1 for most, other for Granite, Cohere and their like.

    It goes by a different name in every family, so it is measured: the model's logits of a few tokens against the
    product of hidden states and head, of which `completion_logprobs` makes its log-probs.

    Raises:
        SpecError: the model's logits are no multiple of that product, so that it cannot be trained here.
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
    return float(f"{1 / factor:.6g}")  # without the rounding of the two passes


def completion_logprobs(
    model: PreTrainedModel, batch: MicroBatch, *, temperature: float, bf16: bool, in_place: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probs of the completion tokens and entropies of their distributions, at the given temperature.

    The head's product, softmax and gather happen in `kernels.token_logprob` on the completion positions alone;
    the logits of the batch never exist at once.

    Args:
        model: the policy or the reference.
        batch: a micro-batch.
        temperature: divides the logits, those of the head alone (see `logit_divisor`).
        bf16: compute in bfloat16 over fp32 weights.
        in_place: the backward pass may add large gradients of embedding and head to `grad` itself, which spares
            tensors of their size per micro-batch; not where something gathers gradients, as FSDP does.

    Returns:
        fp32 [B, T] each, zero on padding, differentiable in the model's parameters.
    """
    packed = packed_attention(model, batch.layout)
    with precision(batch.input_ids.device, bf16=bf16), packed as options:
        # Right padding under a causal mask: no completion token sees it, so no attention mask is needed.
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
        return_entropy=True,
        accumulate_in_place=in_place and _large_leaf(head.weight),
    )
    assert out.entropy is not None
    return batch.padded(out.logprob), batch.padded(out.entropy)
