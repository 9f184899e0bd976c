"""Autograd around an engine that goes over the vocabulary slab by slab.

N tokens, H hidden, V vocabulary in use, R rows that are computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kernels.autograd import differentiable_once
from kernels.token_logprob.gradients import Upstream, Wanted, live_rows
from kernels.token_logprob.head import IGNORE_INDEX, Lora, TokenLogprob, Transform
from kernels.token_logprob.plan import Head, SlabPlan


@dataclass(frozen=True, kw_only=True)
class ForwardResult:
    """Per active row, fp32."""

    log_sum_exp: Tensor
    logprob: Tensor
    entropy: Tensor | None
    kept: list[Tensor]
    """Scaled product [R, S] of each slab that is kept, from the first on."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """The two passes over the vocabulary."""

    forward: Callable[[Head, Tensor, Tensor | None, bool, int], ForwardResult]
    """(head, targets [N], active rows [R] or None for all, entropy wanted, slabs to keep) → the R rows."""
    backward: Callable[[Head, Upstream, list[Tensor], Wanted], tuple[Tensor | None, ...]]
    """(head, live rows, kept logits, wanted) → gradients of hidden, weight, bias, lora.a, lora.b."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is not a tensor."""

    engine: Engine
    plan: SlabPlan
    transform: Transform
    vocab: int
    lora_scale: float
    entropy: bool
    grad_enabled: bool
    in_place: bool
    """Add the weight's gradient to its `grad`."""


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
        settings: Settings,
    ) -> tuple[Tensor, Tensor | None]:
        head = _head((hidden, weight, bias, lora_a, lora_b), settings)
        wanted = targets != IGNORE_INDEX
        active = None if bool(wanted.all()) else wanted.nonzero()[:, 0]
        keep = settings.plan.kept_slabs if settings.grad_enabled and any(ctx.needs_input_grad) else 0
        result = settings.engine.forward(head, targets, active, settings.entropy, keep)
        ctx.settings, ctx.parameter = settings, weight if settings.in_place else None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            hidden,
            weight,
            bias,
            lora_a,
            lora_b,
            targets,
            active,
            result.log_sum_exp,
            result.entropy,
            *result.kept,
        )

        def spread(value: Tensor) -> Tensor:
            full = torch.zeros(hidden.shape[0], dtype=value.dtype, device=value.device)
            return value.clone() if active is None else full.index_copy_(0, active, value)

        entropy = result.entropy if settings.entropy else None
        return spread(result.logprob), None if entropy is None else spread(entropy)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, d_logprob: Tensor | None, d_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        settings: Settings = ctx.settings
        saved = ctx.saved_tensors  # once: under activation checkpointing each look computes anew
        *tensors, targets, active, log_sum_exp, entropy = saved[:9]
        kept = list(saved[9:])
        if d_logprob is None and d_entropy is None:
            return (None,) * 7
        with torch.autocast(targets.device.type, enabled=False):
            head = _head(tuple(tensors), settings)
            upstream = (d_logprob, d_entropy)
            live = live_rows(targets, active, log_sum_exp, entropy, upstream, settings.transform.temperature)
            parameter: Tensor | None = ctx.parameter
            into = None if parameter is None else parameter.grad
            wanted = replace(Wanted(*ctx.needs_input_grad[:5]), into=into)
            d_hidden, d_weight, *others = settings.engine.backward(head, live, kept, wanted)
            if parameter is not None and into is None:
                parameter.grad, d_weight = d_weight, None
            return (d_hidden, d_weight, *others, None, None)


def _head(tensors: tuple[Tensor | None, ...], settings: Settings) -> Head:
    hidden, weight, bias, a, b = (None if tensor is None else tensor.detach() for tensor in tensors)
    assert hidden is not None
    assert weight is not None
    return Head(
        hidden=hidden,
        weight=weight,
        bias=bias,
        lora=None if a is None or b is None else Lora(a, b, settings.lora_scale),
        vocab=settings.vocab,
        transform=settings.transform,
        plan=settings.plan,
    )


def slabbed_token_logprob(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    engine: Engine,
    plan: SlabPlan,
    bias: Tensor | None = None,
    transform: Transform,
    vocab_size: int,
    lora: Lora | None = None,
    return_entropy: bool = False,
    in_place: bool = False,
) -> TokenLogprob:
    """`token_logprob` by `engine` under `plan`; arguments otherwise as there, already validated."""
    settings = Settings(
        engine=engine,
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
        logprob, entropy = _TokenLogprob.apply(hidden, weight, bias, a, b, targets, settings)
    return TokenLogprob(logprob, entropy)
