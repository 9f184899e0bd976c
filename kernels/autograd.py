"""A decorator that the custom autograd functions share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def differentiable_once(backward: Callable[..., T]) -> Callable[..., T]:
    """For a backward pass that cannot be differentiated itself: with `create_graph=True` it raises RuntimeError.

    torch's `once_differentiable` raises only where the upstream gradient requires a gradient; otherwise the second
    derivative would silently lack this function's part.
    """

    @functools.wraps(backward)
    def checked(ctx: Any, *upstream: torch.Tensor | None) -> T:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the fused kernels are differentiable once, `create_graph=True` asks for a second time: "
                'use `implementation="reference"` of token_logprob and "torch" of grpo_loss'
            )
        return backward(ctx, *upstream)

    return checked
