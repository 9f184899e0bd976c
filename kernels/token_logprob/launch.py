"""The Triton engine: forward never writes a logit it need not keep, backward writes one slab of d logits at a time.

Forward: a grid of row tiles × vocabulary splits, each with its own running maximum (from -inf), sum, entropy
moment and target logit; the splits of a row are merged in a fixed order, without locks or atomics. Backward:
a tile of d logits in the dtype of the inputs, then library products into fp32 dX and the dW of the slab.

N tokens, H hidden, V vocabulary in use, R rows computed, S vocabulary rows of a slab.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import triton
from torch import Tensor

from kernels.token_logprob.autograd import Engine, ForwardResult
from kernels.token_logprob.configs import launch_config
from kernels.token_logprob.epilogue import RowGradient, TileStats, merge_stats
from kernels.token_logprob.fused import SPLIT_COLUMNS, forward_kernel, gradient_kernel
from kernels.token_logprob.gradients import Upstream, Wanted
from kernels.token_logprob.plan import Head, SlabPlan, Span
from kernels.token_logprob.slabs import finish_forward, gradients_over_slabs

SLAB_BYTES = 1 << 27
"""Scratch of the backward pass: one slab of d logits."""
FEWEST_COLUMNS = 1024
"""A slab has at least so many vocabulary rows, or its products would be launch-bound."""


def fused_available(device: torch.device) -> bool:
    """Whether Triton kernels run on `device`: a GPU, or any under its interpreter."""
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def plan_fused(rows: int, vocab: int, dtype: torch.dtype, logit_bytes: int) -> SlabPlan:
    """All rows in one tile; slabs as wide as `SLAB_BYTES` allows."""
    slab = max(FEWEST_COLUMNS, SLAB_BYTES // (max(rows, 1) * dtype.itemsize) // 128 * 128)
    slab = min(vocab, slab)
    all_slabs = -(-vocab // slab)
    kept = logit_bytes // max(1, rows * slab * dtype.itemsize)
    return SlabPlan(
        slab=slab,
        rows=max(1, rows),
        kept_slabs=all_slabs if rows * vocab * dtype.itemsize <= logit_bytes else kept,
        compute=dtype,
        compile_epilogue=False,
    )


def _head_arguments(head: Head, dtype: torch.dtype) -> dict[str, Any]:
    """The constexprs that describe the head, shared by both kernels."""
    softcap, temperature = head.transform.softcap, head.transform.temperature
    return {
        "H": head.hidden.shape[1],
        "RANK": 0 if head.lora is None else head.lora.a.shape[0],
        "SCALE": head.scale,
        "BOUND": 1.0 if softcap is None else softcap / temperature,
        "LORA_SCALE": 1.0 if head.lora is None else float(head.lora.scale),
        "HAS_BIAS": head.bias is not None,
        "HAS_BOUND": softcap is not None,
        "PRECISION": "tf32x3" if dtype == torch.float32 else "ieee",
    }


def _rows_contiguous(tensor: Tensor) -> Tensor:
    """The kernels index [row · stride + column]."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def fused_forward(
    head: Head, targets: Tensor, active: Tensor | None, entropy: bool, keep: int
) -> ForwardResult:
    """One launch over row tiles × vocabulary splits, then a merge of the splits [splits, R] in order."""
    x, w = _rows_contiguous(head.hidden), _rows_contiguous(head.weight)
    chosen = (targets if active is None else targets[active]).contiguous()
    rows, vocab, device = chosen.shape[0], head.vocab, x.device
    splits = -(-vocab // SPLIT_COLUMNS)
    maximum, total, moment = (torch.empty(splits, rows, dtype=torch.float32, device=device) for _ in range(3))
    picked = torch.full((rows,), torch.nan, dtype=torch.float32, device=device)
    kept_columns = min(vocab, keep * head.plan.slab)
    kept = x.new_empty(rows, kept_columns)
    config = launch_config(rows, vocab, x.dtype)
    inner = head.inner(active, rows)
    b = x if head.lora is None else _rows_contiguous(head.lora.b)
    u = x if inner is None else inner
    if rows:
        forward_kernel[(triton.cdiv(rows, config.rows) * splits,)](
            x, w, u, b, x if head.bias is None else head.bias.contiguous(),
            chosen if active is None else active, chosen,
            maximum, total, moment, picked, kept,
            rows, vocab, kept_columns, x.stride(0), w.stride(0), u.stride(0), b.stride(0), kept.stride(0),
            HAS_INDEX=active is not None, ENTROPY=entropy, KEEP=kept_columns > 0, SPLIT=SPLIT_COLUMNS,
            GROUP=config.group, BM=config.rows, BN=config.columns, BK=config.depth,
            num_warps=config.num_warps, num_stages=config.num_stages, **_head_arguments(head, x.dtype),
        )  # fmt: skip
    merged = None
    for split in range(splits):
        part = TileStats(
            maximum[split].clamp_min(torch.finfo(torch.float32).min), total[split], moment[split]
        )
        part = part if entropy else part._replace(moment=None)
        merged = part if merged is None else merge_stats(merged, part)
    slabs = [kept[:, first:end] for first, end in head.plan.slabs(kept_columns)] if kept_columns else []
    return finish_forward([merged] if merged is not None and rows else [], picked, slabs)


def _gradient_tile(
    head: Head,
    x: Tensor,
    slab: Tensor,
    inner: Tensor | None,
    span: Span,
    kept: Tensor | None,
    target: Tensor,
    row: RowGradient,
    column_sums: bool,
) -> tuple[Tensor, Tensor | None]:
    rows, columns = x.shape[0], slab.shape[0]
    x, slab = _rows_contiguous(x), _rows_contiguous(slab)
    config = launch_config(rows, columns, x.dtype)
    row_tiles = triton.cdiv(rows, config.rows)
    dz = x.new_empty(rows, columns)
    sums = torch.empty(row_tiles if column_sums else 0, columns, dtype=torch.float32, device=x.device)
    b = x if head.lora is None else _rows_contiguous(head.lora.b)[span[0] : span[1]]
    u = x if inner is None else inner
    z = x if kept is None else _rows_contiguous(kept)
    gradient_kernel[(row_tiles * triton.cdiv(columns, config.columns),)](
        x, slab, u, b, x if head.bias is None else head.bias[span[0] : span[1]].contiguous(),
        target, row.log_sum_exp, row.direct, row.spread, row.direct if row.entropy is None else row.entropy,
        z, dz, sums,
        rows, columns, x.stride(0), slab.stride(0), u.stride(0), b.stride(0), z.stride(0), dz.stride(0),
        ENTROPY=row.entropy is not None, KEPT=kept is not None, SUMS=column_sums,
        GROUP=config.group, BM=config.rows, BN=config.columns, BK=config.depth,
        num_warps=config.num_warps, num_stages=config.num_stages, **_head_arguments(head, x.dtype),
    )  # fmt: skip
    return dz, sums.sum(0) if column_sums else None


def fused_backward(
    head: Head, live: Upstream, kept: list[Tensor], wanted: Wanted
) -> tuple[Tensor | None, ...]:
    """The slabs' backward pass with d logits from a Triton kernel, their temporary [R, S] the only scratch."""
    return gradients_over_slabs(head, live, kept, wanted, _gradient_tile)


FUSED = Engine(forward=fused_forward, backward=fused_backward)
