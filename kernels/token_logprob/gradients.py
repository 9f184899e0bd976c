"""Sums of the backward pass over vocabulary slabs, the same for tiles of d logits from torch and from Triton.

dX is summed over slabs in fp32; the part of dW and d bias that belongs to one slab is written once.

N tokens, H hidden, V vocabulary in use, R rows with a gradient, C rows of a tile, S vocabulary rows of a
slab, K LoRA rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.device_choice import device_type, is_simulated
from kernels.token_logprob.dtypes import accumulate_dtype
from kernels.token_logprob.epilogue import RowGradient
from kernels.token_logprob.head import Head
from kernels.token_logprob.plan import Span


@dataclass(frozen=True)
class NeedsGrad:
    """Which inputs need a gradient, in the order of autograd's `needs_input_grad`."""

    hidden: bool
    weight: bool
    bias: bool
    lora_a: bool
    lora_b: bool
    weight_grad: Tensor | None = None
    """The gradient [V or more, H] that the weight's is added to in place, instead of being returned."""


@dataclass(frozen=True, kw_only=True)
class BackwardRows:
    """The R rows of a backward pass: those with a gradient."""

    index: Tensor | None
    """Their positions in `hidden` [R]; None: all rows."""
    kept_index: Tensor | None
    """Their positions in the logits that the forward pass kept [R]; None: all rows."""
    targets: Tensor
    """[R] int64"""
    gradient: RowGradient

    @property
    def count(self) -> int:
        """R."""
        return self.targets.shape[0]

    def tile(self, top: int, bottom: int) -> RowGradient:
        """The coefficients of rows `top:bottom`."""
        log_sum_exp, target_coef, softmax_coef, entropy_coef = self.gradient
        return RowGradient(
            log_sum_exp=log_sum_exp[top:bottom],
            target_coef=target_coef[top:bottom],
            softmax_coef=softmax_coef[top:bottom],
            entropy_coef=None if entropy_coef is None else entropy_coef[top:bottom],
        )


def rows_with_gradient(
    targets: Tensor,
    valid: Tensor | None,
    log_sum_exp: Tensor,
    entropy: Tensor | None,
    upstream: tuple[Tensor | None, Tensor | None],
    temperature: float,
) -> BackwardRows:
    """The rows whose upstream gradients are not both exactly zero, with their coefficients; NaN is not zero.

    With g and h the upstream gradients of log-prob and entropy H: d z = g · 1[target] - p · (g + h · (log p + H)).

    Args:
        targets: [N].
        valid: positions [M] of the rows that the forward pass computed; None: all N.
        log_sum_exp: [M], as is `entropy`.
        upstream: (g, h), each [N] or None.
    """
    d_logprob, d_entropy = (
        None if value is None else (value if valid is None else value[valid]).to(log_sum_exp.dtype)
        for value in upstream
    )
    if d_logprob is None:
        d_logprob = torch.zeros_like(log_sum_exp)
    if d_entropy is not None and not bool(d_entropy.any()):
        d_entropy = None
    nonzero = d_logprob != 0 if d_entropy is None else (d_logprob != 0) | (d_entropy != 0)
    kept_index = None if bool(nonzero.all()) else nonzero.nonzero()[:, 0]

    def selected(value: Tensor) -> Tensor:
        return value if kept_index is None else value[kept_index]

    index = kept_index if valid is None else selected(valid)
    target_coef = softmax_coef = selected(d_logprob) / temperature
    entropy_coef = None
    if d_entropy is not None and entropy is not None:
        entropy_coef = selected(d_entropy) / temperature
        softmax_coef = softmax_coef + entropy_coef * selected(entropy)
    return BackwardRows(
        index=index,
        kept_index=kept_index,
        targets=targets if index is None else targets[index],
        gradient=RowGradient(selected(log_sum_exp), target_coef, softmax_coef, entropy_coef),
    )


def _wide_product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """left @ right, in `dtype` where the device's library writes what it has summed."""
    if device_type(left.device) != "cuda":
        return left @ right
    if is_simulated():  # a CPU has no such product, fake or not
        return left.new_empty(left.shape[0], right.shape[1], dtype=dtype)
    return torch.mm(left, right, out_dtype=dtype)


def add_product(
    total: Tensor, left: Tensor, right: Tensor, factor: float = 1.0, overwrite: bool = False
) -> None:
    """total += factor · left @ right, `total` in fp32 whatever the dtype of the product; or = with `overwrite`."""
    if left.dtype == total.dtype:
        total.addmm_(left, right, beta=0.0 if overwrite else 1.0, alpha=factor)
        return
    product = _wide_product(left, right, total.dtype)
    if overwrite:
        total.zero_()
    total.add_(product, alpha=factor)


class SlabSum:
    """A gradient [V, ·], the product dzᵀ · right summed over tiles of rows, one slab at a time.

    It is added to `existing`, if that is given, and otherwise a new tensor. Each element is written once.
    """

    def __init__(self, like: Tensor, head: Head, rows: int, existing: Tensor | None = None) -> None:
        self._adds = existing is not None
        self.out = torch.empty_like(like) if existing is None else existing
        if existing is None:
            self.out[head.vocab if rows else 0 :].zero_()
        self._accumulate = accumulate_dtype(head.plan.compute)
        self._scratch: Tensor | None = None
        self._rows = rows
        # A single product is rounded once, when it is written: it needs no fp32 sum.
        self._single_product = rows <= head.plan.tile_rows and not self._adds

    def add(self, span: Span, rows: Span, dz: Tensor, right: Tensor, factor: float) -> None:
        """Adds the tile dz [C, S] of token rows `rows` to the slab `span`."""
        slab = self.out[span[0] : span[1]]
        total = slab
        if slab.dtype != self._accumulate and not (self._single_product and dz.dtype == slab.dtype):
            if self._scratch is None:
                self._scratch = slab.new_empty(slab.shape, dtype=self._accumulate)
            total = self._scratch[: slab.shape[0]]
        add_product(total, dz.T, right, factor, overwrite=rows[0] == 0 and not (self._adds and total is slab))
        if rows[1] == self._rows and total is not slab:
            slab.copy_(total + slab if self._adds else total)


class Gradients:
    """The sums of one backward pass, for the inputs that need a gradient; None for the others."""

    def __init__(self, head: Head, rows: BackwardRows, needs: NeedsGrad) -> None:
        self.head, self.rows, self._in_place = head, rows, needs.weight_grad is not None
        lora, bias = head.lora, head.bias
        zeros, dtype = head.hidden.new_zeros, accumulate_dtype(head.plan.compute)
        self.lora_hidden = head.lora_hidden(rows.index, rows.count)
        self.weight = SlabSum(head.weight, head, rows.count, needs.weight_grad) if needs.weight else None
        self.lora_b = SlabSum(lora.b, head, rows.count) if lora is not None and needs.lora_b else None
        self.bias = zeros(bias.shape, dtype=dtype) if bias is not None and needs.bias else None
        self.hidden, self.d_lora_hidden, self.lora_a = None, None, None
        if needs.hidden:
            self.hidden = zeros(rows.count, head.hidden.shape[1], dtype=dtype)
        if lora is not None and (needs.hidden or needs.lora_a):
            self.d_lora_hidden = zeros(rows.count, lora.a.shape[0], dtype=dtype)
        if lora is not None and needs.lora_a:
            self.lora_a = zeros(lora.a.shape, dtype=dtype)

    def add_tile(self, dz: Tensor, hidden: Tensor, slab: Tensor, span: Span, rows: Span) -> None:
        """Adds the part of one tile dz [C, S], of vocabulary rows `span` and token rows `rows`."""
        (first, end), (top, bottom), lora = span, rows, self.head.lora
        if self.hidden is not None:
            add_product(self.hidden[top:bottom], dz, slab)
        if self.weight is not None:
            self.weight.add(span, rows, dz, hidden, 1.0)
        if lora is None or self.lora_hidden is None:
            return
        if self.d_lora_hidden is not None:
            add_product(self.d_lora_hidden[top:bottom], dz, lora.b[first:end].to(dz.dtype), lora.scale)
        if self.lora_b is not None:
            self.lora_b.add(span, rows, dz, self.lora_hidden[top:bottom], lora.scale)

    def add_bias(self, span: Span, column_sums: Tensor) -> None:
        """Adds the column sums [S] of one tile."""
        if self.bias is not None:
            self.bias[span[0] : span[1]] += column_sums

    def _backward_of_lora_hidden(self) -> None:
        """Adds the gradient of hidden · aᵀ to those of hidden and a."""
        head, compute = self.head, self.head.plan.compute
        if self.d_lora_hidden is None or head.lora is None:
            return
        a = head.lora.a.to(compute)
        for top, bottom in head.plan.tiles(self.rows.count):
            d_lora_hidden = self.d_lora_hidden[top:bottom].to(compute)
            if self.hidden is not None:
                add_product(self.hidden[top:bottom], d_lora_hidden, a)
            if self.lora_a is not None:
                add_product(self.lora_a, d_lora_hidden.T, head.rows(self.rows.index, top, bottom))

    def results(self) -> tuple[Tensor | None, ...]:
        """Gradients of hidden, weight, bias, lora.a and lora.b in the dtypes of these; None where not needed."""
        self._backward_of_lora_hidden()
        head, lora = self.head, self.head.lora
        d_hidden = None
        if self.hidden is not None:
            d_hidden = self.hidden.to(head.hidden.dtype)
            if self.rows.index is not None:
                d_hidden = torch.zeros_like(head.hidden).index_copy_(0, self.rows.index, d_hidden)
        return (
            d_hidden,
            None if self.weight is None or self._in_place else self.weight.out,
            None if self.bias is None or head.bias is None else self.bias.to(head.bias.dtype),
            None if self.lora_a is None or lora is None else self.lora_a.to(lora.a.dtype),
            None if self.lora_b is None else self.lora_b.out,
        )
