"""The autograd function around the fused GRPO loss kernel.

Shapes: B sequences, T positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.autograd import differentiable_once

from .launch import launch_kernel
from .objective import Objective
from .reference import Inputs
from .statistics import ROW_SUMS, Partials, reduce_rows

LOSS_COLUMN = ROW_SUMS.index("loss")


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logprob: Tensor, x: Inputs, objective: Objective, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        x = x._replace(logprob=logprob)
        grad, sums = launch_kernel(x, objective, weights, with_grad=ctx.needs_input_grad[0])
        ctx.save_for_backward(grad)
        ctx.dtype = logprob.dtype
        ctx.mark_non_differentiable(sums)
        return sums[:, LOSS_COLUMN].sum(dtype=torch.float64).to(torch.float32), sums

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return (grad * upstream).to(ctx.dtype), None, None, None


def fused_loss(
    x: Inputs, objective: Objective, weights: Tensor, entropy_weight: Tensor
) -> tuple[Tensor, Partials]:
    """Loss (scalar fp32) and partials; inputs raw, since the kernel reads no padding.

    `objective` is resolved, `weights` [B] come from `row_weights`, `entropy_weight` is 0-d. Raises as
    `launch_kernel`.
    """
    detached = x._replace(
        logprob=x.logprob.detach(), entropy=None if x.entropy is None else x.entropy.detach()
    )
    loss, sums = _FusedLoss.apply(x.logprob, detached, objective, weights)
    if x.entropy is not None and objective.entropy_bonus > 0:
        entropy = torch.where(x.mask, x.entropy, 0).sum(dtype=torch.float32)
        loss = loss - entropy * entropy_weight.to(loss.dtype)
    return loss, reduce_rows(sums, x, importance=objective.importance != "none")
