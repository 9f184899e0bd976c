"""One call, cut into vocabulary slabs and tiles of rows.

N tokens, H hidden, V vocabulary in use, C rows of a tile, S vocabulary rows of a slab, K LoRA rank.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.token_logprob.head import Lora, Transform, accumulate_dtype

Span = tuple[int, int]
"""(first, end)"""
DEFAULT_LOGIT_BYTES = 1 << 29
"""Logits up to this size are kept for the backward pass. Fixed, so that results do not depend on free memory."""
TILE_ROWS = 2048
TILE_ELEMENTS = 1 << 21
"""Elements of a tile: its fp32 copies stay within a last-level cache, its products stay efficient."""
COMPILE_ELEMENTS = 1 << 25
"""Tokens × vocabulary from which compiling the epilogue on a CPU is worth its seconds."""


@dataclass(frozen=True, kw_only=True)
class SlabPlan:
    """How one problem is cut up."""

    slab: int
    """Vocabulary rows of a slab."""
    rows: int
    """Token rows of a tile."""
    kept_slabs: int
    """How many slabs leave their logits for the backward pass; the others are recomputed."""
    compute: torch.dtype
    """Dtype of the products."""
    compile_epilogue: bool

    def slabs(self, vocab: int) -> Iterator[tuple[int, int]]:
        """(first, end) of each slab."""
        return ((first, min(first + self.slab, vocab)) for first in range(0, vocab, self.slab))

    def tiles(self, rows: int) -> Iterator[tuple[int, int]]:
        """(first, end) of each tile of rows."""
        return ((first, min(first + self.rows, rows)) for first in range(0, rows, self.rows))


@functools.cache
def product_dtype(dtype: torch.dtype, device_type: str) -> torch.dtype:
    """`dtype`, or fp32 on a CPU that has no fast product in it: there fp32 is exact and 10 to 100 times faster."""
    if device_type == "cpu":
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return torch.float32
        if dtype == torch.float16 and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
            return torch.float32
    return dtype


def plan_slabs(
    tokens: int, vocab: int, dtype: torch.dtype, device: torch.device, logit_bytes: int | None
) -> SlabPlan:
    """The plan for `tokens` rows to compute and V = `vocab`: a function of its arguments and the kind of machine.

    Few rows get wide slabs, so that a tile always has as much work and padding costs no overhead either.
    """
    budget = DEFAULT_LOGIT_BYTES if logit_bytes is None else logit_bytes
    rows = max(1, min(tokens, TILE_ROWS))
    slab = max(1, min(vocab, TILE_ELEMENTS // rows))
    return SlabPlan(
        slab=slab,
        rows=rows,
        kept_slabs=-(-vocab // slab)
        if tokens * vocab * dtype.itemsize <= budget
        else budget // (tokens * slab * dtype.itemsize),
        compute=product_dtype(dtype, device.type),
        compile_epilogue=device.type == "cpu" and tokens * vocab >= COMPILE_ELEMENTS,
    )


@dataclass(frozen=True, kw_only=True)
class Head:
    """The tensors of one call, detached, in the dtypes they came in."""

    hidden: Tensor
    """[N, H]"""
    weight: Tensor
    """[V or more, H]"""
    bias: Tensor | None
    """[V or more]"""
    lora: Lora | None
    vocab: int
    transform: Transform
    plan: SlabPlan

    @property
    def scale(self) -> float:
        """Factor on the product, which costs nothing there: to the argument of tanh, or to the logit itself."""
        return 1.0 / (
            self.transform.temperature if self.transform.softcap is None else self.transform.softcap
        )

    @property
    def bound(self) -> Tensor | None:
        """Factor on tanh; a tensor, since the compiler would make a float argument fp64."""
        if self.transform.softcap is None:
            return None
        value = self.transform.softcap / self.transform.temperature
        return torch.tensor(value, dtype=accumulate_dtype(self.plan.compute), device=self.hidden.device)

    def rows(self, index: Tensor | None, first: int, end: int) -> Tensor:
        """Rows `first:end` of `hidden`, or of its selection by `index`, in the dtype of the products."""
        part = self.hidden[first:end] if index is None else self.hidden[index[first:end]]
        return part.to(self.plan.compute)

    def slab(self, first: int, end: int) -> Tensor:
        """Rows `first:end` of the weight [S, H] in the dtype of the products."""
        return self.weight[first:end].to(self.plan.compute)

    def inner(self, index: Tensor | None, rows: int) -> Tensor | None:
        """hidden · aᵀ [rows, K] of the low-rank pair."""
        if self.lora is None:
            return None
        a = self.lora.a.to(self.plan.compute).T
        parts = [self.rows(index, first, end) @ a for first, end in self.plan.tiles(rows)]
        return torch.cat(parts) if parts else self.hidden.new_empty(0, a.shape[1], dtype=self.plan.compute)

    def product(self, hidden: Tensor, slab: Tensor, inner: Tensor | None, span: Span, out: Tensor) -> Tensor:
        """Scaled product [C, S] in `out`, bias and low-rank pair included."""
        first, end = span
        scale = self.scale
        if scale == 1.0:
            torch.mm(hidden, slab.T, out=out)
        else:
            torch.addmm(out, hidden, slab.T, beta=0, alpha=scale, out=out)
        if inner is not None and self.lora is not None:
            b = self.lora.b[first:end].to(inner.dtype)
            out.addmm_(inner, b.T, alpha=self.lora.scale * scale)
        if self.bias is not None:
            out.add_(self.bias[first:end].to(accumulate_dtype(out.dtype)), alpha=scale)
        return out


class Scratch:
    """Tiles reused from slab to slab: fresh memory for each would cost more in page faults than the product."""

    def __init__(self, plan: SlabPlan, device: torch.device) -> None:
        self._flat = torch.empty(plan.rows * plan.slab, dtype=plan.compute, device=device)

    def tile(self, rows: int, columns: int) -> Tensor:
        """Uninitialised [rows, columns]."""
        return self._flat[: rows * columns].view(rows, columns)
