"""Launching the Triton kernels: logits are written only where they are kept, d logits one slab at a time.

Forward: a grid of row tiles × vocabulary splits, each with its own running maximum (from -inf), sum of exponentials,
entropy moment and target logit; the splits of a row are merged in a fixed order, without locks or atomics. Backward:
one slab of d logits in the dtype of the inputs, then cuBLAS products into fp32 dX and the dW of the slab.

N tokens, H hidden, V vocabulary in use, R rows computed, S vocabulary rows of a slab.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import triton
from torch import Tensor

from kernels.device_choice import device_type, is_simulated
from kernels.token_logprob.autograd import ForwardResult, SlabBackend
from kernels.token_logprob.configs import launch_config
from kernels.token_logprob.epilogue import RowGradient, TileStats, merge_stats
from kernels.token_logprob.fused import SPLIT_COLUMNS, forward_kernel, gradient_kernel
from kernels.token_logprob.gradients import BackwardRows, NeedsGrad
from kernels.token_logprob.head import Head
from kernels.token_logprob.plan import Span
from kernels.token_logprob.slabs import finish_forward, gradients_over_slabs


def fused_available(device: torch.device) -> bool:
    """Whether Triton kernels run on `device`: a GPU, or any under its interpreter."""
    return device_type(device) == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def _head_constants(head: Head, dtype: torch.dtype) -> dict[str, Any]:
    """The constexpr arguments that describe the head, the same for both kernels."""
    return {
        "H": head.hidden.shape[1],
        "RANK": 0 if head.lora is None else head.lora.a.shape[0],
        "ALPHA": head.alpha,
        "CAP": head.cap,
        "LORA_SCALE": 1.0 if head.lora is None else float(head.lora.scale),
        "PRECISION": "tf32x3" if dtype == torch.float32 else "ieee",
    }


def _rows_contiguous(tensor: Tensor) -> Tensor:
    """The kernels index [row · stride + column]."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _row_stride(tensor: Tensor | None) -> int:
    """0 for a tensor that the kernel is not given."""
    return 0 if tensor is None else tensor.stride(0)


def fused_forward(
    head: Head, targets: Tensor, valid: Tensor | None, entropy: bool, keep: int
) -> ForwardResult:
    """One launch over row tiles × vocabulary splits, then a merge of the splits [splits, R] in order."""
    x, w = _rows_contiguous(head.hidden), _rows_contiguous(head.weight)
    targets = (targets if valid is None else targets[valid]).contiguous()
    rows, vocab = targets.shape[0], head.vocab
    splits = -(-vocab // SPLIT_COLUMNS)
    maximum, sum_exp = (x.new_empty(splits, rows, dtype=torch.float32) for _ in range(2))
    moment = x.new_empty(splits, rows, dtype=torch.float32) if entropy else None
    target_logit = x.new_full((rows,), torch.nan, dtype=torch.float32)
    kept_columns = min(vocab, keep * head.plan.slab_columns)
    kept = x.new_empty(rows, kept_columns) if kept_columns else None
    config = launch_config(rows, vocab, x.dtype)
    u = head.lora_hidden(valid, rows)
    b = None if head.lora is None else _rows_contiguous(head.lora.b)
    if rows and not is_simulated():
        forward_kernel[(triton.cdiv(rows, config.rows) * splits,)](
            x, w, u, b, None if head.bias is None else head.bias.contiguous(), valid, targets,
            maximum, sum_exp, moment, target_logit, kept,
            rows, vocab, kept_columns, *(_row_stride(tensor) for tensor in (x, w, u, b, kept)),
            SPLIT=SPLIT_COLUMNS, GROUP=config.group, BM=config.rows, BN=config.columns, BK=config.depth,
            num_warps=config.num_warps, num_stages=config.num_stages, **_head_constants(head, x.dtype),
        )  # fmt: skip
    merged = None
    for split in range(splits):
        part = TileStats(
            maximum=maximum[split].clamp_min(torch.finfo(torch.float32).min),
            sum_exp=sum_exp[split],
            moment=None if moment is None else moment[split],
        )
        merged = part if merged is None else merge_stats(merged, part)
    slabs = [] if kept is None else [kept[:, first:end] for first, end in head.plan.slabs(kept_columns)]
    return finish_forward([merged] if merged is not None and rows else [], target_logit, slabs)


def _gradient_tile(
    head: Head,
    x: Tensor,
    slab: Tensor,
    lora_hidden: Tensor | None,
    span: Span,
    kept: Tensor | None,
    target: Tensor,
    row: RowGradient,
    column_sums: bool,
) -> tuple[Tensor, Tensor | None]:
    """One slab of d logits by one launch; arguments as in `GradientTile`."""
    rows, columns = x.shape[0], slab.shape[0]
    config = launch_config(rows, columns, x.dtype)
    row_tiles = triton.cdiv(rows, config.rows)
    dz = x.new_empty(rows, columns)
    sums = x.new_empty(row_tiles, columns, dtype=torch.float32) if column_sums else None
    z = None if kept is None else _rows_contiguous(kept)
    inputs = (None,) * 5 if z is not None else _product_inputs(head, x, slab, lora_hidden, span)
    if not is_simulated():
        gradient_kernel[(row_tiles * triton.cdiv(columns, config.columns),)](
            *inputs, target, row.log_sum_exp, row.target_coef, row.softmax_coef, row.entropy_coef, z, dz, sums,
            rows, columns, *(_row_stride(tensor) for tensor in (*inputs[:4], z, dz)),
            GROUP=config.group, BM=config.rows, BN=config.columns, BK=config.depth,
            num_warps=config.num_warps, num_stages=config.num_stages, **_head_constants(head, x.dtype),
        )  # fmt: skip
    return dz, None if sums is None else sums.sum(0)


def _product_inputs(
    head: Head, x: Tensor, slab: Tensor, lora_hidden: Tensor | None, span: Span
) -> tuple[Tensor | None, ...]:
    """x, w, u, b and bias of the vocabulary rows `span`, as the kernel computes its product from them."""
    rows = slice(*span)
    return (
        _rows_contiguous(x),
        _rows_contiguous(slab),
        lora_hidden,
        None if head.lora is None else _rows_contiguous(head.lora.b)[rows],
        None if head.bias is None else head.bias[rows].contiguous(),
    )


def fused_backward(
    head: Head, rows: BackwardRows, kept: list[Tensor], needs: NeedsGrad
) -> tuple[Tensor | None, ...]:
    """The backward pass over slabs with d logits from the Triton kernel; one slab of them [R, S] is its scratch."""
    return gradients_over_slabs(head, rows, kept, needs, _gradient_tile)


FUSED = SlabBackend(forward=fused_forward, backward=fused_backward)
