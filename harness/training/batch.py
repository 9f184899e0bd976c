"""Micro-batches of sampled sequences for the update.

Shapes: B sequences, S positions of prompt and completion (of the whole row where sequences are packed), T positions
of the completion, N completion tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.training.packing import Group, Layout, Mode, SharedPrompts, Span, Varlen


@dataclass(frozen=True)
class Sample:
    """One sampled completion with its advantage.

    Attributes:
        prompt_ids: the encoded prompt.
        completion_ids: the sampled tokens.
        rollout_logprobs: their log-probs, as reported by the rollout engine.
        advantage: the completion's advantage, the same for all its tokens.
        truncated: whether the length cap ended the completion.
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
    """Tensors of some samples, right-padded or packed into one row.

    Attributes:
        rows: indices of the samples in the list they were taken from.
        input_ids: int64 [B, S], or [1, S] packed.
        predictors: int64 [N], flat positions in `input_ids` whose next token is a completion token.
        targets: int64 [N], those completion tokens, row by row.
        mask: bool [B, T], true on completion tokens.
        rollout_logprob: fp32 [B, T].
        advantages: fp32 [B].
        truncated: bool [B].
        position_ids: int64 [1, S] where packed, else None.
        layout: layout of the packed row, else None.
    """

    rows: tuple[int, ...]
    input_ids: Tensor
    predictors: Tensor
    targets: Tensor
    mask: Tensor
    rollout_logprob: Tensor
    advantages: Tensor
    truncated: Tensor
    position_ids: Tensor | None = None
    layout: Layout | None = None

    def padded(self, values: Tensor) -> Tensor:
        """Scatters values [N] of the completion tokens to [B, T], zero on padding; differentiable."""
        room = torch.zeros(self.mask.shape, dtype=values.dtype, device=values.device)
        return room.masked_scatter(self.mask, values)


def micro_batches(
    samples: Sequence[Sample],
    rows: Sequence[int],
    *,
    budget_tokens: int,
    device: torch.device,
    mode: Mode = "padded",
) -> list[MicroBatch]:
    """Splits the samples at `rows` into micro-batches of at most `budget_tokens` tokens, padding included.

    Padded micro-batches are filled from the longest sample to the shortest, to keep padding small; packed ones in the
    order given, with completions of the same prompt together. A sample longer than the budget gets a micro-batch of
    its own.
    """
    if mode == "padded":
        return [
            _padded(samples, group, device)
            for group in _by_length(samples, rows, budget_tokens=budget_tokens)
        ]
    share = mode == "shared"
    packs = _by_prompt(samples, rows, budget_tokens=budget_tokens, share=share)
    return [_packed(samples, pack, device, share=share) for pack in packs]


def _by_length(samples: Sequence[Sample], rows: Sequence[int], *, budget_tokens: int) -> list[list[int]]:
    ordered = sorted(rows, key=lambda row: (-samples[row].length, row))
    groups: list[list[int]] = []
    for row in ordered:
        # Longest first: the first row of a group sets its padded width.
        if groups and (len(groups[-1]) + 1) * samples[groups[-1][0]].length <= budget_tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _by_prompt(
    samples: Sequence[Sample], rows: Sequence[int], *, budget_tokens: int, share: bool
) -> list[list[list[int]]]:
    """Rows by micro-batch and group; a group that does not fit is continued in the next micro-batch."""
    groups: dict[object, list[int]] = {}
    for row in rows:
        groups.setdefault(samples[row].prompt_ids if share else row, []).append(row)
    packs: list[list[list[int]]] = []
    used = 0
    for group in groups.values():
        opened = False
        for row in group:
            prompt = len(samples[row].prompt_ids)
            # The last token is left out: it predicts nothing that is trained on.
            own = len(samples[row].completion_ids) - 1
            if not packs or used + own + (0 if opened else prompt) > budget_tokens:
                packs.append([])
                used, opened = 0, False
            if not opened:
                packs[-1].append([])
                used, opened = used + prompt, True
            packs[-1][-1].append(row)
            used += own
    return packs


def _packed(
    samples: Sequence[Sample], pack: Sequence[Sequence[int]], device: torch.device, *, share: bool
) -> MicroBatch:
    ids: list[int] = []
    positions: list[int] = []
    predictors, groups = [], []
    for rows in pack:
        prompt_ids = samples[rows[0]].prompt_ids
        prompt = Span(len(ids), len(prompt_ids))
        ids += prompt_ids
        positions += range(len(prompt_ids))
        spans = []
        for row in rows:
            own = samples[row].completion_ids[:-1]
            spans.append(Span(len(ids), len(own)))
            ids += own
            positions += range(prompt.length, prompt.length + len(own))
            predictors.append(torch.tensor([prompt.end - 1, *range(spans[-1].start, spans[-1].end)]))
        groups.append(Group(prompt, tuple(spans)))
    if share:
        layout: Layout = SharedPrompts(tuple(groups))
    else:
        lengths = [g.completions[0].end - g.prompt.start for g in groups]
        bounds = torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)
        layout = Varlen(bounds, max(lengths))
    return _assembled(
        samples,
        [row for rows in pack for row in rows],
        torch.tensor([ids]),
        predictors,
        device,
        position_ids=torch.tensor([positions]).to(device),
        layout=layout,
    )


def _padded(samples: Sequence[Sample], rows: Sequence[int], device: torch.device) -> MicroBatch:
    width = max(samples[row].length for row in rows)
    input_ids = torch.zeros((len(rows), width), dtype=torch.int64)
    predictors = []
    for i, row in enumerate(rows):
        s = samples[row]
        input_ids[i, : s.length] = torch.tensor(s.prompt_ids + s.completion_ids)
        first = i * width + len(s.prompt_ids) - 1
        predictors.append(torch.arange(first, first + len(s.completion_ids)))
    return _assembled(samples, rows, input_ids, predictors, device)


def _assembled(
    samples: Sequence[Sample],
    rows: Sequence[int],
    input_ids: Tensor,
    predictors: list[Tensor],
    device: torch.device,
    *,
    position_ids: Tensor | None = None,
    layout: Layout | None = None,
) -> MicroBatch:
    chosen = [samples[row] for row in rows]
    cap = max(len(s.completion_ids) for s in chosen)
    mask = torch.zeros((len(rows), cap), dtype=torch.bool)
    rollout = torch.zeros((len(rows), cap))
    for i, s in enumerate(chosen):
        mask[i, : len(s.completion_ids)] = True
        rollout[i, : len(s.completion_ids)] = torch.tensor(s.rollout_logprobs)
    return MicroBatch(
        rows=tuple(rows),
        input_ids=input_ids.to(device),
        predictors=torch.cat(predictors).to(device),
        targets=torch.tensor([t for s in chosen for t in s.completion_ids]).to(device),
        mask=mask.to(device),
        rollout_logprob=rollout.to(device),
        advantages=torch.tensor([s.advantage for s in chosen], dtype=torch.float32, device=device),
        truncated=torch.tensor([s.truncated for s in chosen], device=device),
        position_ids=position_ids,
        layout=layout,
    )
