"""The loss of a batch through the head: our implementations, those of other libraries, and the matrix products alone.

N tokens, H hidden, V vocabulary, B sequences, T positions.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kernels.benchmarks.batches import Batch
from kernels.token_logprob import token_logprob

Loss = Callable[[Batch], Tensor]
PRODUCTS = "products"
"""The three matrix products (GEMMs) of a pass and nothing else, in the dtype that is fastest on this machine."""
PRODUCTS_AS_GIVEN = "products-as-given"
"""The same in the dtype of the tensors, where that is a different one."""
PRODUCTS_ALONE = (PRODUCTS, PRODUCTS_AS_GIVEN)
OURS = {
    "slabs-keep": ("slabs", 1 << 40),
    "slabs-lean": ("slabs", 0),
    "fused-keep": ("fused", 1 << 40),
    "fused-lean": ("fused", 0),
}
"""Name → (implementation, logit_bytes)."""
_NEEDS = {"trl": "trl", "liger": "liger_kernel", "cce": "cut_cross_entropy"}


def available(variant: str, device: str) -> bool:
    """Whether `variant` can run here."""
    if variant.startswith("fused"):
        return device == "cuda"
    if variant == "lce":
        return hasattr(torch.nn.functional, "linear_cross_entropy")
    return variant not in _NEEDS or importlib.util.find_spec(_NEEDS[variant]) is not None


def loss_of(variant: str, batch: Batch) -> Loss:
    """The loss function called `variant`.

    Raises:
        ValueError: there is no such variant.
    """
    if variant in OURS:
        implementation, logit_bytes = OURS[variant]
        return _ours(implementation, logit_bytes)
    makers: dict[str, Callable[[Batch], Loss]] = {
        "trl": _trl,
        "torch": lambda _: _full_logits,
        "compiled": lambda _: torch.compile(_full_logits),
        "checkpoint": lambda _: _checkpointed,
        "lce": _torch_linear_cross_entropy,
        "liger": _liger,
        "cce": _cce,
    }
    if variant not in makers:
        raise ValueError(f"variant must be one of {', '.join([*OURS, *makers])}, got {variant}")
    return makers[variant](batch)


def _ours(implementation: Any, logit_bytes: int) -> Loss:
    def loss(batch: Batch) -> Tensor:
        out = token_logprob(
            batch.hidden,
            batch.weight,
            batch.masked_targets,
            implementation=implementation,
            logit_bytes=logit_bytes,
        )
        return -(out.logprob * batch.coefficients).sum()

    return loss


def _full_logits(batch: Batch) -> Tensor:
    log_probs = torch.log_softmax((batch.hidden @ batch.weight.T).float(), -1)
    return -(log_probs.gather(1, batch.targets[:, None])[:, 0] * batch.coefficients).sum()


def _trl(batch: Batch) -> Loss:
    from trl.trainer.utils import selective_log_softmax

    def loss(batch: Batch) -> Tensor:
        rows, width = batch.mask.shape
        logits = (batch.hidden @ batch.weight.T).view(rows, width, -1)
        logprob = selective_log_softmax(logits, batch.targets.view(rows, width))
        return -(logprob.flatten() * batch.coefficients).sum()

    return loss


def _checkpointed(batch: Batch, chunk: int = 256) -> Tensor:
    def part(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        log_probs = torch.log_softmax((hidden @ weight.T).float(), -1)
        return log_probs.gather(1, targets[:, None])[:, 0]

    parts = [
        checkpoint(part, hidden, batch.weight, targets, use_reentrant=False)
        for hidden, targets in zip(batch.hidden.split(chunk), batch.targets.split(chunk))
    ]
    return -(torch.cat(parts) * batch.coefficients).sum()


def _torch_linear_cross_entropy(batch: Batch) -> Loss:
    linear_cross_entropy = torch.nn.functional.linear_cross_entropy
    # It is chunked only under a reduction, which one coefficient for all rows allows.
    uniform = bool((batch.advantages == batch.advantages[0]).all())
    scale = float(batch.advantages[0] / batch.mask.sum().clamp_min(1))
    options = torch.nn.LinearCrossEntropyOptions() if uniform else None

    def loss(batch: Batch) -> Tensor:
        negative = linear_cross_entropy(
            batch.hidden,
            batch.weight,
            batch.masked_targets,
            reduction="sum" if uniform else "none",
            ignore_index=-100,
            options=options,
        ).float()
        return negative * scale if uniform else (negative * batch.coefficients).sum()

    return loss


def _liger(batch: Batch) -> Loss:
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    module = LigerFusedLinearGRPOLoss(beta=0.0, loss_type="bnpo", use_ref_model=False)

    def loss(batch: Batch) -> Tensor:
        rows, width = batch.mask.shape
        hidden = batch.hidden.view(rows, width, -1)
        value, _ = module(hidden, batch.weight, batch.targets.view(rows, width), batch.mask, batch.advantages)
        return value

    return loss


def _cce(batch: Batch) -> Loss:
    from cut_cross_entropy import linear_cross_entropy

    implementation = "cce_exact" if batch.hidden.is_cuda else "torch_compile"

    def loss(batch: Batch) -> Tensor:
        negative = linear_cross_entropy(
            batch.hidden, batch.weight, batch.masked_targets, reduction="none", impl=implementation
        )
        return (negative.float() * batch.coefficients).sum()

    return loss


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value."""
    scale = float(expected.abs().max()) or 1.0
    error = float((found.double() - expected).abs().max()) / scale
    return error if math.isfinite(error) else math.inf
