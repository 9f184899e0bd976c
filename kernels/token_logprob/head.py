"""The language-model head of one call: its tensors, and the matrix products that every backend takes of them.

N tokens, H hidden, V vocabulary in use, C rows of a tile, S vocabulary rows of a slab, K LoRA rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.token_logprob.dtypes import accumulate_dtype
from kernels.token_logprob.plan import SlabPlan, Span
from kernels.token_logprob.types import Lora, Transform


@dataclass(frozen=True, kw_only=True)
class Head:
    """The tensors of one call, detached, in the dtypes they came in, and the plan of the call."""

    hidden: Tensor
    """[N, H]"""
    weight: Tensor
    """[V or more, H]"""
    bias: Tensor | None
    """[V or more]"""
    lora: Lora | None
    vocab: int
    """V"""
    transform: Transform
    plan: SlabPlan

    @property
    def alpha(self) -> float:
        """alpha of the GEMM: 1/softcap when a softcap follows, else 1/temperature. Folding it in is free."""
        return 1.0 / (
            self.transform.temperature if self.transform.softcap is None else self.transform.softcap
        )

    @property
    def cap(self) -> float | None:
        """softcap / temperature, the factor on tanh; None without a softcap."""
        softcap = self.transform.softcap
        return None if softcap is None else softcap / self.transform.temperature

    @property
    def cap_tensor(self) -> Tensor | None:
        """`cap`, 0-dimensional in the accumulation dtype: `torch.compile` would make a float argument fp64."""
        if self.cap is None:
            return None
        return torch.tensor(self.cap, dtype=accumulate_dtype(self.plan.compute), device=self.hidden.device)

    def rows(self, index: Tensor | None, first: int, end: int) -> Tensor:
        """Rows `first:end` of `hidden`, or of its rows `index`, in the dtype of the products."""
        part = self.hidden[first:end] if index is None else self.hidden[index[first:end]]
        return part.to(self.plan.compute)

    def slab(self, first: int, end: int) -> Tensor:
        """Rows `first:end` of the weight [S, H] in the dtype of the products."""
        return self.weight[first:end].to(self.plan.compute)

    def lora_hidden(self, index: Tensor | None, rows: int) -> Tensor | None:
        """hidden · aᵀ [rows, K], the adapter's down projection; None without an adapter."""
        if self.lora is None:
            return None
        a = self.lora.a.to(self.plan.compute).T
        parts = [self.rows(index, first, end) @ a for first, end in self.plan.tiles(rows)]
        return torch.cat(parts) if parts else self.hidden.new_empty(0, a.shape[1], dtype=self.plan.compute)

    def product(
        self, hidden: Tensor, slab: Tensor, lora_hidden: Tensor | None, span: Span, out: Tensor
    ) -> Tensor:
        """alpha · (hidden · weightᵀ + bias) [C, S] in `out`, the adapter included."""
        first, end = span
        alpha = self.alpha
        if alpha == 1.0:
            torch.mm(hidden, slab.T, out=out)
        else:
            torch.addmm(out, hidden, slab.T, beta=0, alpha=alpha, out=out)
        if lora_hidden is not None and self.lora is not None:
            b = self.lora.b[first:end].to(lora_hidden.dtype)
            out.addmm_(lora_hidden, b.T, alpha=self.lora.scale * alpha)
        if self.bias is not None:
            out.add_(self.bias[first:end].to(accumulate_dtype(out.dtype)), alpha=alpha)
        return out


class Scratch:
    """Tiles reused from slab to slab: fresh memory for each would cost more in page faults than the product."""

    def __init__(self, plan: SlabPlan, device: torch.device) -> None:
        self._flat = torch.empty(plan.tile_rows * plan.slab_columns, dtype=plan.compute, device=device)

    def tile(self, rows: int, columns: int) -> Tensor:
        """Uninitialised [rows, columns]."""
        return self._flat[: rows * columns].view(rows, columns)
