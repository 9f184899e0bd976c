"""`grpo_loss`: validation, the choice of implementation and the merging of micro-batches.

Shapes: B sequences, T positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from kernels.device_choice import device_type
from kernels.triton_installed import require_triton, triton_installed

from .objective import Objective
from .reference import Inputs, entropy_token_weight, row_weights, torch_loss
from .statistics import Partials, counts, merge_partials, metrics_of, torch_partials

__all__ = [
    "GrpoLoss",
    "Implementation",
    "Normalizer",
    "Partials",
    "entropy_threshold",
    "grpo_loss",
    "merge_partials",
    "metrics_of",
]

Implementation = Literal["auto", "torch", "fused"]
_FUSED_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, kw_only=True)
class Normalizer:
    """Counts of the whole batch that a micro-batch belongs to, over all micro-batches and ranks.

    With a shared normalizer (and `entropy_threshold`, if the objective has a quantile) the losses of the
    micro-batches sum to the loss of the whole batch, whatever their padding, for `sequence_mean`,
    `token_mean`, `fixed_length` and `sequence_sum`. `local_token_mean` (bnpo) is by definition the token
    mean of each micro-batch: a call then returns that mean times the micro-batch's share of the sequences,
    so the sum is the sequence-weighted mean of the micro-batches and depends on how the batch was split.
    The counts are global: a trainer whose all-reduce averages gradients over R ranks multiplies by R.
    """

    sequences: float | Tensor
    """Sequences (rows), fully masked ones included: GRPO's mean is over every completion of a group."""
    tokens: float | Tensor
    """Tokens that take part in the loss, truncated completions left out if the objective masks them."""

    @classmethod
    def count(cls, mask: Tensor, *, objective: Objective, truncated: Tensor | None = None) -> Normalizer:
        """The counts of one micro-batch, mask [B, T], truncated [B] bool; add them up with `+`."""
        return cls(sequences=mask.shape[0], tokens=_loss_mask(mask, objective, truncated).sum())

    def __add__(self, other: Normalizer) -> Normalizer:
        return Normalizer(sequences=self.sequences + other.sequences, tokens=self.tokens + other.tokens)


@dataclass(frozen=True)
class GrpoLoss:
    """What `grpo_loss` returns."""

    loss: Tensor
    """Scalar, fp32 (fp64 for fp64 log-probs), differentiable in `logprob` and `entropy`."""
    metrics: dict[str, Tensor]
    """Detached scalars. Fractions and means are over loss tokens, NaN when there are none.

    `clip_fraction_low`, `_high`, `_cap` and their total `clip_fraction`; `ratio_mean`, `ratio_min`,
    `ratio_max`; `kl` if a reference was given; `entropy` if given; `rollout_kl`, the mean of
    log π_rollout − log π_old, if given; `importance_mean` and `effective_sample_size`, (Σw)²/(n Σw²) of the
    weights as applied, over tokens or sequences by their level; `masked_fraction`, the share of completion
    tokens whose policy term was dropped (truncated, importance-masked, below the entropy quantile);
    `padding_fraction` of the B·T positions; `tokens`, `sequences`; `non_finite`, the loss tokens at which an
    input or the loss itself is NaN or infinite, and 1 where only their sum is.
    """
    partials: Partials
    """Sums and counts behind the metrics: `metrics_of(merge_partials([a.partials, b.partials]))` are the
    metrics of micro-batches a and b together, exactly. Across ranks: all-reduce `ratio_min` by minimum,
    `ratio_max` by maximum, everything else by sum."""


def grpo_loss(
    logprob: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    objective: Objective,
    old_logprob: Tensor | None = None,
    reference_logprob: Tensor | None = None,
    rollout_logprob: Tensor | None = None,
    entropy: Tensor | None = None,
    truncated: Tensor | None = None,
    normalizer: Normalizer | None = None,
    entropy_threshold: float | Tensor | None = None,
    implementation: Implementation = "auto",
) -> GrpoLoss:
    """GRPO loss of B completions of up to T tokens, and its gradient in the log-probs.

    NaN and infinite inputs are not replaced: the loss shows them, `metrics["non_finite"]` counts them, and
    the caller decides. Finite inputs may be far apart (e^89 overflows fp32): a token whose loss does not depend on
    its ratio (clipped, dropped by a mask, saturated) has the gradient 0, what cancels between two powers is
    multiplied as one, and a token whose loss is then no finite number is counted.

    Args:
        logprob: [B, T] log-probs of the sampled tokens under the policy, fp16, bf16, fp32 or fp64.
            Computed in fp32 at least. Padding may hold anything, NaN included.
        advantages: [B], or [B, T] for per-token advantages. Detached.
        mask: [B, T], bool or numeric; non-zero where a completion token counts.
        objective: the variant; its table and field docstrings give the sources.
        old_logprob: [B, T] under the policy that the update starts from. None: on-policy, so ρ = 1 with
            the gradient of log π.
        reference_logprob: [B, T] under the reference policy; needed for `beta` > 0, otherwise only measured.
        rollout_logprob: [B, T] as the rollout engine reported them; needed for `importance` other than none.
        entropy: [B, T] entropy of the policy at each position; needed for the entropy bonus (with gradient)
            and the top-entropy mask (without).
        truncated: [B] bool, completions cut at the cap; needed for `mask_truncated`.
        normalizer: counts of the whole batch (see `Normalizer`); None: this call is the whole batch.
        entropy_threshold: the top-entropy mask's threshold over the whole batch, from the function
            `entropy_threshold`; None takes it over this call.
        implementation: `torch` runs anywhere; `fused` is one Triton pass (CUDA, or the Triton interpreter);
            `auto` is `fused` on CUDA below fp64 and `torch` elsewhere.

    Raises:
        ValueError: a shape, dtype or device that does not fit, or an input that the objective needs and
            did not get.
    """
    per_position = {
        "mask": mask,
        "old_logprob": old_logprob,
        "reference_logprob": reference_logprob,
        "rollout_logprob": rollout_logprob,
        "entropy": entropy,
    }
    _validate(logprob, advantages, truncated, per_position, objective, implementation)
    o = objective.resolved()
    loss_mask = _loss_mask(mask, o, truncated)
    inputs = _gather(logprob, advantages, loss_mask, per_position)
    inputs = _with_threshold(inputs, o, entropy_threshold)
    counted = normalizer or Normalizer(sequences=mask.shape[0], tokens=loss_mask.sum())
    weights = row_weights(loss_mask, o, counted.sequences, counted.tokens)
    entropy_weight = entropy_token_weight(loss_mask, o, counted.tokens)

    partials = counts(loss_mask, mask != 0, by_sequence=o.importance.startswith("sequence"))
    loss, sums = _dispatch(inputs, o, weights, entropy_weight, implementation)
    partials |= sums
    # The sum may overflow although no token does.
    partials["non_finite"] = torch.where(
        loss.detach().isfinite(), partials["non_finite"], partials["non_finite"].clamp(min=1)
    )
    partials["dropped"] = partials["dropped"] + partials["completion_tokens"] - partials["tokens"]
    return GrpoLoss(loss, metrics_of(partials), partials)


def _with_threshold(x: Inputs, objective: Objective, threshold: float | Tensor | None) -> Inputs:
    quantile = objective.top_entropy_quantile
    if quantile is None or quantile == 1:
        return x
    assert x.entropy is not None
    if threshold is None:
        threshold = _threshold(x.entropy, x.mask, quantile)
    return x._replace(threshold=torch.as_tensor(threshold, device=x.mask.device))


def _dispatch(
    x: Inputs, objective: Objective, weights: Tensor, entropy_weight: Tensor, implementation: Implementation
) -> tuple[Tensor, Partials]:
    on_device = device_type(x.logprob.device) == "cuda" and x.logprob.dtype in _FUSED_DTYPES
    if implementation == "fused" or (implementation == "auto" and on_device and triton_installed()):
        require_triton("torch")
        from .autograd import fused_loss

        return fused_loss(x, objective, weights, entropy_weight)
    clean = _clean(x)
    loss, terms = torch_loss(clean, objective, weights, entropy_weight)
    return loss, torch_partials(clean, terms)


def entropy_threshold(entropy: Tensor, mask: Tensor, objective: Objective) -> Tensor:
    """The entropy (0-d) from which a token keeps its policy term, over the tokens of a whole batch.

    `entropy` and `mask` [B, T], or flattened over micro-batches and ranks; the (1 − quantile) quantile with
    linear interpolation (arXiv 2506.01939). NaN when no token is left. Raises `ValueError` if the objective
    has no `top_entropy_quantile`.
    """
    if objective.top_entropy_quantile is None:
        raise ValueError("`top_entropy_quantile` must be set to take its threshold, got None")
    return _threshold(entropy, mask != 0, objective.top_entropy_quantile)


def _threshold(entropy: Tensor, mask: Tensor, quantile: float) -> Tensor:
    # torch.quantile refuses more than 2^24 elements, and a boolean index would wait for the device.
    wide = entropy.detach().to(torch.promote_types(entropy.dtype, torch.float32))
    values = torch.where(mask, wide, torch.inf).flatten().sort().values
    count = mask.sum()
    if values.numel() == 0:
        return torch.full((), torch.nan, device=entropy.device)
    position = (1 - quantile) * (count - 1).clamp(min=0).double()
    below, above = values[position.floor().long()], values[position.ceil().long()]
    threshold = torch.lerp(below.double(), above.double(), position - position.floor())
    return torch.where(count > 0, threshold, torch.nan).to(values.dtype)


def _loss_mask(mask: Tensor, objective: Objective, truncated: Tensor | None) -> Tensor:
    """[B, T] bool: the tokens that take part in the loss."""
    kept = mask != 0
    if objective.mask_truncated and truncated is not None:
        kept = kept & ~truncated.bool()[:, None]
    return kept


def _gather(
    logprob: Tensor, advantages: Tensor, mask: Tensor, per_position: dict[str, Tensor | None]
) -> Inputs:
    def detached(name: str) -> Tensor | None:
        values = per_position[name]
        return None if values is None else values.detach()

    return Inputs(
        logprob=logprob,
        old=detached("old_logprob"),
        reference=detached("reference_logprob"),
        rollout=detached("rollout_logprob"),
        entropy=per_position["entropy"],
        advantage=advantages.detach() if advantages.dim() == 2 else advantages.detach()[:, None],
        mask=mask,
        threshold=None,
    )


def _clean(x: Inputs) -> Inputs:
    """Upcast, and replace padding before any arithmetic, so that NaN there reaches no value or gradient."""
    dtype = torch.float64 if x.logprob.dtype == torch.float64 else torch.float32

    def clean(values: Tensor | None) -> Tensor | None:
        return None if values is None else torch.where(x.mask, values, 0).to(dtype)

    # A row without tokens may carry a NaN advantage from its empty group.
    alive = x.mask.any(1, keepdim=True) if x.advantage.shape[1] == 1 else x.mask
    return x._replace(
        logprob=torch.where(x.mask, x.logprob, 0).to(dtype),
        old=clean(x.old),
        reference=clean(x.reference),
        rollout=clean(x.rollout),
        entropy=clean(x.entropy),
        advantage=torch.where(alive, x.advantage, 0).to(dtype),
    )


def _validate(
    logprob: Tensor,
    advantages: Tensor,
    truncated: Tensor | None,
    per_position: dict[str, Tensor | None],
    objective: Objective,
    implementation: str,
) -> None:
    if not isinstance(objective, Objective):
        raise ValueError(f"`objective` must be an Objective, got {type(objective).__name__}")
    if implementation not in get_args(Implementation):
        raise ValueError(f"`implementation` must be auto, torch or fused, got {implementation!r}")
    if logprob.dim() != 2 or not logprob.is_floating_point():
        raise ValueError(
            f"`logprob` must be a floating-point tensor [B, T], got {logprob.dtype} {list(logprob.shape)}"
        )
    if implementation == "fused" and logprob.dtype not in _FUSED_DTYPES:
        raise ValueError(f"`logprob` must be fp16, bf16 or fp32 for the fused pass, got {logprob.dtype}")
    full, rows = list(logprob.shape), [logprob.shape[0]]
    shapes: list[tuple[str, Tensor | None, list[list[int]]]] = [
        ("advantages", advantages, [rows, full]),
        ("truncated", truncated, [rows]),
        *((name, value, [full]) for name, value in per_position.items()),
    ]
    for name, value, allowed in shapes:
        if value is None:
            continue
        if list(value.shape) not in allowed:
            wanted = " or ".join(str(shape) for shape in allowed)
            raise ValueError(f"`{name}` must have shape {wanted}, got {list(value.shape)}")
        if value.device != logprob.device:
            raise ValueError(f"`{name}` must be on {logprob.device} like `logprob`, got {value.device}")
    needed = [
        ("reference_logprob", "beta", objective.beta > 0),
        ("rollout_logprob", "importance", objective.importance != "none"),
        ("entropy", "entropy_bonus", objective.entropy_bonus > 0),
        ("entropy", "top_entropy_quantile", objective.top_entropy_quantile is not None),
        ("truncated", "mask_truncated", objective.mask_truncated),
    ]
    given = {**per_position, "truncated": truncated}
    for name, field, active in needed:
        if active and given[name] is None:
            raise ValueError(
                f"`{name}` must be given when `{field}` is {getattr(objective, field)}, got None"
            )
