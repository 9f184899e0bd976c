"""Batches for the GRPO loss tests: every padding pattern and every clipping side in one batch."""

from __future__ import annotations

from typing import NamedTuple, get_args

import torch

from kernels.grpo_loss.objective import VARIANTS, Importance, Kl

LOSSES = tuple(VARIANTS)
CLIPPED = tuple(name for name, variant in VARIANTS.items() if variant.surrogate == "clip")
IMPORTANCE = get_args(Importance)
KLS = get_args(Kl)
T = 8
PATTERNS = {
    "full": [1, 1, 1, 1, 1, 1, 1, 1],
    "right padded": [1, 1, 1, 1, 1, 0, 0, 0],
    "left padded": [0, 0, 0, 1, 1, 1, 1, 1],
    "holes": [1, 0, 1, 1, 0, 0, 1, 0],
    "one token": [0, 0, 1, 0, 0, 0, 0, 0],
    "empty": [0, 0, 0, 0, 0, 0, 0, 0],
}
# Log-ratios, by sequence: clipped low, inside, clipped high, above δ and CISPO's cap.
SHIFTS = (-0.6, 0.02, 0.45, 1.9)


class Batch(NamedTuple):
    logprob: torch.Tensor
    advantages: torch.Tensor
    mask: torch.Tensor
    old: torch.Tensor
    reference: torch.Tensor
    rollout: torch.Tensor
    entropy: torch.Tensor
    truncated: torch.Tensor

    def to(self, dtype):
        return Batch(*(v.to(dtype) if v.is_floating_point() else v for v in self))

    def arguments(self):
        """As keyword arguments of `grpo_loss`, besides the first three."""
        return {
            "old_logprob": self.old,
            "reference_logprob": self.reference,
            "rollout_logprob": self.rollout,
        }


def make_batch(seed: int = 0, patterns=tuple(PATTERNS), shifts=SHIFTS) -> Batch:
    """One sequence per pattern and shift, advantage signs alternating; fp64 values that fp16 holds exactly."""
    g = torch.Generator().manual_seed(seed)
    rows = [(p, s) for s in shifts for p in patterns]
    B = len(rows)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    def exact(values):
        return values.half().double()

    shift = torch.tensor([s for _, s in rows], dtype=torch.float64)[:, None]
    logprob = exact(-1.5 - normal(B, T).abs())
    old = exact(logprob - shift - 0.15 * normal(B, T))
    sign = torch.tensor([1.0 if (i + i // len(patterns)) % 2 else -1.0 for i in range(B)])
    advantages = exact(sign.double() * (0.3 + normal(B).abs()))
    gap = 0.5 * normal(B, 1) + 0.6 * normal(B, T)
    return Batch(
        logprob=logprob,
        advantages=advantages,
        mask=torch.tensor([PATTERNS[p] for p, _ in rows], dtype=torch.bool),
        old=old,
        reference=exact(logprob - 0.1 - 0.7 * normal(B, T)),
        rollout=exact(old - gap),
        entropy=exact(normal(B, T).abs()),
        truncated=torch.rand(B, generator=g) < 0.3,
    )


def poison(batch: Batch, value: float = float("nan")) -> Batch:
    """The same batch with `value` in every padded position."""

    def poisoned(values):
        return torch.where(batch.mask, values, value)

    return batch._replace(
        logprob=poisoned(batch.logprob),
        old=poisoned(batch.old),
        reference=poisoned(batch.reference),
        rollout=poisoned(batch.rollout),
        entropy=poisoned(batch.entropy),
    )
