"""Vocabulary slabs in torch, on any device: the logits of a slab of tokens exist, those of all never do.

Forward: for each slab of the vocabulary, product, statistics, merge. Backward: for each slab, the logits (kept or
recomputed), their gradient in one tile, then dX += dZ · W in fp32 and dW = dZᵀ · X, written once.

N tokens, H hidden, V vocabulary in use, R live rows, C rows of a tile, S vocabulary rows of a slab, K LoRA rank.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from kernels.token_logprob.autograd import Engine, ForwardResult
from kernels.token_logprob.epilogue import (
    RowGradient,
    TileStats,
    bounded,
    compiled,
    merge_stats,
    tile_gradient,
    tile_stats,
)
from kernels.token_logprob.gradients import Gradients, Upstream, Wanted
from kernels.token_logprob.head import accumulate_dtype
from kernels.token_logprob.plan import Head, Scratch, Span


def slab_forward(
    head: Head, targets: Tensor, active: Tensor | None, entropy: bool, keep: int
) -> ForwardResult:
    """One pass over the vocabulary; `active` [R] selects the rows, None means all; the first `keep` slabs stay."""
    plan, bound = head.plan, head.bound
    stats_of = compiled(tile_stats) if plan.compile_epilogue else tile_stats
    chosen = targets if active is None else targets[active]
    rows = chosen.shape[0]
    scratch, inner = Scratch(plan, head.hidden.device), head.inner(active, rows)
    accumulate = accumulate_dtype(plan.compute)
    target_product = torch.full((rows,), torch.nan, dtype=accumulate, device=head.hidden.device)
    tiles = list(plan.tiles(rows))
    parts: list[TileStats | None] = [None] * len(tiles)
    hidden = head.rows(active, 0, rows) if len(tiles) == 1 else None
    kept = []
    for order, (first, end) in enumerate(plan.slabs(head.vocab) if tiles else ()):
        slab = head.slab(first, end)
        stored = head.hidden.new_empty(rows, end - first) if order < keep else None
        for number, (top, bottom) in enumerate(tiles):
            x = hidden if hidden is not None else head.rows(active, top, bottom)
            direct = stored is not None and stored.dtype == plan.compute
            out = (
                stored[top:bottom]
                if stored is not None and direct
                else scratch.tile(bottom - top, end - first)
            )
            z = head.product(x, slab, None if inner is None else inner[top:bottom], (first, end), out)
            if stored is not None and not direct:
                stored[top:bottom] = z
            _pick_targets(z, chosen[top:bottom] - first, target_product[top:bottom])
            part, before = stats_of(z, bound, entropy), parts[number]
            parts[number] = part if before is None else merge_stats(before, part)
        if stored is not None:
            kept.append(stored)
    finished = [part for part in parts if part is not None]
    return finish_forward(finished, bounded(target_product, bound), kept)


def _pick_targets(product: Tensor, local: Tensor, out: Tensor) -> None:
    """Writes `product` [C, S] at column `local` [C] to `out` [C] where that column exists."""
    inside = (local >= 0) & (local < product.shape[1])
    picked = product.gather(1, local.where(inside, 0)[:, None])[:, 0]
    out.copy_(torch.where(inside, picked.to(out.dtype), out))


def finish_forward(parts: list[TileStats], target_logit: Tensor, kept: list[Tensor]) -> ForwardResult:
    """Outputs from the statistics of each tile of rows and the logits of the targets [R]."""
    if not parts:
        return ForwardResult(log_sum_exp=target_logit, logprob=target_logit, entropy=target_logit, kept=kept)
    total = torch.cat([part.total for part in parts])
    log_total = total.log()
    log_sum_exp = torch.cat([part.maximum for part in parts]) + log_total
    moments = [part.moment for part in parts if part.moment is not None]
    return ForwardResult(
        log_sum_exp=log_sum_exp,
        logprob=target_logit - log_sum_exp,
        entropy=log_total - torch.cat(moments) / total if moments else None,
        kept=kept,
    )


class GradientTile(Protocol):
    """Makes one tile of d logits."""

    def __call__(
        self,
        head: Head,
        x: Tensor,
        slab: Tensor,
        inner: Tensor | None,
        span: Span,
        kept: Tensor | None,
        target: Tensor,
        row: RowGradient,
        column_sums: bool,
        /,
    ) -> tuple[Tensor, Tensor | None]:
        """dz [C, S] and, if wanted, its column sums [S] fp32, of hidden [C, H], the slab's weight [S, H], its
        inner product with the low-rank pair [C, K], its vocabulary rows, its logits if they were kept, the
        targets [C] counted from the slab's first row, and the rows' coefficients."""


def gradients_over_slabs(
    head: Head, live: Upstream, kept: list[Tensor], wanted: Wanted, tile_of: GradientTile
) -> tuple[Tensor | None, ...]:
    """One pass over the vocabulary for the live rows; `kept` as the forward pass left it."""
    plan = head.plan
    sums = Gradients(head, live, wanted)
    tiles = list(plan.tiles(live.count))
    hidden = head.rows(live.index, 0, live.count) if len(tiles) == 1 else None
    for number, span in enumerate(plan.slabs(head.vocab) if tiles else ()):
        slab = head.slab(*span)
        for top, bottom in tiles:
            x = hidden if hidden is not None else head.rows(live.index, top, bottom)
            inner = None if sums.inner is None else sums.inner[top:bottom]
            z = None
            if number < len(kept):
                z = (
                    kept[number][top:bottom]
                    if live.position is None
                    else kept[number][live.position[top:bottom]]
                )
            target, row = live.targets[top:bottom] - span[0], live.part(top, bottom)
            dz, column_sums = tile_of(head, x, slab, inner, span, z, target, row, sums.bias is not None)
            sums.add_tile(dz, x, slab, span, (top, bottom))
            if column_sums is not None:
                sums.add_bias(span, column_sums)
    return sums.results()


def slab_backward(
    head: Head, live: Upstream, kept: list[Tensor], wanted: Wanted
) -> tuple[Tensor | None, ...]:
    """Each tile of logits, if it was not kept, by a library product into the same scratch."""
    gradient_of = compiled(tile_gradient) if head.plan.compile_epilogue else tile_gradient
    scratch, bound = Scratch(head.plan, head.hidden.device), head.bound

    def tile_of(
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
        # The gradient takes the place of the logits, or their copy's: fresh memory would cost more than the epilogue.
        dz = scratch.tile(x.shape[0], slab.shape[0])
        z = head.product(x, slab, inner, span, dz) if kept is None else kept
        return dz, gradient_of(z, target, row, bound, dz, column_sums)

    return gradients_over_slabs(head, live, kept, wanted, tile_of)


SLABS = Engine(forward=slab_forward, backward=slab_backward)
