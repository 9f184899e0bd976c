"""How one call is cut into vocabulary slabs and tiles of token rows.

N tokens, V vocabulary in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from kernels.device_choice import device_type, is_simulated
from kernels.token_logprob.dtypes import product_dtype

Span = tuple[int, int]
"""(first, end)"""
DEFAULT_LOGIT_BYTES = 1 << 29
"""Logits up to this size are kept for the backward pass. Fixed, so that results do not depend on free memory."""

TILE_ROWS = 2048
TILE_ELEMENTS = 1 << 21
"""Elements of a tile in torch: its fp32 copies stay within a last-level cache, its products stay efficient."""
COMPILE_ELEMENTS = 1 << 25
"""Tokens × vocabulary from which compiling the epilogue on a CPU saves more seconds than it takes."""

SLAB_BYTES = 1 << 27
"""Scratch memory of the Triton backward pass: one slab of d logits."""
FEWEST_COLUMNS = 1024
"""Least number of vocabulary rows of a Triton slab: with fewer its matrix products would be launch-bound."""


@dataclass(frozen=True, kw_only=True)
class SlabPlan:
    """How one problem is cut up."""

    slab_columns: int
    """Vocabulary rows of a slab, which are the columns of its logits."""
    tile_rows: int
    """Token rows of a tile."""
    kept_slabs: int
    """How many slabs keep their logits for the backward pass, from the first on; the others are recomputed."""
    compute: torch.dtype
    """Dtype of the products."""
    compile_epilogue: bool
    """Whether the work on a tile of logits goes through `torch.compile`."""

    def slabs(self, vocab: int) -> Iterator[Span]:
        """(first, end) of each slab."""
        return _spans(vocab, self.slab_columns)

    def tiles(self, rows: int) -> Iterator[Span]:
        """(first, end) of each tile of rows."""
        return _spans(rows, self.tile_rows)


def _spans(total: int, size: int) -> Iterator[Span]:
    return ((first, min(first + size, total)) for first in range(0, total, size))


def plan_slabs(
    tokens: int, vocab: int, dtype: torch.dtype, device: torch.device, logit_bytes: int | None
) -> SlabPlan:
    """The plan of the torch backend for `tokens` rows to compute and V = `vocab`.

    A function of its arguments and the kind of machine. Few rows get wide slabs, so that a tile always has as much
    work. `logit_bytes` as in `token_logprob`.
    """
    rows = max(1, min(tokens, TILE_ROWS))
    columns = max(1, min(vocab, TILE_ELEMENTS // rows))
    return SlabPlan(
        slab_columns=columns,
        tile_rows=rows,
        kept_slabs=_kept_slabs(tokens, vocab, columns, dtype, logit_bytes),
        compute=product_dtype(dtype, device_type(device)),
        compile_epilogue=device.type == "cpu" and not is_simulated() and tokens * vocab >= COMPILE_ELEMENTS,
    )


def plan_fused(tokens: int, vocab: int, dtype: torch.dtype, logit_bytes: int | None) -> SlabPlan:
    """The plan of the Triton backend: all rows in one tile, slabs as wide as `SLAB_BYTES` allows."""
    rows = max(1, tokens)
    columns = min(vocab, max(FEWEST_COLUMNS, SLAB_BYTES // (rows * dtype.itemsize) // 128 * 128))
    return SlabPlan(
        slab_columns=columns,
        tile_rows=rows,
        kept_slabs=_kept_slabs(tokens, vocab, columns, dtype, logit_bytes),
        compute=dtype,
        compile_epilogue=False,
    )


def _kept_slabs(tokens: int, vocab: int, columns: int, dtype: torch.dtype, logit_bytes: int | None) -> int:
    """Slabs whose logits fit in the budget; the last slab may be narrower, so all of them are counted apart."""
    budget = DEFAULT_LOGIT_BYTES if logit_bytes is None else logit_bytes
    if tokens * vocab * dtype.itemsize <= budget:
        return -(-vocab // columns)
    return budget // (tokens * columns * dtype.itemsize)
