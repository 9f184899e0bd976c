"""The backward pass over vocabulary slabs, whoever makes the tiles of d logits: torch or a Triton kernel.

Sums over slabs are fp32; what belongs to one slab (dW, d bias) is written, or added to a gradient there, once.

N tokens, H hidden, V vocabulary in use, R live rows, C rows of a tile, S vocabulary rows of a slab, K LoRA rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.token_logprob.epilogue import RowGradient
from kernels.token_logprob.head import accumulate_dtype
from kernels.token_logprob.plan import Head, Span


@dataclass(frozen=True)
class Wanted:
    """Which gradients autograd asks for."""

    hidden: bool
    weight: bool
    bias: bool
    lora_a: bool
    lora_b: bool
    into: Tensor | None = None
    """Where the weight's gradient is added [V or more, H], instead of being returned."""


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """The live rows of a backward pass, R of them."""

    index: Tensor | None
    """Their positions in `hidden` [R]; None means all."""
    position: Tensor | None
    """Their positions among the rows of the forward pass [R]; None means all."""
    targets: Tensor
    row: RowGradient

    @property
    def count(self) -> int:
        return self.targets.shape[0]

    def part(self, top: int, bottom: int) -> RowGradient:
        """The coefficients of rows `top:bottom`."""
        log_sum_exp, direct, spread, entropy = self.row
        part = slice(top, bottom)
        return RowGradient(
            log_sum_exp[part], direct[part], spread[part], None if entropy is None else entropy[part]
        )


def live_rows(
    targets: Tensor,
    active: Tensor | None,
    log_sum_exp: Tensor,
    entropy: Tensor | None,
    upstream: tuple[Tensor | None, Tensor | None],
    temperature: float,
) -> Upstream:
    """Drops every row whose upstream gradients are exactly zero; NaN is not zero.

    With g and h the gradients of log-prob and entropy H: d z = g · 1[target] - p · (g + h · (log p + H)).
    """
    accumulate = log_sum_exp.dtype
    direct, spread_entropy = (
        None if value is None else (value if active is None else value[active]).to(accumulate)
        for value in upstream
    )
    if direct is None:
        direct = torch.zeros_like(log_sum_exp)
    if spread_entropy is not None and not bool(spread_entropy.any()):
        spread_entropy = None
    alive = direct != 0 if spread_entropy is None else (direct != 0) | (spread_entropy != 0)
    position = None if bool(alive.all()) else alive.nonzero()[:, 0]

    def live(value: Tensor) -> Tensor:
        return value if position is None else value[position]

    index = active if position is None else position if active is None else active[position]
    direct, spread = live(direct) / temperature, live(direct) / temperature
    if spread_entropy is not None and entropy is not None:
        spread_entropy = live(spread_entropy) / temperature
        spread = spread + spread_entropy * live(entropy)
    row = RowGradient(live(log_sum_exp), direct, spread, spread_entropy)
    return Upstream(
        index=index, position=position, targets=targets if index is None else targets[index], row=row
    )


def add_product(
    total: Tensor, left: Tensor, right: Tensor, factor: float = 1.0, overwrite: bool = False
) -> None:
    """total += factor · left @ right, `total` in fp32 whatever the dtype of the product; or = with `overwrite`."""
    if left.dtype == total.dtype:
        total.addmm_(left, right, beta=0.0 if overwrite else 1.0, alpha=factor)
        return
    product = torch.mm(left, right, out_dtype=total.dtype) if left.is_cuda else left @ right
    if overwrite:
        total.zero_()
    total.add_(product, alpha=factor)


class SlabSum:
    """A gradient [V, ·] made of products dzᵀ · right, one slab at a time, each row written once.

    With `into` it is added to what that holds, slab by slab.
    """

    def __init__(self, like: Tensor, head: Head, live_rows: int, into: Tensor | None = None) -> None:
        self._adds = into is not None
        self.out = torch.empty_like(like) if into is None else into
        if into is None:
            self.out[head.vocab if live_rows else 0 :].zero_()
        self._accumulate = accumulate_dtype(head.plan.compute)
        self._scratch: Tensor | None = None
        self._rows = live_rows
        # A single product is rounded once, on its way out: it needs no fp32 sum.
        self._rounds_itself = live_rows <= head.plan.rows and not self._adds

    def add(self, span: Span, rows: Span, dz: Tensor, right: Tensor, factor: float) -> None:
        """Adds the tile dz [C, S] of token rows `rows` to the slab `span`."""
        slab = self.out[span[0] : span[1]]
        total = slab
        if slab.dtype != self._accumulate and not (self._rounds_itself and dz.dtype == slab.dtype):
            if self._scratch is None:
                self._scratch = slab.new_empty(slab.shape, dtype=self._accumulate)
            total = self._scratch[: slab.shape[0]]
        add_product(total, dz.T, right, factor, overwrite=rows[0] == 0 and not (self._adds and total is slab))
        if rows[1] == self._rows and total is not slab:
            slab.copy_(total + slab if self._adds else total)


class Gradients:
    """Everything a backward pass adds up, for the gradients that are wanted."""

    def __init__(self, head: Head, live: Upstream, wanted: Wanted) -> None:
        self.head, self.live, self._into, rows = head, live, wanted.into, live.count
        lora, width = head.lora, head.hidden.shape[1]
        accumulate, device = accumulate_dtype(head.plan.compute), head.hidden.device
        self.inner = head.inner(live.index, rows)
        self.weight = SlabSum(head.weight, head, rows, wanted.into) if wanted.weight else None
        self.lora_b = SlabSum(lora.b, head, rows) if lora is not None and wanted.lora_b else None
        self.bias = (
            torch.zeros_like(head.bias, dtype=accumulate) if head.bias is not None and wanted.bias else None
        )
        self.hidden, self.d_inner = None, None
        if wanted.hidden:
            self.hidden = torch.zeros(rows, width, dtype=accumulate, device=device)
        if lora is not None and (wanted.hidden or wanted.lora_a):
            self.d_inner = torch.zeros(rows, lora.a.shape[0], dtype=accumulate, device=device)
        self.d_lora_a = (
            torch.zeros_like(lora.a, dtype=accumulate) if lora is not None and wanted.lora_a else None
        )

    def add_tile(self, dz: Tensor, hidden: Tensor, slab: Tensor, span: Span, rows: Span) -> None:
        """Adds what flows through one tile dz [C, S]: of vocabulary rows `span` and live rows `rows`."""
        (first, end), (top, bottom), lora = span, rows, self.head.lora
        if self.hidden is not None:
            add_product(self.hidden[top:bottom], dz, slab)
        if self.weight is not None:
            self.weight.add(span, rows, dz, hidden, 1.0)
        if lora is None or self.inner is None:
            return
        if self.d_inner is not None:
            add_product(self.d_inner[top:bottom], dz, lora.b[first:end].to(dz.dtype), lora.scale)
        if self.lora_b is not None:
            self.lora_b.add(span, rows, dz, self.inner[top:bottom], lora.scale)

    def add_bias(self, span: Span, column_sums: Tensor) -> None:
        """Adds the column sums [S] of one tile."""
        if self.bias is not None:
            self.bias[span[0] : span[1]] += column_sums

    def finish_inner(self) -> None:
        """Passes the gradient of hidden · aᵀ on to both of its factors."""
        head, compute = self.head, self.head.plan.compute
        if self.d_inner is None or head.lora is None:
            return
        a = head.lora.a.to(compute)
        for top, bottom in head.plan.tiles(self.live.count):
            d_inner = self.d_inner[top:bottom].to(compute)
            if self.hidden is not None:
                add_product(self.hidden[top:bottom], d_inner, a)
            if self.d_lora_a is not None:
                add_product(self.d_lora_a, d_inner.T, head.rows(self.live.index, top, bottom))

    def results(self) -> tuple[Tensor | None, ...]:
        """Gradients of hidden, weight, bias, lora.a and lora.b in the dtypes of these; None where not wanted."""
        self.finish_inner()
        head, lora = self.head, self.head.lora
        d_hidden = None
        if self.hidden is not None:
            d_hidden = self.hidden.to(head.hidden.dtype)
            if self.live.index is not None:
                d_hidden = torch.zeros_like(head.hidden).index_copy_(0, self.live.index, d_hidden)
        return (
            d_hidden,
            None if self.weight is None or self._into is not None else self.weight.out,
            None if self.bias is None or head.bias is None else self.bias.to(head.bias.dtype),
            None if self.d_lora_a is None or lora is None else self.d_lora_a.to(lora.a.dtype),
            None if self.lora_b is None else self.lora_b.out,
        )
