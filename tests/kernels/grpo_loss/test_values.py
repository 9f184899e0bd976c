"""Every variant against values worked out by hand.

Two sequences: A has two tokens with ρ = 1.5 and 0.5, B one token with ρ = 1.1; advantages +2 and −1.
log π is −1 everywhere. ε = 0.2 on both sides, so 1.5 is clipped for A's positive advantage and 0.5 is not;
B's 1.1 lies inside.
"""

from __future__ import annotations

import math

import pytest
import torch

from kernels.grpo_loss import Normalizer, Objective, grpo_loss, merge_partials, metrics_of
from tests.kernels.grpo_loss.batches import LOSSES

LOGPROB = [[-1.0, -1.0], [-1.0, -1.0]]
RATIO = [[1.5, 0.5], [1.1, 1.0]]
MASK = [[1, 1], [1, 0]]
# −min(ρA, clip(ρ)A): A −1.2·2 and −0.5·2, B 1.1.
A1, A2, B1 = -2.4, -1.0, 1.1
S_A = math.sqrt(1.5 * 0.5)  # the geometric mean of A's ratios, 0.866, inside the clip range


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def sapo(rho, tau, advantage):
    return -sigmoid(tau * (rho - 1)) * 4 / tau * advantage


def phi(w, k, rate):
    return math.exp(rate) * w**k * math.exp(-rate * w)


HAND = {
    "grpo": ((A1 + A2) / 2 + B1) / 2,
    "bnpo": (A1 + A2 + B1) / 3,
    "dapo": (A1 + A2 + B1) / 3,
    "dr_grpo": (A1 + A2 + B1) / (2 * 10),
    "gspo": (-2 * S_A + 1.1) / 2,
    "luspo": (2 * -2 * S_A + 1 * 1.1) / 2,
    "cispo": (1.3 * 2 + 0.5 * 2 - 1.1) / 3,  # cap 1.3 and log π = −1 turn −w·A·log π into w·A
    "sapo": ((sapo(1.5, 1.0, 2) + sapo(0.5, 1.0, 2)) / 2 + sapo(1.1, 1.05, -1)) / 2,
    "vespo": (2 * 2 * phi(0.75, 2, 3) - phi(1.1, 3, 2)) / 3,
}
# d loss / d log π by token: A's first token is clipped, its second has dρ = ρ; B's has ρ.
HAND_GRAD = {
    "grpo": [[0, -0.5 * 2 / 4], [1.1 / 2, 0]],
    "bnpo": [[0, -1 / 3], [1.1 / 3, 0]],
    "dapo": [[0, -1 / 3], [1.1 / 3, 0]],
    "dr_grpo": [[0, -1 / 20], [1.1 / 20, 0]],
    "gspo": [[-S_A / 2, -S_A / 2], [1.1 / 2, 0]],
    "luspo": [[-S_A, -S_A], [1.1 / 2, 0]],
    "cispo": [[-1.3 * 2 / 3, -0.5 * 2 / 3], [1.1 / 3, 0]],
    "vespo": [[-phi(0.75, 2, 3) * 2 / 3] * 2, [phi(1.1, 3, 2) / 3, 0]],
}


def hand_batch():
    logprob = torch.tensor(LOGPROB, requires_grad=True)
    old = logprob.detach() - torch.tensor(RATIO).log()
    return logprob, torch.tensor([2.0, -1.0]), torch.tensor(MASK), old


@pytest.mark.parametrize("implementation", ["torch", "fused"])
@pytest.mark.parametrize("loss", sorted(HAND))
def test_loss_and_gradient_worked_out_by_hand(loss, implementation):
    logprob, advantages, mask, old = hand_batch()
    objective = Objective(loss=loss, cispo_max=1.3, max_length=10)
    out = grpo_loss(
        logprob, advantages, mask, objective=objective, old_logprob=old, implementation=implementation
    )
    assert out.loss.item() == pytest.approx(HAND[loss], rel=1e-6)
    if loss in HAND_GRAD:
        out.loss.backward()
        torch.testing.assert_close(logprob.grad, torch.tensor(HAND_GRAD[loss]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("implementation", ["torch", "fused"])
@pytest.mark.parametrize(
    ("kl", "expected"), [("k1", -0.5), ("k2", 0.125), ("k3", math.exp(0.5) - 0.5 - 1), ("abs", 0.5)]
)
def test_kl_estimators_at_a_log_ratio_of_minus_one_half(kl, expected, implementation):
    logprob = torch.tensor([[-1.5]])
    out = grpo_loss(
        logprob,
        torch.zeros(1),
        torch.ones(1, 1),
        objective=Objective(beta=2.0, kl=kl),
        reference_logprob=torch.tensor([[-1.0]]),
        implementation=implementation,
    )
    assert out.loss.item() == pytest.approx(2 * expected, rel=1e-6)
    assert out.metrics["kl"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("implementation", ["torch", "fused"])
def test_metrics_worked_out_by_hand(implementation):
    logprob, advantages, mask, old = hand_batch()
    # Token weights: A 2 (kept) and 4 (masked above 3), B 1.
    rollout = old - torch.tensor([[2.0, 4.0], [1.0, 9.0]]).log()
    out = grpo_loss(
        logprob,
        advantages,
        mask,
        objective=Objective(importance="token_mask"),
        old_logprob=old,
        rollout_logprob=rollout,
        entropy=torch.tensor([[1.0, 2.0], [6.0, 100.0]]),
        reference_logprob=logprob.detach() - 0.5,
        implementation=implementation,
    )
    found = {name: value.item() for name, value in out.metrics.items()}
    third = pytest.approx(1 / 3, rel=1e-6)
    assert found["clip_fraction_high"] == third
    assert found["clip_fraction_low"] == 0
    assert found["clip_fraction_cap"] == 0
    assert found["clip_fraction"] == third
    assert found["ratio_mean"] == pytest.approx((1.5 + 0.5 + 1.1) / 3, rel=1e-6)
    assert found["ratio_min"] == pytest.approx(0.5, rel=1e-6)
    assert found["ratio_max"] == pytest.approx(1.5, rel=1e-6)
    assert found["kl"] == pytest.approx(math.exp(-0.5) - 1 + 0.5, rel=1e-5)
    assert found["entropy"] == pytest.approx(3.0, rel=1e-6)
    assert found["importance_mean"] == pytest.approx((2 + 0 + 1) / 3, rel=1e-6)
    assert found["effective_sample_size"] == pytest.approx(3**2 / (3 * (4 + 1)), rel=1e-6)
    assert found["rollout_kl"] == pytest.approx(-math.log(8) / 3, rel=1e-6)
    assert found["masked_fraction"] == third
    assert found["padding_fraction"] == pytest.approx(1 / 4)
    assert (found["tokens"], found["sequences"], found["non_finite"]) == (3, 2, 0)


def test_two_sided_cap_bounds_a_runaway_negative_advantage():
    logprob = torch.tensor([[0.0]], requires_grad=True)
    arguments = {"old_logprob": torch.full((1, 1), -math.log(50.0))}
    free = grpo_loss(logprob, -torch.ones(1), torch.ones(1, 1), objective=Objective(), **arguments)
    capped = grpo_loss(logprob, -torch.ones(1), torch.ones(1, 1), objective=Objective(delta=4.0), **arguments)
    assert free.loss.item() == pytest.approx(50, rel=1e-5)
    assert capped.loss.item() == pytest.approx(4)
    assert torch.autograd.grad(capped.loss, logprob)[0].item() == 0
    assert capped.metrics["clip_fraction_cap"] == 1


@pytest.mark.parametrize(
    "loss", [name for name in LOSSES if name != "bnpo"]
)  # defined by the split, see below
def test_micro_batches_of_different_padding_add_up_to_the_batch(loss):
    g = torch.Generator().manual_seed(0)
    logprob = -torch.rand(6, 10, generator=g, dtype=torch.float64)
    mask = torch.arange(10) < torch.tensor([[10], [9], [3], [1], [2], [3]])
    advantages = torch.randn(6, generator=g, dtype=torch.float64)
    old = logprob + 0.4 * torch.randn(6, 10, generator=g, dtype=torch.float64)
    splits = [(slice(0, 2), 10), (slice(2, 6), 3)]
    objective = Objective(loss=loss, max_length=12)
    whole = grpo_loss(logprob, advantages, mask, objective=objective, old_logprob=old)
    counts = [Normalizer.count(mask[rows, :t], objective=objective) for rows, t in splits]
    parts = [
        grpo_loss(
            logprob[rows, :t],
            advantages[rows],
            mask[rows, :t],
            objective=objective,
            old_logprob=old[rows, :t],
            normalizer=counts[0] + counts[1],
        )
        for rows, t in splits
    ]
    assert sum(p.loss for p in parts).item() == pytest.approx(whole.loss.item(), rel=1e-13)
    merged = metrics_of(merge_partials([p.partials for p in parts]))
    for name, value in whole.metrics.items():
        if name != "padding_fraction":  # the split saves padding
            assert merged[name].item() == pytest.approx(value.item(), rel=1e-12), name
    assert merged["padding_fraction"] < whole.metrics["padding_fraction"]


def test_bnpo_micro_batches_are_their_own_token_means_weighted_by_sequences():
    logprob, advantages, mask, old = hand_batch()
    objective = Objective(loss="bnpo")
    parts = [
        grpo_loss(
            logprob[b : b + 1],
            advantages[b : b + 1],
            mask[b : b + 1],
            objective=objective,
            old_logprob=old[b : b + 1],
            normalizer=Normalizer(sequences=2, tokens=3),
        ).loss.item()
        for b in range(2)
    ]
    assert parts == pytest.approx([(A1 + A2) / 2 / 2, B1 / 2], rel=1e-6)


def test_merging_different_measurements_is_refused():
    logprob, advantages, mask, old = hand_batch()
    plain = grpo_loss(logprob, advantages, mask, objective=Objective(), old_logprob=old)
    more = grpo_loss(logprob, advantages, mask, objective=Objective(), old_logprob=old, reference_logprob=old)
    with pytest.raises(ValueError, match="kl_sum"):
        merge_partials([plain.partials, more.partials])
    with pytest.raises(ValueError, match="got none"):
        merge_partials([])
