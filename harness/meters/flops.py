"""Model FLOPs and their share of what the device can do.

The model: 2 FLOPs per weight and token in a forward pass, twice that in a backward pass, plus the two attention
products, 4·hidden·context per layer and token forward (Kaplan et al., arXiv 2001.08361, table 1, with the
attention term that PaLM's MFU definition adds, arXiv 2204.02311, appendix B). Recomputation does not count.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class FlopsModel:
    """FLOPs of a dense decoder.

    Attributes:
        weights: parameters that take part in a matrix product: all but the input embedding table, with the
            head counted once even where it is tied to that table.
        hidden: width of the residual stream.
        layers: decoder layers.
    """

    weights: int
    hidden: int
    layers: int

    @property
    def words(self) -> str:
        """The model in words, for the record."""
        return (
            f"2 FLOPs a token for each of {self.weights:,} matrix weights (the head counts, the embedding does not), "
            f"plus 4 x {self.layers} layers x {self.hidden} x keys seen; backward twice that, recomputation none"
        )

    def forward(self, lengths: Iterable[float], *, prefix: Iterable[float] | None = None) -> float:
        """FLOPs of a forward pass over sequences of `lengths` tokens, the first `prefix` of them held already."""
        lengths = list(lengths)
        prefixes = [0] * len(lengths) if prefix is None else list(prefix)
        total = 0.0
        for length, held in zip(lengths, prefixes):
            tokens = length - held
            context = (held + 1 + length) / 2  # mean number of keys that a causal query sees
            total += tokens * (2 * self.weights + 4 * self.layers * self.hidden * context)
        return total

    def train(self, lengths: Iterable[float]) -> float:
        """FLOPs of a forward and backward pass."""
        return 3 * self.forward(lengths)


def measured_peak(*, bf16: bool = False, seconds: float = 0.15, size: int = 1024) -> float:
    """FLOP/s of square matrix products on this process's CPU threads: the peak that CPU utilisation refers to."""
    import torch

    dtype = torch.bfloat16 if bf16 else torch.float32
    a = torch.full((size, size), 0.5, dtype=dtype)
    a @ a
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
