"""Batches of a benchmark: dense, half masked, or as recorded in a training step.

N = B · T tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kernels.token_logprob.shapes import HeadShape

BatchKind = Literal["dense", "half-masked", "recorded"]
RECORDED = Path(__file__).resolve().parents[1] / "token_logprob" / "data" / "grpo_batch.npz"
"""`mask` [B, T] uint8 (1 where a completion token counts in the loss), `advantages` [B] fp32, and `recorded`, one
string that says how it was made. Padding and masked truncated completions are zeros of `mask`; groups without
reward spread are zeros of `advantages`."""
SEQUENCES = 8


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One problem. The loss is -Σ coefficient · log p(target), a GRPO step at ratio 1."""

    hidden: Tensor
    """[N, H]"""
    weight: Tensor
    """[V, H]"""
    targets: Tensor
    """[N] int64, valid in every row"""
    mask: Tensor
    """[B, T] fp32"""
    advantages: Tensor
    """[B] fp32"""

    @property
    def coefficients(self) -> Tensor:
        """[N] fp32: advantage · mask / Σ mask."""
        return (self.advantages[:, None] * self.mask / self.mask.sum().clamp_min(1)).flatten()

    @property
    def masked_targets(self) -> Tensor:
        """[N] int64: -100 where the mask is 0, for the implementations that skip such rows."""
        return self.targets.where(self.mask.flatten() != 0, -100)


def recorded_batch() -> tuple[np.ndarray, np.ndarray, str]:
    """Mask [B, T], advantages [B] and provenance of the recorded step.

    Raises:
        FileNotFoundError: no step has been recorded.
        ValueError: the file is not in the form `RECORDED` states.
    """
    if not RECORDED.is_file():
        raise FileNotFoundError(
            f"no recorded GRPO step at {RECORDED}: the case `recorded` cannot be measured"
        )
    with np.load(RECORDED) as file:
        missing = sorted({"mask", "advantages", "recorded"} - set(file.files))
        if missing:
            raise ValueError(
                f"{RECORDED} must hold mask, advantages and recorded, lacks {', '.join(missing)}"
            )
        mask, advantages, how = file["mask"], file["advantages"], str(file["recorded"])
    if mask.ndim != 2 or advantages.shape != mask.shape[:1]:
        raise ValueError(
            f"{RECORDED}: mask must be [B, T], advantages [B]; got {mask.shape}, {advantages.shape}"
        )
    return mask, advantages, how


def make_batch(shape: HeadShape, kind: BatchKind, dtype: torch.dtype, device: str, seed: int = 0) -> Batch:
    """A batch with hidden states and weights of a trained head's scale, drawn on the CPU from `seed`.

    A recorded batch brings its own number of tokens; `shape` gives the rest.
    """
    generator = torch.Generator().manual_seed(seed)
    if kind == "recorded":
        mask_array, advantage_array, _ = recorded_batch()
        mask, advantages = torch.from_numpy(mask_array).float(), torch.from_numpy(advantage_array).float()
    else:
        sequences = SEQUENCES if shape.tokens % SEQUENCES == 0 else 1
        mask = torch.ones(sequences, shape.tokens // sequences)
        if kind == "half-masked":
            mask[:, mask.shape[1] // 2 :] = 0
        # All the same, for the peers whose only reduction is a sum.
        advantages = torch.ones(sequences)
    tokens = mask.numel()
    batch = Batch(
        hidden=torch.randn(tokens, shape.hidden, generator=generator).to(dtype),
        weight=(torch.randn(shape.vocab, shape.hidden, generator=generator) * shape.hidden**-0.5).to(dtype),
        targets=torch.randint(0, shape.vocab, (tokens,), generator=generator),
        mask=mask,
        advantages=advantages,
    )
    return replace(batch, **{name: value.to(device) for name, value in vars(batch).items()})
