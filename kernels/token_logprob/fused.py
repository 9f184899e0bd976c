"""Triton kernels of the head: softmax statistics of vocabulary splits forward, d logits of a slab backward.

N tokens, H hidden, V vocabulary in use, R rows computed, S vocabulary rows of a slab, RANK of the LoRA adapter,
BM × BN × BK the tile. `x` are hidden states, `w` the weight, `u` = hidden · aᵀ and `b` those of the adapter. Tensors
that a call does not have are None: Triton compiles a kernel without them.
"""

from __future__ import annotations

# mypy: allow-untyped-defs
# Arguments of @triton.jit functions are pointers and values of the kernel language, without Python types.
import triton
import triton.language as tl

from kernels.token_logprob.types import LOWEST_LOG_PROB

LOWEST: tl.constexpr = tl.constexpr(LOWEST_LOG_PROB)
SPLIT_COLUMNS = 4096
"""Vocabulary rows of a forward split: enough to amortise its epilogue, few enough to fill the 84 SMs of an A40."""


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
    ALPHA: tl.constexpr,
    LORA_SCALE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """ALPHA · (x · wᵀ + LoRA + bias) [BM, BN] in fp32 of the rows `x_rows` and the vocabulary rows `cols`.

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
    if u_ptr is not None:
        low = tl.zeros((BM, BN), dtype=tl.float32)
        for r in range(0, RANK, 16):
            rank = r + tl.arange(0, 16)
            r_ok = rank < RANK
            u = tl.load(u_ptr + rows[:, None] * u_stride + rank[None, :], mask=r_ok[None, :], other=0.0)
            b_rows = b_ptr + cols[None, :].to(tl.int64) * b_stride
            b = tl.load(b_rows + rank[:, None], mask=r_ok[:, None], other=0.0)
            low = tl.dot(u, b.to(u.dtype), low, input_precision=PRECISION)
        acc += low * LORA_SCALE
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + cols).to(tl.float32)[None, :]
    if ALPHA != 1.0:
        acc = acc * ALPHA
    return acc


@triton.jit
def _tanh(x):
    """tanh from the exponential of a negative number, which cannot overflow."""
    e = tl.exp(-2.0 * tl.abs(x))
    t = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -t, t)


@triton.jit
def _tile_of(pid, row_tiles, other_tiles, GROUP: tl.constexpr):
    """(row tile, other tile) of a program: GROUP row tiles in turn share each tile of weights in L2."""
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
    sum_exp_ptr,
    moment_ptr,
    target_logit_ptr,
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
    ALPHA: tl.constexpr,
    CAP: tl.constexpr,
    LORA_SCALE: tl.constexpr,
    SPLIT: tl.constexpr,
    GROUP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Softmax statistics [splits, R] of BM rows over one split of the vocabulary, and the logits of the targets [R].

    None for what a call does not have or need: u and b without an adapter, bias, index where all rows are computed,
    moment without the entropy, kept where no logits are kept.
    """
    tile, split = _tile_of(tl.program_id(0), tl.cdiv(R, BM), tl.cdiv(V, SPLIT), GROUP)
    rows = (tile * BM + tl.arange(0, BM)).to(tl.int64)
    row_ok = rows < R
    safe_rows = tl.minimum(rows, R - 1)
    x_rows = tl.load(index_ptr + safe_rows) if index_ptr is not None else safe_rows
    target = tl.load(target_ptr + safe_rows).to(tl.int32)
    maximum = tl.full((BM,), float("-inf"), dtype=tl.float32)
    sum_exp = tl.zeros((BM,), dtype=tl.float32)
    moment = tl.zeros((BM,), dtype=tl.float32)
    target_logit = tl.zeros((BM,), dtype=tl.float32)
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
            ALPHA,
            LORA_SCALE,
            BM,
            BN,
            BK,
            PRECISION,
        )
        if kept_ptr is not None:
            keep_ok = row_ok[:, None] & (cols < kept_columns)[None, :]
            tl.store(
                kept_ptr + rows[:, None] * kept_stride + cols[None, :],
                z.to(kept_ptr.dtype.element_ty),
                mask=keep_ok,
            )
        if CAP is not None:
            z = _tanh(z) * CAP
        z = tl.where(col_ok[None, :], z, float("-inf"))
        target_logit += tl.sum(tl.where(cols[None, :] == target[:, None], z, 0.0), axis=1)
        new_maximum = tl.maximum(maximum, tl.max(z, axis=1))
        # A row that is -inf so far has nothing to rescale and nothing to add.
        shift = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
        rescale = tl.exp(maximum - shift)
        shifted = z - shift[:, None]
        weight = tl.exp(shifted)
        if moment_ptr is not None:
            lower = tl.where(maximum == float("-inf"), 0.0, maximum - shift)
            moment = (moment + lower * sum_exp) * rescale + tl.sum(
                weight * tl.maximum(shifted, LOWEST), axis=1
            )
        sum_exp = sum_exp * rescale + tl.sum(weight, axis=1)
        maximum = new_maximum
    out = split.to(tl.int64) * R + rows
    tl.store(maximum_ptr + out, maximum, mask=row_ok)
    tl.store(sum_exp_ptr + out, sum_exp, mask=row_ok)
    if moment_ptr is not None:
        tl.store(moment_ptr + out, moment, mask=row_ok)
    # Exactly one split holds a row's target, so this store has one writer.
    found = (target >= split * SPLIT) & (target < tl.minimum((split + 1) * SPLIT, V))
    tl.store(target_logit_ptr + rows, target_logit, mask=row_ok & found)


@triton.jit
def gradient_kernel(
    x_ptr,
    w_ptr,
    u_ptr,
    b_ptr,
    bias_ptr,
    target_ptr,
    log_sum_exp_ptr,
    target_coef_ptr,
    softmax_coef_ptr,
    entropy_coef_ptr,
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
    ALPHA: tl.constexpr,
    CAP: tl.constexpr,
    LORA_SCALE: tl.constexpr,
    GROUP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """d loss / d product of BM rows and BN columns of one slab, into dz [R, S]; pointers start at the slab.

    None for what a call does not have or need: x, w, u, b and bias where the product was kept, kept where it was not,
    entropy_coef, column_sum [row tiles, S] without a gradient of the bias.
    """
    tile, column_tile = _tile_of(tl.program_id(0), tl.cdiv(R, BM), tl.cdiv(S, BN), GROUP)
    rows = (tile * BM + tl.arange(0, BM)).to(tl.int64)
    row_ok = rows < R
    cols = column_tile * BN + tl.arange(0, BN)
    col_ok = cols < S
    inside = row_ok[:, None] & col_ok[None, :]
    safe_rows = tl.minimum(rows, R - 1)
    if kept_ptr is not None:
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
            ALPHA,
            LORA_SCALE,
            BM,
            BN,
            BK,
            PRECISION,
        )
    slope = 1.0
    if CAP is not None:
        t = _tanh(z)
        slope = 1.0 - t * t
        z = t * CAP
    log_prob = z - tl.load(log_sum_exp_ptr + safe_rows)[:, None]
    softmax_coef = tl.load(softmax_coef_ptr + safe_rows)[:, None]
    if entropy_coef_ptr is not None:
        entropy_coef = tl.load(entropy_coef_ptr + safe_rows)
        softmax_coef = softmax_coef + entropy_coef[:, None] * tl.maximum(log_prob, LOWEST)
    target = tl.load(target_ptr + safe_rows).to(tl.int32)
    target_coef = tl.load(target_coef_ptr + safe_rows)
    # The two terms cancel near p = 1: subtracted in fp32, cast afterwards.
    dz = (
        tl.where(cols[None, :] == target[:, None], target_coef[:, None], 0.0)
        - tl.exp(log_prob) * softmax_coef
    )
    dz = tl.where(inside, dz * slope, 0.0)
    if column_sum_ptr is not None:
        tl.store(column_sum_ptr + tile.to(tl.int64) * S + cols, tl.sum(dz, axis=0), mask=col_ok)
    tl.store(dz_ptr + rows[:, None] * dz_stride + cols[None, :], dz.to(dz_ptr.dtype.element_ty), mask=inside)
