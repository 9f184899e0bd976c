"""The GRPO loss formulas in torch: the definition that the fused kernel and every caller is held to.

Shapes: B sequences, T positions. All tensors here are fp32 or fp64 with padding already replaced by zeros,
so nothing a padded position held can reach a value or a gradient.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .objective import Objective

# VESPO works in log space between these bounds, as published: one token's log-ratio and the whole weight.
VESPO_LOG_MAX = 20.0
VESPO_FLOOR = 1e-8
VESPO_LOG_MIN = math.log(VESPO_FLOOR)
# From here on a power is multiplied as a logarithm: fp32 ends at e^88.7, and loses digits below e^−87.3.
FAR = 64.0
# From here below the reference k3 is all e^(−Δ), to the last digits of fp32.
K3_FAR = 16.0


class Inputs(NamedTuple):
    """Validated inputs; for the torch formulas padded with zeros and in the accumulation dtype."""

    logprob: Tensor
    """[B, T], the only differentiable input besides `entropy`."""
    old: Tensor | None
    """[B, T] or None: on-policy."""
    reference: Tensor | None
    rollout: Tensor | None
    entropy: Tensor | None
    advantage: Tensor
    """[B, 1] or [B, T]."""
    mask: Tensor
    """[B, T] bool: tokens that take part in the loss."""
    threshold: Tensor | None
    """0-d: tokens with at least this entropy keep their policy term (top-entropy mask); None for all."""


class Terms(NamedTuple):
    """Per-token values [B, T] (or broadcastable), before masking and aggregation."""

    loss: Tensor
    ratio: Tensor
    kl: Tensor | None
    importance: Tensor | None
    """The weight as applied: 0 where the token or sequence was dropped."""
    clipped_low: Tensor
    clipped_high: Tensor
    capped: Tensor


def log_ratio(x: Inputs) -> Tensor:
    """log π − log π_old [B, T]; on-policy it is zero with the gradient of log π."""
    return x.logprob - (x.logprob.detach() if x.old is None else x.old)


def applied_log_ratio(x: Inputs, objective: Objective) -> Tensor:
    """log ρ: [B, T] by token, or [B, 1], its mean over the sequence (GSPO, arXiv 2507.18071, eq. 7)."""
    delta = log_ratio(x)
    if objective.ratio_level == "token":
        return delta
    length = x.mask.sum(1, keepdim=True).clamp(min=1)
    return delta.sum(1, keepdim=True) / length


class _Exp(torch.autograd.Function):
    """e^x whose derivative is 0 where the loss does not depend on it, even if e^x overflows.

    A clipped or dropped token hands back an upstream gradient of exactly 0, and 0 · ∞ would make it NaN.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        power = _Exp.apply(x)  # of the input, so that it can be derived again
        return torch.where((upstream == 0) & power.isinf(), 0.0, upstream * power)


class Importance(NamedTuple):
    """The weight π_old / π_rollout: [B, T] by token, [B, 1] for the product over the sequence."""

    weight: Tensor
    """As applied: truncated, or 0 where dropped."""
    log: Tensor
    """Logarithm of the weight; where it was dropped, of what it was before."""
    dropped: Tensor
    """bool: the mask took it, which a weight that underflows to 0 is not."""


def importance_weight(x: Inputs, objective: Objective) -> Importance | None:
    """The importance weight by `objective.importance`, or None without one."""
    if objective.importance == "none" or x.rollout is None:
        return None
    level, action = objective.importance.split("_")
    mismatch = (x.logprob if x.old is None else x.old).detach() - x.rollout
    log = mismatch.sum(1, keepdim=True) if level == "sequence" else mismatch
    weight, cap = log.exp(), objective.importance_cap
    over = weight > cap  # NaN compares false, and so stays NaN
    if action == "truncate":
        return Importance(
            torch.where(over, cap, weight), torch.where(over, math.log(cap), log), torch.zeros_like(over)
        )
    return Importance(torch.where(over, 0.0, weight), log, over)


def _weighted(policy: Tensor, importance: Importance) -> Tensor:
    """The policy term times the importance weight; a dropped token is 0 whatever its ratio, and NaN stays NaN."""
    return torch.where(importance.dropped & ~policy.isnan(), 0.0, policy * importance.weight)


def _weighted_far(
    policy: Tensor, importance: Importance, log_rho: Tensor, advantage: Tensor, far: Tensor
) -> Tensor:
    """As `_weighted` for a term −ρA, with ρ and the weight multiplied as logarithms where `far` says so.

    ρ may overflow there and the weight vanish: an old log-prob that is far off cancels between the two.
    """
    product = _Exp.apply(torch.where(far, log_rho + importance.log, 0.0))
    weighted = _weighted(torch.where(far, 0.0, policy), importance)
    return torch.where(far & ~importance.dropped, -product * advantage, weighted)


def _choose(condition: Tensor, yes: float, no: float, dtype: torch.dtype) -> Tensor:
    # torch.where of two Python numbers is fp32, whatever the computation around it.
    chosen, other = (torch.full((), value, dtype=dtype, device=condition.device) for value in (yes, no))
    return torch.where(condition, chosen, other)


def vespo_weight(x: Inputs, objective: Objective, importance: Importance | None) -> Tensor:
    """φ(w) = e^λ w^k e^(−λw), detached; w is the product of ratios over the sequence (arXiv 2602.10693).

    The importance weight enters w rather than multiplying the loss.
    """
    bounded = log_ratio(x).detach().clamp(-VESPO_LOG_MAX, VESPO_LOG_MAX)
    log_w = bounded.sum(1, keepdim=True)
    if importance is not None:
        logs = importance.weight.clamp(min=VESPO_FLOOR).log().clamp(max=VESPO_LOG_MAX)
        if objective.importance.startswith("token"):  # a cap below 1 changes the weight of padding too
            logs = torch.where(x.mask, logs, 0.0)
        log_w = log_w + logs.sum(1, keepdim=True)
    log_w = log_w.clamp(VESPO_LOG_MIN, VESPO_LOG_MAX)
    positive = x.advantage >= 0
    k = _choose(positive, objective.vespo_k_pos, objective.vespo_k_neg, log_w.dtype)
    rate = _choose(positive, objective.vespo_lambda_pos, objective.vespo_lambda_neg, log_w.dtype)
    return (rate + k * log_w - rate * log_w.exp()).exp()


class _K3(torch.autograd.Function):
    """e^(−Δ) + Δ − 1 and its derivative 1 − e^(−Δ), both through expm1.

    Near Δ = 0, where training spends its time, the plain formula loses its digits, and autograd of expm1
    loses those of the derivative.
    """

    @staticmethod
    def forward(ctx: Any, delta: Tensor) -> Tensor:
        ctx.save_for_backward(delta)
        return torch.expm1(-delta) + delta

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (delta,) = ctx.saved_tensors
        return -torch.expm1(-delta) * upstream  # of the input, so that it can be derived again


def kl_estimate(logprob: Tensor, reference: Tensor, kind: str) -> Tensor:
    """Per-token estimate of KL(π ‖ π_ref) [B, T] (Schulman, "Approximating KL divergence")."""
    delta = logprob - reference
    if kind == "k1":
        return delta
    if kind == "k2":
        return delta.square() / 2
    if kind == "k3":
        return _K3.apply(delta)
    return delta.abs()


def _kl_times_ratio(x: Inputs, kl: Tensor, objective: Objective, rho: Tensor) -> Tensor:
    """KL · ρ; by token also where one of the two overflows and the other vanishes.

    Far below the reference k3 takes ρ · e^(−Δ) as one power: π_ref / π_old, a constant, which in both parts of the
    derivative would cancel all digits. At Δ = 0 every estimate but k1 is 0, and so is its derivative, whatever ρ is.
    """
    if objective.kl == "k1" or objective.ratio_level == "sequence":
        return kl * rho
    assert x.reference is not None
    delta = x.logprob - x.reference
    flat = (delta == 0) & rho.isinf()
    if objective.kl != "k3":
        return torch.where(flat, 0.0, kl * rho)
    far = delta < -K3_FAR
    near = kl_estimate(torch.where(far, x.reference, x.logprob), x.reference, objective.kl)
    constant = x.reference - (x.logprob.detach() if x.old is None else x.old)
    power = torch.where(far, constant, 0.0).exp() + torch.where(far, delta - 1, 0.0) * rho
    return torch.where(far, power, torch.where(flat, 0.0, near * rho))


def kept(x: Inputs) -> Tensor | None:
    """[B, T] bool: tokens above the entropy threshold, or None without one."""
    if x.threshold is None or x.entropy is None:
        return None
    return x.entropy.detach() >= x.threshold


def token_terms(x: Inputs, objective: Objective) -> Terms:
    """Loss and diagnostics of each token; `objective` is resolved (no `auto`)."""
    log_rho, advantage = applied_log_ratio(x, objective), x.advantage
    rho = _Exp.apply(log_rho)
    importance = importance_weight(x, objective)
    never = torch.zeros_like(advantage, dtype=torch.bool)
    low, high, capped = never, never, never
    surrogate = objective.variant.surrogate
    if surrogate == "clip":
        lower, upper, cap = 1 - objective.clip_low, 1 + objective.clip_high, objective.delta
        # −min(ρA, clip(ρ)A) with its min resolved by the sign of A; the cap δ acts only where A < 0.
        bounded = torch.where(advantage >= 0, rho.clamp(max=upper), rho.clamp(min=lower, max=cap))
        policy = -bounded * advantage
        low = (rho < lower) & (advantage < 0)
        high = (rho > upper) & (advantage > 0)
        if cap is not None:
            capped = (rho > cap) & (advantage < 0)
    elif surrogate == "cispo":
        policy = -rho.detach().clamp(max=objective.cispo_max) * advantage * x.logprob
        high = (rho > objective.cispo_max) & (advantage != 0)
    elif surrogate == "sapo":
        tau = _choose(advantage > 0, objective.sapo_tau_pos, objective.sapo_tau_neg, rho.dtype)
        policy = -torch.sigmoid(tau * (rho - 1)) * 4 / tau * advantage
    else:
        policy = -vespo_weight(x, objective, importance) * advantage * x.logprob
    if importance is not None and surrogate != "vespo":
        if surrogate == "clip":
            far = (log_rho > FAR) & (bounded == rho)
            policy = _weighted_far(policy, importance, log_rho, advantage, far)
        else:
            policy = _weighted(policy, importance)
    keep = kept(x)
    if keep is not None:
        policy = torch.where(keep, policy, 0.0)
    kl = None if x.reference is None else kl_estimate(x.logprob, x.reference, objective.kl)
    loss = policy
    if kl is not None and objective.beta > 0:
        penalty = _kl_times_ratio(x, kl, objective, rho) if objective.kl_ratio else kl
        loss = loss + objective.beta * penalty
    applied = None if importance is None else importance.weight
    return Terms(loss, rho, kl, applied, low, high, capped)


def row_weights(
    mask: Tensor, objective: Objective, sequences: Tensor | float, tokens: Tensor | float
) -> Tensor:
    """What one token of each sequence weighs in the loss [B]; used by the torch and the fused path alike.

    `sequences` and `tokens` count the whole batch; `mask` is the call's own [B, T].
    """
    lengths = mask.sum(1)
    one = torch.ones(mask.shape[0], dtype=torch.float64, device=mask.device)
    sequences = torch.as_tensor(sequences, dtype=torch.float64, device=mask.device).clamp(min=1)
    tokens = torch.as_tensor(tokens, dtype=torch.float64, device=mask.device).clamp(min=1)
    aggregation = objective.aggregation
    if aggregation == "sequence_mean":
        return one / (lengths.clamp(min=1) * sequences)
    if aggregation == "token_mean":
        return one / tokens
    if aggregation == "local_token_mean":
        return one * mask.shape[0] / (lengths.sum().clamp(min=1) * sequences)
    if aggregation == "fixed_length":
        assert objective.max_length is not None
        return one / (sequences * objective.max_length)
    return one / sequences


def entropy_token_weight(mask: Tensor, objective: Objective, tokens: Tensor | float) -> Tensor:
    """What one token's entropy weighs in the bonus, 0-d: c over the tokens of the whole batch."""
    total = torch.as_tensor(tokens, dtype=torch.float64, device=mask.device).clamp(min=1)
    return objective.entropy_bonus / total


def torch_loss(
    x: Inputs, objective: Objective, weights: Tensor, entropy_weight: Tensor
) -> tuple[Tensor, Terms]:
    """The loss (scalar) and its terms; `weights` [B] from `row_weights`, `entropy_weight` 0-d."""
    terms = token_terms(x, objective)
    # A fully masked sequence leaves 0 · ρ with ρ = 1, but a non-finite token loss must not meet a zero mask.
    token_loss = torch.where(x.mask, terms.loss, 0.0).sum(1)
    loss = (token_loss * weights.to(token_loss.dtype)).sum()
    if x.entropy is not None and objective.entropy_bonus > 0:
        loss = loss - x.entropy.sum() * entropy_weight.to(loss.dtype)
    return loss, terms
