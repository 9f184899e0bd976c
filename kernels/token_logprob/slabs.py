"""Vocabulary slabs in torch, on any device: the logits of a slab of tokens exist, those of all never do.

Forward, for each slab: the product, its softmax statistics, their merge with those of the slabs before. Backward, for
each slab: the logits (kept or recomputed), their gradient in one tile, then dX += dZ · W in fp32 and dW = dZᵀ · X,
written once.

N tokens, H hidden, V vocabulary in use, R rows computed, C rows of a tile, S vocabulary rows of a slab, K LoRA rank.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from kernels.token_logprob.autograd import ForwardResult, SlabBackend
from kernels.token_logprob.dtypes import accumulate_dtype
from kernels.token_logprob.epilogue import (
    RowGradient,
    TileStats,
    compiled,
    logits_of,
    merge_stats,
    tile_gradient,
    tile_stats,
)
from kernels.token_logprob.gradients import BackwardRows, Gradients, NeedsGrad
from kernels.token_logprob.head import Head, Scratch
from kernels.token_logprob.plan import Span


def slab_forward(
    head: Head, targets: Tensor, valid: Tensor | None, entropy: bool, keep: int
) -> ForwardResult:
    """One pass over the vocabulary for the rows `valid` [R] (None: all); the first `keep` slabs are kept."""
    plan, cap = head.plan, head.cap_tensor
    stats_of = compiled(tile_stats) if plan.compile_epilogue else tile_stats
    targets = targets if valid is None else targets[valid]
    rows = targets.shape[0]
    scratch, lora_hidden = Scratch(plan, head.hidden.device), head.lora_hidden(valid, rows)
    accumulate = accumulate_dtype(plan.compute)
    target_product = torch.full((rows,), torch.nan, dtype=accumulate, device=head.hidden.device)
    tiles = list(plan.tiles(rows))
    parts: list[TileStats | None] = [None] * len(tiles)
    hidden = head.rows(valid, 0, rows) if len(tiles) == 1 else None
    kept = []
    for order, (first, end) in enumerate(plan.slabs(head.vocab) if tiles else ()):
        slab = head.slab(first, end)
        stored = head.hidden.new_empty(rows, end - first) if order < keep else None
        for number, (top, bottom) in enumerate(tiles):
            x = hidden if hidden is not None else head.rows(valid, top, bottom)
            low = None if lora_hidden is None else lora_hidden[top:bottom]
            # A product in the dtype of the kept logits is written to them; another one is rounded to them.
            in_stored = stored is not None and stored.dtype == plan.compute
            out = (
                stored[top:bottom]
                if stored is not None and in_stored
                else scratch.tile(bottom - top, end - first)
            )
            z = head.product(x, slab, low, (first, end), out)
            if stored is not None and not in_stored:
                stored[top:bottom] = z
            _pick_targets(z, targets[top:bottom] - first, target_product[top:bottom])
            part, before = stats_of(z, cap, entropy), parts[number]
            parts[number] = part if before is None else merge_stats(before, part)
        if stored is not None:
            kept.append(stored)
    finished = [part for part in parts if part is not None]
    return finish_forward(finished, logits_of(target_product, cap), kept)


def _pick_targets(product: Tensor, local: Tensor, out: Tensor) -> None:
    """Writes `product` [C, S] at column `local` [C] to `out` [C] where that column exists."""
    inside = (local >= 0) & (local < product.shape[1])
    picked = product.gather(1, local.where(inside, 0)[:, None])[:, 0]
    out.copy_(torch.where(inside, picked.to(out.dtype), out))


def finish_forward(parts: list[TileStats], target_logit: Tensor, kept: list[Tensor]) -> ForwardResult:
    """Outputs from the statistics of each tile of rows and the logits of the targets [R]."""
    if not parts:
        return ForwardResult(log_sum_exp=target_logit, logprob=target_logit, entropy=target_logit, kept=kept)
    sum_exp = torch.cat([part.sum_exp for part in parts])
    log_total = sum_exp.log()
    log_sum_exp = torch.cat([part.maximum for part in parts]) + log_total
    moments = [part.moment for part in parts if part.moment is not None]
    return ForwardResult(
        log_sum_exp=log_sum_exp,
        logprob=target_logit - log_sum_exp,
        entropy=log_total - torch.cat(moments) / sum_exp if moments else None,
        kept=kept,
    )


class GradientTile(Protocol):
    """Computes one tile of d logits; what `gradients_over_slabs` asks a backend for."""

    def __call__(
        self,
        head: Head,
        x: Tensor,
        slab: Tensor,
        lora_hidden: Tensor | None,
        span: Span,
        kept: Tensor | None,
        target: Tensor,
        row: RowGradient,
        column_sums: bool,
        /,
    ) -> tuple[Tensor, Tensor | None]:
        """d loss / d product of one tile.

        Args:
            x: hidden states [C, H].
            slab: the slab's weight [S, H].
            lora_hidden: hidden · aᵀ [C, K], if there is an adapter.
            span: the slab's vocabulary rows.
            kept: the product [C, S], if the forward pass kept it.
            target: [C], counted from the slab's first row.
            row: the coefficients of the rows.
            column_sums: whether the sums over rows are needed (d bias).

        Returns:
            dz [C, S] in the dtype of the products, and its column sums [S] fp32 or None.
        """


def gradients_over_slabs(
    head: Head, rows: BackwardRows, kept: list[Tensor], needs: NeedsGrad, tile_of: GradientTile
) -> tuple[Tensor | None, ...]:
    """One pass over the vocabulary for `rows`; `kept` as in `ForwardResult`.

    Returns the gradients of hidden, weight, bias, lora.a and lora.b; None where not needed.
    """
    plan = head.plan
    sums = Gradients(head, rows, needs)
    tiles = list(plan.tiles(rows.count))
    hidden = head.rows(rows.index, 0, rows.count) if len(tiles) == 1 else None
    for number, span in enumerate(plan.slabs(head.vocab) if tiles else ()):
        slab = head.slab(*span)
        for top, bottom in tiles:
            x = hidden if hidden is not None else head.rows(rows.index, top, bottom)
            low = None if sums.lora_hidden is None else sums.lora_hidden[top:bottom]
            z = None
            if number < len(kept):
                of_tile = slice(top, bottom) if rows.kept_index is None else rows.kept_index[top:bottom]
                z = kept[number][of_tile]
            target, row = rows.targets[top:bottom] - span[0], rows.tile(top, bottom)
            dz, column_sums = tile_of(head, x, slab, low, span, z, target, row, sums.bias is not None)
            sums.add_tile(dz, x, slab, span, (top, bottom))
            if column_sums is not None:
                sums.add_bias(span, column_sums)
    return sums.results()


def slab_backward(
    head: Head, rows: BackwardRows, kept: list[Tensor], needs: NeedsGrad
) -> tuple[Tensor | None, ...]:
    """The backward pass in torch: a tile of logits that was not kept is computed again, all in one scratch buffer."""
    gradient_of = compiled(tile_gradient) if head.plan.compile_epilogue else tile_gradient
    scratch, cap = Scratch(head.plan, head.hidden.device), head.cap_tensor

    def tile_of(
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
        # Recomputed logits are overwritten by their gradient: page faults of fresh memory cost more than that.
        dz = scratch.tile(x.shape[0], slab.shape[0])
        z = head.product(x, slab, lora_hidden, span, dz) if kept is None else kept
        return dz, gradient_of(z, target, row, cap, dz, column_sums)

    return gradients_over_slabs(head, rows, kept, needs, tile_of)


SLABS = SlabBackend(forward=slab_forward, backward=slab_backward)
