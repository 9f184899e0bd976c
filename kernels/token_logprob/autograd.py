"""The autograd function around a backend that goes over the vocabulary slab by slab.

N tokens, H hidden, V vocabulary in use, R rows that are computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kernels.autograd import differentiable_once
from kernels.token_logprob.gradients import BackwardRows, NeedsGrad, rows_with_gradient
from kernels.token_logprob.head import Head
from kernels.token_logprob.plan import SlabPlan
from kernels.token_logprob.types import IGNORE_INDEX, Lora, TokenLogprob, Transform


@dataclass(frozen=True, kw_only=True)
class ForwardResult:
    """Of the R rows whose target is not ignored: each [R] fp32 (fp64 for fp64)."""

    log_sum_exp: Tensor
    logprob: Tensor
    entropy: Tensor | None
    """None unless asked for."""
    kept: list[Tensor]
    """alpha · (hidden · weightᵀ + bias) [R, S] of the first slabs, in the dtype of hidden."""


@dataclass(frozen=True, kw_only=True)
class SlabBackend:
    """The two passes over the vocabulary, in torch or in Triton."""

    forward: Callable[[Head, Tensor, Tensor | None, bool, int], ForwardResult]
    """(head, targets [N], rows to compute [R] or None for all, entropy asked for, slabs to keep) → the R rows."""
    backward: Callable[[Head, BackwardRows, list[Tensor], NeedsGrad], tuple[Tensor | None, ...]]
    """(head, rows with a gradient, kept logits, needed) → gradients of hidden, weight, bias, lora.a, lora.b."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments of the autograd function that are not tensors."""

    backend: SlabBackend
    plan: SlabPlan
    transform: Transform
    vocab: int
    lora_scale: float
    entropy: bool
    grad_enabled: bool
    in_place: bool
    """Add the weight's gradient to `weight.grad` instead of returning it."""


class _TokenLogprob(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        lora_a: Tensor | None,
        lora_b: Tensor | None,
        targets: Tensor,
        options: Options,
    ) -> tuple[Tensor, Tensor | None]:
        head = _head((hidden, weight, bias, lora_a, lora_b), options)
        is_valid = targets != IGNORE_INDEX
        valid = None if bool(is_valid.all()) else is_valid.nonzero()[:, 0]
        keep = options.plan.kept_slabs if options.grad_enabled and any(ctx.needs_input_grad) else 0
        result = options.backend.forward(head, targets, valid, options.entropy, keep)
        ctx.options, ctx.parameter = options, weight if options.in_place else None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            hidden,
            weight,
            bias,
            lora_a,
            lora_b,
            targets,
            valid,
            result.log_sum_exp,
            result.entropy,
            *result.kept,
        )

        def all_rows(value: Tensor) -> Tensor:
            if valid is None:
                return value.clone()
            return value.new_zeros(hidden.shape[0]).index_copy_(0, valid, value)

        entropy = result.entropy if options.entropy else None
        return all_rows(result.logprob), None if entropy is None else all_rows(entropy)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, d_logprob: Tensor | None, d_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        options: Options = ctx.options
        saved = ctx.saved_tensors  # read once: under activation checkpointing each access recomputes them
        *tensors, targets, valid, log_sum_exp, entropy = saved[:9]
        kept = list(saved[9:])
        if d_logprob is None and d_entropy is None:
            return (None,) * 7
        with torch.autocast(targets.device.type, enabled=False):
            head = _head(tuple(tensors), options)
            upstream, temperature = (d_logprob, d_entropy), options.transform.temperature
            rows = rows_with_gradient(targets, valid, log_sum_exp, entropy, upstream, temperature)
            parameter: Tensor | None = ctx.parameter
            weight_grad = None if parameter is None else parameter.grad
            needs = replace(NeedsGrad(*ctx.needs_input_grad[:5]), weight_grad=weight_grad)
            d_hidden, d_weight, *others = options.backend.backward(head, rows, kept, needs)
            if parameter is not None and weight_grad is None:
                parameter.grad, d_weight = d_weight, None
            return (d_hidden, d_weight, *others, None, None)


def _head(tensors: tuple[Tensor | None, ...], options: Options) -> Head:
    hidden, weight, bias, a, b = (None if tensor is None else tensor.detach() for tensor in tensors)
    assert hidden is not None
    assert weight is not None
    return Head(
        hidden=hidden,
        weight=weight,
        bias=bias,
        lora=None if a is None or b is None else Lora(a, b, options.lora_scale),
        vocab=options.vocab,
        transform=options.transform,
        plan=options.plan,
    )


def slabbed_token_logprob(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    backend: SlabBackend,
    plan: SlabPlan,
    bias: Tensor | None = None,
    transform: Transform,
    vocab_size: int,
    lora: Lora | None = None,
    return_entropy: bool = False,
    in_place: bool = False,
) -> TokenLogprob:
    """`token_logprob` by `backend` under `plan`; the other arguments as there, already validated."""
    options = Options(
        backend=backend,
        plan=plan,
        transform=transform,
        vocab=vocab_size,
        lora_scale=1.0 if lora is None else float(lora.scale),
        entropy=return_entropy,
        grad_enabled=torch.is_grad_enabled(),
        in_place=in_place,
    )
    a, b = (None, None) if lora is None else (lora.a, lora.b)
    with torch.autocast(hidden.device.type, enabled=False):
        logprob, entropy = _TokenLogprob.apply(hidden, weight, bias, a, b, targets, options)
    return TokenLogprob(logprob, entropy)
