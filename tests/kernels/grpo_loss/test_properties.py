"""Properties that hold for every objective and any batch."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.grpo_loss import Normalizer, Objective, grpo_loss
from tests.kernels.grpo_loss.batches import IMPORTANCE, LOSSES


@st.composite
def objectives(draw, **fixed):
    loss = draw(st.sampled_from(LOSSES))
    clipped = loss not in ("cispo", "sapo", "vespo")
    fields = {
        "loss": loss,
        "ratio_level": draw(st.sampled_from(["auto", "sequence"])),
        "aggregation": draw(
            st.sampled_from(["auto", "sequence_mean", "token_mean", "fixed_length", "sequence_sum"])
        ),
        "max_length": 16,
        "delta": draw(st.sampled_from([None, 2.5])) if clipped else None,
        "beta": draw(st.sampled_from([0.0, 0.2])),
        "kl": draw(st.sampled_from(["k1", "k2", "k3", "abs"])),
        "kl_ratio": draw(st.booleans()),
        "importance": draw(st.sampled_from(IMPORTANCE)),
    }
    return Objective(**{**fields, **fixed})


@st.composite
def batches(draw, max_rows=5, max_length=6):
    B, T = draw(st.integers(1, max_rows)), draw(st.integers(1, max_length))
    g = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))

    def noise(scale):
        return scale * torch.randn(B, T, generator=g, dtype=torch.float64)

    logprob = -1 - noise(1).abs()
    old = logprob + noise(0.5)
    mask = torch.rand(B, T, generator=g) < draw(st.sampled_from([0.3, 0.8, 1.0]))
    return {
        "logprob": logprob,
        "advantages": torch.randn(B, generator=g, dtype=torch.float64),
        "mask": mask,
        "old_logprob": old,
        "reference_logprob": logprob + noise(0.5),
        "rollout_logprob": old + noise(0.3),
    }


def evaluate(batch, objective, **more):
    leaf = batch["logprob"].clone().requires_grad_()
    out = grpo_loss(**{**batch, "logprob": leaf}, objective=objective, **more)
    (grad,) = torch.autograd.grad(out.loss, leaf)
    return out.loss.detach(), grad


def narrow(batch):
    return {k: v.float() if v.is_floating_point() else v for k, v in batch.items()}


@given(objectives(), batches(), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_the_order_of_sequences_does_not_matter(objective, batch, random):
    order = list(range(len(batch["mask"])))
    random.shuffle(order)
    loss, grad = evaluate(batch, objective)
    moved_loss, moved_grad = evaluate({k: v[order] for k, v in batch.items()}, objective)
    torch.testing.assert_close(moved_loss, loss)
    torch.testing.assert_close(moved_grad, grad[order])


@given(objectives(), batches(), st.integers(0, 5))
@settings(max_examples=60)
def test_a_batch_split_in_two_adds_up(objective, batch, at):
    if objective.resolved().aggregation == "local_token_mean":  # defined by the split itself
        objective = Objective(**{**vars(objective), "aggregation": "token_mean"})
    normalizer = Normalizer.count(batch["mask"], objective=objective)
    loss, grad = evaluate(batch, objective)
    parts = [{k: v[rows] for k, v in batch.items()} for rows in (slice(0, at), slice(at, None))]
    found = [evaluate(part, objective, normalizer=normalizer) for part in parts]
    torch.testing.assert_close(found[0][0] + found[1][0], loss)
    torch.testing.assert_close(torch.cat([found[0][1], found[1][1]]), grad)


@given(objectives(), batches())
@settings(max_examples=40)
def test_a_mask_of_zeros_gives_zero_loss_and_gradient(objective, batch):
    empty = {k: torch.full_like(v, torch.nan) for k, v in batch.items() if k != "mask"}
    loss, grad = evaluate({**empty, "mask": torch.zeros_like(batch["mask"])}, objective)
    assert loss == 0
    assert bool((grad == 0).all())


@given(objectives(beta=0.0, importance="none"), batches())
@settings(max_examples=60)
def test_a_ratio_of_one_gives_the_policy_gradient(objective, batch):
    """At ρ = 1 every variant's gradient is −A times its token weight: a policy gradient."""
    batch = {**batch, "old_logprob": batch["logprob"]}
    _, grad = evaluate(batch, objective)
    mask, resolved = batch["mask"], objective.resolved()
    lengths, B = mask.sum(1, keepdim=True).clamp(min=1), len(mask)
    weight = {
        "sequence_mean": 1 / (B * lengths),
        "token_mean": 1 / mask.sum().clamp(min=1),
        "local_token_mean": 1 / mask.sum().clamp(min=1),
        "fixed_length": torch.tensor(1 / (B * 16)),
        "sequence_sum": torch.tensor(1 / B),
    }[resolved.aggregation]
    torch.testing.assert_close(grad, -batch["advantages"][:, None] * mask * weight)


@given(objectives(), batches())
@settings(max_examples=60)
def test_padding_never_matters(objective, batch):
    loss, grad = evaluate(batch, objective)
    mask = batch["mask"]
    poisoned = {k: torch.where(mask, v, torch.nan) if v.shape == mask.shape else v for k, v in batch.items()}
    again, again_grad = evaluate({**poisoned, "mask": mask}, objective)
    assert torch.equal(again, loss)
    assert torch.equal(again_grad, grad)


@given(objectives(), batches())
@settings(max_examples=60)
def test_fused_equals_torch(objective, batch):
    loss, grad = evaluate(narrow(batch), objective)
    fused_loss, fused_grad = evaluate(narrow(batch), objective, implementation="fused")
    torch.testing.assert_close(fused_loss, loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fused_grad, grad, rtol=1e-5, atol=1e-6)
