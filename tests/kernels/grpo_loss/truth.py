"""The GRPO losses written from their papers, sequence by sequence and token by token, in fp64.

Nothing here comes from `kernels.grpo_loss`: a mistake there must not repeat itself here. Plain Python lists of
0-d fp64 tensors, so that autograd supplies the gradient.
"""

from __future__ import annotations

import math

import torch


def _clipped(rho, advantage, s):
    # DAPO eq. 8, with the dual clip: min(min(ρ, δ)·A, clip(ρ, 1−ε_low, 1+ε_high)·A)
    capped = rho if s.delta is None else torch.minimum(rho, torch.tensor(s.delta, dtype=torch.float64))
    clipped = torch.clamp(rho, 1 - s.clip_low, 1 + s.clip_high)
    return -torch.minimum(capped * advantage, clipped * advantage)


def _sapo(rho, advantage, s):
    tau = s.sapo_tau_pos if advantage > 0 else s.sapo_tau_neg
    return -(1 / (1 + torch.exp(-tau * (rho - 1)))) * 4 / tau * advantage


def _kl(logp, ref, kind):
    log_r = ref - logp  # Schulman's r = π_ref/π
    if kind == "k1":
        return -log_r
    if kind == "k2":
        return 0.5 * log_r**2
    if kind == "k3":
        return torch.exp(log_r) - 1 - log_r
    return torch.abs(log_r)


def _importance(old, rollout, kind, cap):
    """One weight per token of the sequence."""
    gaps = [float(o - r) for o, r in zip(old, rollout)]
    if kind.startswith("sequence"):
        gaps = [sum(gaps)] * len(gaps)
    weights = [math.exp(g) for g in gaps]
    if kind.endswith("truncate"):
        return [min(w, cap) for w in weights]
    return [w if w <= cap else 0.0 for w in weights]


def _vespo_phi(logp, old, weights, kind, advantage, s):
    total = sum(max(-20.0, min(20.0, float((p - o).detach()))) for p, o in zip(logp, old))
    if weights is not None:
        folded = weights if kind.startswith("token") else weights[:1]
        total += sum(max(math.log(1e-8), min(20.0, math.log(max(w, 1e-300)))) for w in folded)
    total = max(math.log(1e-8), min(20.0, total))
    k, rate = (s.vespo_k_pos, s.vespo_lambda_pos) if advantage >= 0 else (s.vespo_k_neg, s.vespo_lambda_neg)
    return math.exp(rate) * math.exp(total) ** k * math.exp(-rate * math.exp(total))


LEVEL = {"gspo": "sequence", "luspo": "sequence"}
AGGREGATION = {
    "grpo": "sequence_mean",
    "gspo": "sequence_mean",
    "sapo": "sequence_mean",
    "bnpo": "token_mean",
    "dapo": "token_mean",
    "cispo": "token_mean",
    "vespo": "token_mean",
    "dr_grpo": "fixed_length",
    "luspo": "sequence_sum",
}


def truth(
    settings,
    logprob,
    advantages,
    mask,
    old=None,
    reference=None,
    rollout=None,
    entropy=None,
    truncated=None,
    threshold=None,
):
    """Loss of a whole batch, 0-d fp64, differentiable in `logprob` (and `entropy`) given in fp64 [B, T]."""
    s = settings
    level = LEVEL.get(s.loss, "token") if s.ratio_level == "auto" else s.ratio_level
    aggregation = AGGREGATION[s.loss] if s.aggregation == "auto" else s.aggregation
    sequences, all_tokens, bonus = [], 0, []
    for b in range(logprob.shape[0]):
        dead = s.mask_truncated and bool(truncated[b])
        where = [] if dead else [t for t in range(logprob.shape[1]) if mask[b, t]]
        all_tokens += len(where)
        logp = [logprob[b, t] for t in where]
        before = [p.detach() for p in logp] if old is None else [old[b, t] for t in where]
        if not where:
            sequences.append([])
            continue
        ratios = [torch.exp(p - o) for p, o in zip(logp, before)]
        if level == "sequence":
            mean = sum(p - o for p, o in zip(logp, before)) / len(where)
            ratios = [torch.exp(mean)] * len(where)
        weights = None
        if s.importance != "none":
            sampled = [rollout[b, t] for t in where]
            weights = _importance([o.detach() for o in before], sampled, s.importance, s.importance_cap)
        losses = []
        for i, t in enumerate(where):
            a = float(advantages[b] if advantages.dim() == 1 else advantages[b, t])
            if s.loss == "cispo":
                value = -min(float(ratios[i].detach()), s.cispo_max) * a * logp[i]
            elif s.loss == "sapo":
                value = _sapo(ratios[i], a, s)
            elif s.loss == "vespo":
                value = -_vespo_phi(logp, before, weights, s.importance, a, s) * a * logp[i]
            else:
                value = _clipped(ratios[i], a, s)
            if weights is not None and s.loss != "vespo":
                value = value * weights[i]
            if threshold is not None and float(entropy[b, t].detach()) < threshold:
                value = value * 0
            if s.beta > 0:
                kl = _kl(logp[i], reference[b, t], s.kl)
                if s.kl_ratio and s.kl == "k3":
                    # ρ·(r − 1 − log r): r far from 1 cancels in the gradient of ρ·r, which by token is a constant.
                    log_r = reference[b, t] - logp[i]
                    joint = reference[b, t] - before[i] if level == "token" else mean + log_r
                    kl = torch.exp(joint) - (1 + log_r) * ratios[i]
                value = value + s.beta * (kl * ratios[i] if s.kl_ratio and s.kl != "k3" else kl)
            losses.append(value)
            if entropy is not None:
                bonus.append(entropy[b, t])
        sequences.append(losses)
    loss = _aggregate(sequences, aggregation, all_tokens, s.max_length)
    if s.entropy_bonus > 0 and bonus:
        loss = loss - s.entropy_bonus * sum(bonus) / len(bonus)
    return loss


def _aggregate(sequences, aggregation, tokens, max_length):
    zero = torch.zeros((), dtype=torch.float64)
    sums = [sum(losses, zero) for losses in sequences]
    count = max(len(sequences), 1)
    if aggregation == "sequence_mean":
        return sum((total / max(len(row), 1) for total, row in zip(sums, sequences)), zero) / count
    if aggregation == "fixed_length":
        return sum(sums, zero) / (count * max_length)
    if aggregation == "sequence_sum":
        return sum(sums, zero) / count
    return sum(sums, zero) / max(tokens, 1)
