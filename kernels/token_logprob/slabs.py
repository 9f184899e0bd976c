"""Vocabulary slabs in torch, on any device: the logits of a slab of tokens exist, those of all never do.

Forward: for each slab of the vocabulary, product, statistics, merge. Backward: for each slab, the logits (kept or
recomputed), their gradient in one tile, then dX += dZ · W in fp32 and dW = dZᵀ · X, written once.

N tokens, H hidden, V vocabulary in use, R live rows, C rows of a tile, S vocabulary rows of a slab, K LoRA rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.token_logprob.autograd import Engine, ForwardResult
from kernels.token_logprob.epilogue import (
    TileStats,
    bounded,
    compiled,
    merge_stats,
    tile_gradient,
    tile_stats,
)
from kernels.token_logprob.gradients import Gradients, Upstream, Wanted
from kernels.token_logprob.head import accumulate_dtype
from kernels.token_logprob.plan import Head, Scratch


def slab_forward(
    head: Head, targets: Tensor, active: Tensor | None, entropy: bool, keep: bool
) -> ForwardResult:
    """One pass over the vocabulary; `active` [R] selects the rows, None means all; the first `keep` slabs are kept."""
    plan, bound = head.plan, head.bound
    stats_of = compiled(tile_stats) if plan.compile_epilogue else tile_stats
    chosen = targets if active is None else targets[active]
    rows = chosen.shape[0]
    scratch, inner = Scratch(plan, head.hidden.device), head.inner(active, rows)
    accumulate = accumulate_dtype(plan.compute)
    target_logit = torch.full((rows,), torch.nan, dtype=accumulate, device=head.hidden.device)
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
            _pick_targets(z, chosen[top:bottom] - first, target_logit[top:bottom])
            part, before = stats_of(z, bound, entropy), parts[number]
            parts[number] = part if before is None else merge_stats(before, part)
        if stored is not None:
            kept.append(stored)
    return _finish_forward(bound, [part for part in parts if part is not None], target_logit, kept)


def _pick_targets(product: Tensor, local: Tensor, out: Tensor) -> None:
    """Writes `product` [C, S] at column `local` [C] to `out` [C] where that column exists."""
    inside = (local >= 0) & (local < product.shape[1])
    picked = product.gather(1, local.where(inside, 0)[:, None])[:, 0]
    out.copy_(torch.where(inside, picked.to(out.dtype), out))


def _finish_forward(
    bound: Tensor | None, parts: list[TileStats], target_product: Tensor, kept: list[Tensor]
) -> ForwardResult:
    if not parts:
        return ForwardResult(
            log_sum_exp=target_product, logprob=target_product, entropy=target_product, kept=kept
        )
    total = torch.cat([part.total for part in parts])
    log_total = total.log()
    log_sum_exp = torch.cat([part.maximum for part in parts]) + log_total
    moments = [part.moment for part in parts if part.moment is not None]
    return ForwardResult(
        log_sum_exp=log_sum_exp,
        logprob=bounded(target_product, bound) - log_sum_exp,
        entropy=log_total - torch.cat(moments) / total if moments else None,
        kept=kept,
    )


def slab_backward(
    head: Head, live: Upstream, kept: list[Tensor], wanted: Wanted
) -> tuple[Tensor | None, ...]:
    """One pass over the vocabulary for the live rows; `kept` as the forward pass left it."""
    plan, bound = head.plan, head.bound
    gradient_of = compiled(tile_gradient) if plan.compile_epilogue else tile_gradient
    sums = Gradients(head, live, wanted)
    tiles, scratch = list(plan.tiles(live.count)), Scratch(plan, head.hidden.device)
    hidden = head.rows(live.index, 0, live.count) if len(tiles) == 1 else None
    for number, span in enumerate(plan.slabs(head.vocab) if tiles else ()):
        slab = head.slab(*span)
        for top, bottom in tiles:
            x = hidden if hidden is not None else head.rows(live.index, top, bottom)
            if number < len(kept):
                z = (
                    kept[number][top:bottom]
                    if live.position is None
                    else kept[number][live.position[top:bottom]]
                )
            else:
                inner = None if sums.inner is None else sums.inner[top:bottom]
                z = head.product(x, slab, inner, span, scratch.tile(bottom - top, span[1] - span[0]))
            target = live.targets[top:bottom] - span[0]
            row = live.part(top, bottom)
            dz, column_sums = gradient_of(z, target, row, bound, plan.compute, sums.bias is not None)
            sums.add_tile(dz, x, slab, span, (top, bottom))
            if column_sums is not None:
                sums.add_bias(span, column_sums)
    return sums.results()


SLABS = Engine(forward=slab_forward, backward=slab_backward)
