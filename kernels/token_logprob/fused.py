"""Triton kernels of the head: forward statistics by vocabulary splits, d logits by slabs.

N tokens, H hidden, V vocabulary in use, R rows computed, S vocabulary rows of a slab, RANK of the low-rank pair,
BM × BN × BK the tile. `x` are hidden states, `w` the weight, `u` = hidden · aᵀ and `b` the low-rank pair.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from kernels.cases import KernelCase, Work
from kernels.token_logprob.cases import HeadShape, head_shape
from kernels.token_logprob.configs import AMPERE_16BIT, AMPERE_32BIT, SMALL, LaunchConfig
from kernels.token_logprob.head import LOWEST_LOG_PROB

LOWEST: tl.constexpr = tl.constexpr(LOWEST_LOG_PROB)


SPLIT_COLUMNS = 4096
"""Vocabulary rows of a forward split: long enough to amortise its epilogue, short enough to fill 84 SMs."""


@triton.jit
def _product_tile(
    x_ptr,
    w_ptr,
    u_ptr,
    b_ptr,
    bias_ptr,
    rows,
    cols,
    x_rows,
    x_stride,
    w_stride,
    u_stride,
    b_stride,
    H: tl.constexpr,
    RANK: tl.constexpr,
    SCALE: tl.constexpr,
    LORA_SCALE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Scaled product [BM, BN] in fp32 of `x_rows` and vocabulary rows `cols`, bias and low-rank pair included.

    All indices are in range, so that the loads of the main loop need no masks and no registers for them.
    """
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    inner = tl.arange(0, BK)
    x_base = x_ptr + x_rows[:, None] * x_stride
    w_base = w_ptr + cols[None, :].to(tl.int64) * w_stride
    for k in range(0, H, BK):
        if H % BK == 0:
            x = tl.load(x_base + (k + inner)[None, :])
            w = tl.load(w_base + (k + inner)[:, None])
        else:
            x = tl.load(x_base + (k + inner)[None, :], mask=(k + inner < H)[None, :], other=0.0)
            w = tl.load(w_base + (k + inner)[:, None], mask=(k + inner < H)[:, None], other=0.0)
        acc = tl.dot(x, w.to(x.dtype), acc, input_precision=PRECISION)
    if RANK > 0:
        low = tl.zeros((BM, BN), dtype=tl.float32)
        for r in range(0, RANK, 16):
            rank = r + tl.arange(0, 16)
            r_ok = rank < RANK
            u = tl.load(u_ptr + rows[:, None] * u_stride + rank[None, :], mask=r_ok[None, :], other=0.0)
            b_rows = b_ptr + cols[None, :].to(tl.int64) * b_stride
            b = tl.load(b_rows + rank[:, None], mask=r_ok[:, None], other=0.0)
            low = tl.dot(u, b.to(u.dtype), low, input_precision=PRECISION)
        acc += low * LORA_SCALE
    if HAS_BIAS:
        acc += tl.load(bias_ptr + cols).to(tl.float32)[None, :]
    if SCALE != 1.0:
        acc = acc * SCALE
    return acc


@triton.jit
def _tanh(x):
    """tanh by exp of a negative number, which cannot overflow."""
    e = tl.exp(-2.0 * tl.abs(x))
    t = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -t, t)


@triton.jit
def _tile_of(pid, row_tiles, other_tiles, GROUP: tl.constexpr):
    """(row tile, other tile) of a program: GROUP row tiles pass over the same weights before the next ones do."""
    per_group = GROUP * other_tiles
    first = (pid // per_group) * GROUP
    size = tl.minimum(row_tiles - first, GROUP)
    return first + (pid % per_group) % size, (pid % per_group) // size


@triton.jit
def forward_kernel(
    x_ptr,
    w_ptr,
    u_ptr,
    b_ptr,
    bias_ptr,
    index_ptr,
    target_ptr,
    maximum_ptr,
    total_ptr,
    moment_ptr,
    picked_ptr,
    kept_ptr,
    R,
    V,
    kept_columns,
    x_stride,
    w_stride,
    u_stride,
    b_stride,
    kept_stride,
    H: tl.constexpr,
    RANK: tl.constexpr,
    SCALE: tl.constexpr,
    BOUND: tl.constexpr,
    LORA_SCALE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_INDEX: tl.constexpr,
    HAS_BOUND: tl.constexpr,
    ENTROPY: tl.constexpr,
    KEEP: tl.constexpr,
    SPLIT: tl.constexpr,
    GROUP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Statistics [splits, R] of one split of the vocabulary for BM rows."""
    tile, split = _tile_of(tl.program_id(0), tl.cdiv(R, BM), tl.cdiv(V, SPLIT), GROUP)
    rows = (tile * BM + tl.arange(0, BM)).to(tl.int64)
    row_ok = rows < R
    safe_rows = tl.minimum(rows, R - 1)
    x_rows = tl.load(index_ptr + safe_rows) if HAS_INDEX else safe_rows
    target = tl.load(target_ptr + safe_rows).to(tl.int32)
    maximum = tl.full((BM,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BM,), dtype=tl.float32)
    moment = tl.zeros((BM,), dtype=tl.float32)
    picked = tl.zeros((BM,), dtype=tl.float32)
    for start in range(split * SPLIT, tl.minimum((split + 1) * SPLIT, V), BN):
        cols = start + tl.arange(0, BN)
        col_ok = cols < V
        z = _product_tile(
            x_ptr,
            w_ptr,
            u_ptr,
            b_ptr,
            bias_ptr,
            safe_rows,
            tl.minimum(cols, V - 1),
            x_rows,
            x_stride,
            w_stride,
            u_stride,
            b_stride,
            H,
            RANK,
            SCALE,
            LORA_SCALE,
            HAS_BIAS,
            BM,
            BN,
            BK,
            PRECISION,
        )
        if KEEP:
            keep_ok = row_ok[:, None] & (cols < kept_columns)[None, :]
            tl.store(
                kept_ptr + rows[:, None] * kept_stride + cols[None, :],
                z.to(kept_ptr.dtype.element_ty),
                mask=keep_ok,
            )
        if HAS_BOUND:
            z = _tanh(z) * BOUND
        z = tl.where(col_ok[None, :], z, float("-inf"))
        picked += tl.sum(tl.where(cols[None, :] == target[:, None], z, 0.0), axis=1)
        new_maximum = tl.maximum(maximum, tl.max(z, axis=1))
        # A row that is -inf so far has nothing to rescale and nothing to add.
        shift = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
        rescale = tl.exp(maximum - shift)
        shifted = z - shift[:, None]
        weight = tl.exp(shifted)
        if ENTROPY:
            lower = tl.where(maximum == float("-inf"), 0.0, maximum - shift)
            moment = (moment + lower * total) * rescale + tl.sum(weight * tl.maximum(shifted, LOWEST), axis=1)
        total = total * rescale + tl.sum(weight, axis=1)
        maximum = new_maximum
    out = split.to(tl.int64) * R + rows
    tl.store(maximum_ptr + out, maximum, mask=row_ok)
    tl.store(total_ptr + out, total, mask=row_ok)
    if ENTROPY:
        tl.store(moment_ptr + out, moment, mask=row_ok)
    # Exactly one split holds a row's target, so this store has one writer.
    found = (target >= split * SPLIT) & (target < tl.minimum((split + 1) * SPLIT, V))
    tl.store(picked_ptr + rows, picked, mask=row_ok & found)


@triton.jit
def gradient_kernel(
    x_ptr,
    w_ptr,
    u_ptr,
    b_ptr,
    bias_ptr,
    target_ptr,
    log_sum_exp_ptr,
    direct_ptr,
    spread_ptr,
    entropy_ptr,
    kept_ptr,
    dz_ptr,
    column_sum_ptr,
    R,
    S,
    x_stride,
    w_stride,
    u_stride,
    b_stride,
    kept_stride,
    dz_stride,
    H: tl.constexpr,
    RANK: tl.constexpr,
    SCALE: tl.constexpr,
    BOUND: tl.constexpr,
    LORA_SCALE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_BOUND: tl.constexpr,
    ENTROPY: tl.constexpr,
    KEPT: tl.constexpr,
    SUMS: tl.constexpr,
    GROUP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """d loss / d product of BM rows and BN columns of one slab, into dz [R, S]; pointers start at the slab."""
    tile, column_tile = _tile_of(tl.program_id(0), tl.cdiv(R, BM), tl.cdiv(S, BN), GROUP)
    rows = (tile * BM + tl.arange(0, BM)).to(tl.int64)
    row_ok = rows < R
    cols = column_tile * BN + tl.arange(0, BN)
    col_ok = cols < S
    inside = row_ok[:, None] & col_ok[None, :]
    safe_rows = tl.minimum(rows, R - 1)
    if KEPT:
        z = tl.load(
            kept_ptr + rows[:, None] * kept_stride + cols[None, :], mask=inside, other=float("-inf")
        ).to(tl.float32)
    else:
        z = _product_tile(
            x_ptr,
            w_ptr,
            u_ptr,
            b_ptr,
            bias_ptr,
            safe_rows,
            tl.minimum(cols, S - 1),
            safe_rows,
            x_stride,
            w_stride,
            u_stride,
            b_stride,
            H,
            RANK,
            SCALE,
            LORA_SCALE,
            HAS_BIAS,
            BM,
            BN,
            BK,
            PRECISION,
        )
    slope = 1.0
    if HAS_BOUND:
        t = _tanh(z)
        slope = 1.0 - t * t
        z = t * BOUND
    log_prob = z - tl.load(log_sum_exp_ptr + safe_rows)[:, None]
    spread = tl.load(spread_ptr + safe_rows)[:, None]
    if ENTROPY:
        coefficient = tl.load(entropy_ptr + safe_rows)
        spread = spread + coefficient[:, None] * tl.maximum(log_prob, LOWEST)
    target = tl.load(target_ptr + safe_rows).to(tl.int32)
    direct = tl.load(direct_ptr + safe_rows)
    # The two terms cancel near p = 1: subtracted in fp32, cast afterwards.
    dz = tl.where(cols[None, :] == target[:, None], direct[:, None], 0.0) - tl.exp(log_prob) * spread
    dz = tl.where(inside, dz * slope, 0.0)
    if SUMS:
        tl.store(column_sum_ptr + tile.to(tl.int64) * S + cols, tl.sum(dz, axis=0), mask=col_ok)
    tl.store(dz_ptr + rows[:, None] * dz_stride + cols[None, :], dz.to(dz_ptr.dtype.element_ty), mask=inside)


FOOTPRINT_SHAPES = ("smollm2-135m@2048", "qwen2.5-1.5b@8192", "qwen2.5-1.5b@32768")
_TRITON_TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_FLAGS: dict[str, dict[str, bool]] = {
    "plain": {},
    "keep": {"KEEP": True, "KEPT": True},
    "entropy": {"ENTROPY": True},
    "full": {"ENTROPY": True, "HAS_BIAS": True, "HAS_BOUND": True, "SUMS": True, "HAS_INDEX": True},
    "lora": {"LORA": True},
}
"""Features of a footprint case; `full` is everything that costs registers at once."""


def _signature(fn: Any, dtype: torch.dtype, constexprs: dict[str, Any]) -> dict[str, str]:
    fp32 = {
        "maximum",
        "total",
        "moment",
        "picked",
        "log_sum_exp",
        "direct",
        "spread",
        "entropy",
        "column_sum",
    }
    types: dict[str, str] = {}
    for name in fn.arg_names:
        stem = name.removesuffix("_ptr")
        if name in constexprs:
            types[name] = "constexpr"
        elif not name.endswith("_ptr"):
            types[name] = "i32"
        elif stem in ("index", "target"):
            types[name] = "*i64"
        else:
            types[name] = "*fp32" if stem in fp32 else f"*{_TRITON_TYPES[dtype]}"
    return types


def _work(kind: str, flags: dict[str, bool], shape: HeadShape, config: LaunchConfig, itemsize: int) -> Work:
    columns = min(shape.vocab, SPLIT_COLUMNS)
    slabs = -(-shape.vocab // columns)
    inputs = (shape.tokens + (shape.vocab if kind == "forward" else columns)) * shape.hidden * itemsize
    if kind == "forward":
        logits = shape.tokens * shape.vocab * itemsize if flags.get("KEEP") else 0
        flops, traffic = shape.product_flops, inputs + logits + 16 * shape.tokens * slabs
        tiles = slabs
    else:
        logits = shape.tokens * columns * itemsize
        kept = flags.get("KEPT", False)
        flops = 6.0 * shape.tokens * columns if kept else shape.product_flops / shape.vocab * columns
        traffic = 2 * logits if kept else inputs + logits
        tiles = -(-columns // config.columns)
    programs = -(-shape.tokens // config.rows) * tiles
    return Work(shape=shape.name, flops=flops, bytes=float(traffic), programs=programs)


def _footprint_case(kind: str, feature: str, dtype: torch.dtype, config: LaunchConfig) -> KernelCase:
    fn = forward_kernel if kind == "forward" else gradient_kernel
    flags = _FLAGS[feature]
    precision = "tf32x3" if dtype == torch.float32 else "ieee"
    values: dict[str, Any] = {
        "H": 1536, "RANK": 16 if flags.get("LORA") else 0, "SCALE": 1.0, "BOUND": 30.0, "LORA_SCALE": 2.0,
        "SPLIT": SPLIT_COLUMNS, "GROUP": config.group, "PRECISION": precision,
        "BM": config.rows, "BN": config.columns, "BK": config.depth,
    }  # fmt: skip
    switches = ("HAS_BIAS", "HAS_INDEX", "HAS_BOUND", "ENTROPY", "KEEP", "KEPT", "SUMS")
    values |= {name: flags.get(name, False) for name in switches}
    constexprs = {name: values[name] for name in fn.arg_names if name in values}
    strides = {"x_stride", "w_stride", "u_stride", "b_stride", "kept_stride", "dz_stride"}
    aligned = [name for name in fn.arg_names if name.endswith("_ptr") or name in strides]
    return KernelCase(
        op="token_logprob",
        name=f"{kind}/{feature}/{_TRITON_TYPES[dtype]}/{config.name}",
        fn=fn,
        signature=_signature(fn, dtype, constexprs),
        constexprs=constexprs,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        divisible_by_16=tuple(aligned),
        matmul=not (kind == "gradient" and flags.get("KEPT", False)),
        work=tuple(_work(kind, flags, head_shape(name), config, dtype.itemsize) for name in FOOTPRINT_SHAPES),
    )


FOOTPRINT_CASES = [
    _footprint_case(kind, feature, dtype, config)
    for dtype, config in (
        (torch.bfloat16, AMPERE_16BIT),
        (torch.float16, AMPERE_16BIT),
        (torch.float32, AMPERE_32BIT),
        (torch.bfloat16, SMALL),
    )
    for kind in ("forward", "gradient")
    for feature in (_FLAGS if dtype == torch.bfloat16 and config is AMPERE_16BIT else ("plain", "full"))
]
"""Every kernel in every launch configuration it can be given, for `kernels.footprint`."""
