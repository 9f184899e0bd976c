"""Sampled sequences as micro-batches for the update.

Shapes: B sequences, S positions of prompt and completion, T positions of the completion, N completion tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One sampled completion with its advantage.

    Attributes:
        prompt_ids: the encoded prompt.
        completion_ids: the sampled tokens.
        rollout_logprobs: their log-probs as the rollout engine reported them.
        advantage: of the whole completion.
        truncated: cut at the length cap.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    rollout_logprobs: tuple[float, ...]
    advantage: float
    truncated: bool

    @property
    def length(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True)
class MicroBatch:
    """Right-padded tensors of a few samples.

    Attributes:
        rows: positions of the samples in the list they were taken from.
        input_ids: int64 [B, S].
        predictors: int64 [N], flat positions in [B·S] whose next token is a completion token.
        targets: int64 [N], those completion tokens, row by row.
        mask: bool [B, T], true on completion tokens.
        rollout_logprob: fp32 [B, T].
        advantages: fp32 [B].
        truncated: bool [B].
    """

    rows: tuple[int, ...]
    input_ids: Tensor
    predictors: Tensor
    targets: Tensor
    mask: Tensor
    rollout_logprob: Tensor
    advantages: Tensor
    truncated: Tensor

    def padded(self, values: Tensor) -> Tensor:
        """Values [N] of the completion tokens as [B, T], zero on padding; differentiable."""
        room = torch.zeros(self.mask.shape, dtype=values.dtype, device=values.device)
        return room.masked_scatter(self.mask, values)


def micro_batches(
    samples: Sequence[Sample], rows: Sequence[int], *, budget_tokens: int, device: torch.device
) -> list[MicroBatch]:
    """Packs the samples at `rows`, longest first, so that no micro-batch exceeds `budget_tokens` padded tokens.

    A sample longer than the budget gets a micro-batch of its own.
    """
    ordered = sorted(rows, key=lambda row: (-samples[row].length, row))
    groups: list[list[int]] = []
    for row in ordered:
        # Longest first: the first row of a group sets its padded width.
        if groups and (len(groups[-1]) + 1) * samples[groups[-1][0]].length <= budget_tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return [_micro_batch(samples, group, device) for group in groups]


def _micro_batch(samples: Sequence[Sample], rows: Sequence[int], device: torch.device) -> MicroBatch:
    chosen = [samples[row] for row in rows]
    width = max(s.length for s in chosen)
    cap = max(len(s.completion_ids) for s in chosen)
    input_ids = torch.zeros((len(rows), width), dtype=torch.int64)
    mask = torch.zeros((len(rows), cap), dtype=torch.bool)
    rollout = torch.zeros((len(rows), cap))
    predictors, targets = [], []
    for i, s in enumerate(chosen):
        count = len(s.completion_ids)
        input_ids[i, : s.length] = torch.tensor(s.prompt_ids + s.completion_ids)
        mask[i, :count] = True
        rollout[i, :count] = torch.tensor(s.rollout_logprobs)
        first = i * width + len(s.prompt_ids) - 1
        predictors.append(torch.arange(first, first + count))
        targets.append(torch.tensor(s.completion_ids))
    return MicroBatch(
        rows=tuple(rows),
        input_ids=input_ids.to(device),
        predictors=torch.cat(predictors).to(device),
        targets=torch.cat(targets).to(device),
        mask=mask.to(device),
        rollout_logprob=rollout.to(device),
        advantages=torch.tensor([s.advantage for s in chosen], dtype=torch.float32, device=device),
        truncated=torch.tensor([s.truncated for s in chosen], device=device),
    )
