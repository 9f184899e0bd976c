"""What a GRPO loss call measures, in a form that micro-batches and ranks can merge exactly.

Shapes: B sequences, T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .reference import Inputs, Terms, kept

Partials = dict[str, Tensor]
"""Detached 0-d fp64 tensors. `ratio_min` merges by minimum, `ratio_max` by maximum, the rest by sum."""

# The order in which the fused kernel writes its columns per sequence.
ROW_SUMS = (
    "loss",
    "clipped_low",
    "clipped_high",
    "capped",
    "ratio_sum",
    "kl_sum",
    "entropy_sum",
    "importance_sum",
    "importance_square_sum",
    "rollout_gap_sum",
    "dropped",
    "non_finite",
    "ratio_min",
    "ratio_max",
)
_MINIMUM, _MAXIMUM = "ratio_min", "ratio_max"


def merge_partials(parts: Sequence[Partials]) -> Partials:
    """Partials of the union of micro-batches. Raises `ValueError` if they measured different things."""
    if not parts:
        raise ValueError("`parts` must hold at least one micro-batch, got none")
    names = parts[0].keys()
    for part in parts[1:]:
        if part.keys() != names:
            differing = sorted(part.keys() ^ names)
            raise ValueError(f"`parts` must have measured the same figures, got a difference in {differing}")
    merged: Partials = {}
    for name in names:
        values = torch.stack([part[name] for part in parts])
        reduce = {_MINIMUM: torch.amin, _MAXIMUM: torch.amax}.get(name, torch.sum)
        merged[name] = reduce(values)
    return merged


def metrics_of(partials: Partials) -> dict[str, Tensor]:
    """The metrics (0-d tensors) that these partials stand for; see `grpo_loss` for their meaning.

    A mean over no tokens is NaN: it was not measured.
    """
    p, tokens = partials, partials["tokens"]
    metrics = {
        "clip_fraction_low": p["clipped_low"] / tokens,
        "clip_fraction_high": p["clipped_high"] / tokens,
        "clip_fraction_cap": p["capped"] / tokens,
        "clip_fraction": (p["clipped_low"] + p["clipped_high"] + p["capped"]) / tokens,
        "ratio_mean": p["ratio_sum"] / tokens,
        "ratio_min": torch.where(tokens > 0, p["ratio_min"], torch.nan),
        "ratio_max": torch.where(tokens > 0, p["ratio_max"], torch.nan),
        "masked_fraction": p["dropped"] / p["completion_tokens"],
        "padding_fraction": 1 - p["completion_tokens"] / p["positions"],
        "tokens": tokens,
        "sequences": p["sequences"],
        "non_finite": p["non_finite"],
    }
    for source, name in (("kl_sum", "kl"), ("entropy_sum", "entropy"), ("rollout_gap_sum", "rollout_kl")):
        if source in p:
            metrics[name] = p[source] / tokens
    if "importance_sum" in p:
        count, total, squares = p["importance_count"], p["importance_sum"], p["importance_square_sum"]
        metrics["importance_mean"] = total / count
        metrics["effective_sample_size"] = total.square() / (squares * count)
    return metrics


@torch.no_grad()
def reduce_rows(sums: Tensor, x: Inputs, *, importance: bool) -> Partials:
    """Partials of the batch from the fused kernel's rows [B, columns ≥ len(ROW_SUMS)], without `loss`."""
    absent = {"loss"}
    for name, source in (("kl_sum", x.reference), ("entropy_sum", x.entropy), ("rollout_gap_sum", x.rollout)):
        if source is None:
            absent.add(name)
    if not importance:
        absent |= {"importance_sum", "importance_square_sum"}
    totals = sums.sum(0, dtype=torch.float64)
    partials = {name: totals[i] for i, name in enumerate(ROW_SUMS) if name not in absent}
    for name, reduce, start in ((_MINIMUM, torch.amin, torch.inf), (_MAXIMUM, torch.amax, -torch.inf)):
        rows = sums[:, ROW_SUMS.index(name)]
        partials[name] = _extreme(rows, torch.ones_like(rows, dtype=torch.bool), reduce, start)
    return partials


def counts(mask: Tensor, completion: Tensor, *, by_sequence: bool) -> Partials:
    """Partials that depend on the masks [B, T] bool alone; `completion` is the mask before truncation."""
    total = mask.sum()
    found = {
        "tokens": total,
        "sequences": torch.as_tensor(float(mask.shape[0]), device=mask.device),
        "positions": torch.as_tensor(float(mask.numel()), device=mask.device),
        "completion_tokens": completion.sum(),
        "importance_count": mask.any(1).sum() if by_sequence else total,
    }
    return {name: value.to(torch.float64) for name, value in found.items()}


def _extreme(values: Tensor, mask: Tensor, reduce: Callable[[Tensor], Tensor], start: float) -> Tensor:
    first = torch.full((1,), start, dtype=torch.float64, device=mask.device)
    return reduce(torch.cat([first, torch.where(mask, values, start).flatten().double()]))


@torch.no_grad()
def torch_partials(x: Inputs, terms: Terms) -> dict[str, Tensor]:
    """Row sums of `ROW_SUMS` over the batch, without `loss`; `dropped` counts within `x.mask` only."""
    mask = x.mask

    def total(values: Tensor) -> Tensor:
        return torch.where(mask, values, 0).sum(dtype=torch.float64)

    bad = ~(x.logprob.isfinite() & terms.loss.isfinite() & x.advantage.isfinite())
    for values in (x.old, x.reference, x.rollout, x.entropy):
        if values is not None:
            bad = bad | ~values.isfinite()
    keep = kept(x)
    dropped = torch.zeros_like(mask) if keep is None else ~keep
    sums = {
        "clipped_low": total(terms.clipped_low),
        "clipped_high": total(terms.clipped_high),
        "capped": total(terms.capped),
        "ratio_sum": total(terms.ratio),
        "non_finite": total(bad),
        "ratio_min": _extreme(terms.ratio, mask, torch.amin, torch.inf),
        "ratio_max": _extreme(terms.ratio, mask, torch.amax, -torch.inf),
    }
    if terms.kl is not None:
        sums["kl_sum"] = total(terms.kl)
    if x.entropy is not None:
        sums["entropy_sum"] = total(x.entropy)
    if x.rollout is not None:
        sums["rollout_gap_sum"] = total(x.rollout - (x.logprob if x.old is None else x.old))
    weight = terms.importance
    if weight is not None:
        dropped = dropped | (weight == 0)
        if weight.shape[1] == 1:
            weight = torch.where(mask.any(1, keepdim=True), weight, 0)
        else:
            weight = torch.where(mask, weight, 0)
        sums["importance_sum"] = weight.sum(dtype=torch.float64)
        sums["importance_square_sum"] = weight.double().square().sum()
    sums["dropped"] = total(dropped)
    return sums
