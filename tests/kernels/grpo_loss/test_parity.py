"""Value and gradient of every objective against fp64 written from the papers, both implementations."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

from kernels.grpo_loss import Objective, grpo_loss
from tests.kernels.grpo_loss.batches import CLIPPED, IMPORTANCE, KLS, LOSSES, make_batch, poison
from tests.kernels.grpo_loss.truth import truth

LEVELS = [
    (loss, level)
    for loss in LOSSES
    for level in ("token", "sequence")
    if (loss, level) != ("gspo", "token")  # which is grpo; the objective refuses it
]
# One rounding of the largest term is 6e-8 of it in fp32 and 5e-4 in fp16; a sum of 40 tokens takes a few.
OWN_TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3}


def objective_of(loss: str, level: str, importance: str, **kl) -> Objective:
    return Objective(
        loss=loss,
        ratio_level=level,
        clip_low=0.2,
        clip_high=0.28,
        delta=3.0 if loss in CLIPPED else None,
        max_length=11,
        cispo_max=4.0,
        importance=importance,
        importance_cap=1.4,
        **kl,
    )


def cross_product():
    """Every loss, ratio level, importance correction and KL, in both dtypes.

    By default all ways run in which the terms combine in fp32: each loss and level with each importance, without KL,
    with KL and with KL · ρ. The KL estimator, which knows none of the others, takes turns, and so do the three in
    fp16, which is read at the same loads. The remaining combinations are slow.
    """
    for (row, (loss, level)), (column, importance) in itertools.product(
        enumerate(LEVELS), enumerate(IMPORTANCE)
    ):
        of_turn = KLS[(row + column) % len(KLS)]
        for ratio, kl in ((None, None), *itertools.product((False, True), KLS)):
            fields = {} if kl is None else {"beta": 0.3, "kl": kl, "kl_ratio": ratio}
            combination = (None, False, True).index(ratio)
            name = "-".join(
                [loss, level, importance, "no_kl" if kl is None else kl, *["ratio"] * bool(ratio)]
            )
            for dtype in OWN_TOLERANCE:
                quick = kl in (None, of_turn)
                quick &= dtype == torch.float32 or (row + column) % 3 == combination
                yield pytest.param(
                    objective_of(loss, level, importance, **fields),
                    dtype,
                    id=f"{name}-{str(dtype).removeprefix('torch.')}",
                    marks=() if quick else pytest.mark.slow,
                )


@functools.cache
def true_loss_and_gradient(objective):
    """Of `make_batch()`, in fp64."""
    batch = make_batch()
    leaf = batch.logprob.clone().requires_grad_()
    loss = truth(objective, leaf, batch.advantages, batch.mask, batch.old, batch.reference, batch.rollout)
    (grad,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), grad


def of_kernel(objective, batch, dtype, implementation, **more):
    given = poison(batch).to(dtype)
    leaf = given.logprob.requires_grad_()
    out = grpo_loss(
        leaf,
        given.advantages,
        given.mask,
        objective=objective,
        implementation=implementation,
        **given.arguments(),
        **more,
    )
    (grad,) = torch.autograd.grad(out.loss, leaf)
    assert grad.dtype == dtype
    return out.loss.detach().double(), grad.double(), out


def distance(found, true, scale) -> float:
    """Largest error relative to `scale`."""
    return float((found - true).abs().max() / scale)


@pytest.mark.parametrize(("objective", "dtype"), list(cross_product()))
def test_value_and_gradient_match_fp64(objective, dtype):
    batch = make_batch()
    true_loss, true_grad = true_loss_and_gradient(objective)
    largest = true_grad.abs().max()
    assert largest > 0
    # Token losses cancel in the sum, so its error is held against their size rather than the sum's.
    total = torch.maximum(true_loss.abs(), true_grad.abs().sum())
    reference_loss, reference_grad, _ = of_kernel(objective, batch, dtype, "torch")
    fused_loss, fused_grad, _ = of_kernel(objective, batch, dtype, "fused")
    own_grad = distance(reference_grad, true_grad, largest)
    own_loss = distance(reference_loss, true_loss, total)
    assert own_grad < OWN_TOLERANCE[dtype]
    assert own_loss < 2e-6
    assert distance(fused_grad, true_grad, largest) <= 1.5 * own_grad + 5e-7
    assert distance(fused_loss, true_loss, total) <= 1.5 * own_loss + 5e-7
    assert not fused_grad[~batch.mask].any()
    assert not reference_grad[~batch.mask].any()


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_batch_reaches_every_clipping_side(level):
    """Otherwise the cross product above would compare identical unclipped branches."""
    objective = Objective(loss="grpo", ratio_level=level, delta=3.0, clip_high=0.28)
    _, _, out = of_kernel(objective, make_batch(), torch.float32, "torch")
    for name in ("clip_fraction_low", "clip_fraction_high", "clip_fraction_cap"):
        assert out.metrics[name] > 0.02
    assert 0.2 < out.metrics["clip_fraction"] < 0.8


@pytest.mark.parametrize("importance", [name for name in IMPORTANCE if name != "none"])
def test_the_batch_reaches_the_importance_cap(importance):
    objective = Objective(importance=importance, importance_cap=1.4)
    _, _, out = of_kernel(objective, make_batch(), torch.float32, "torch")
    masked = out.metrics["masked_fraction"]
    assert masked > 0.1 if importance.endswith("mask") else masked == 0


def batch_with_token_advantages():
    batch = make_batch(3)
    factors = torch.linspace(-0.5, 1.5, batch.mask.shape[1], dtype=torch.float64).half().double()
    return batch, batch.advantages[:, None] * factors


@functools.cache
def truth_with_entropy(objective):
    """Loss of `batch_with_token_advantages()` in fp64, and its gradients in log-prob and entropy."""
    batch, advantages = batch_with_token_advantages()
    alive = batch.mask & ~(batch.truncated[:, None] & objective.mask_truncated)
    quantile = objective.top_entropy_quantile
    threshold = None if quantile is None else float(torch.quantile(batch.entropy[alive], 1 - quantile))
    leaves = [batch.logprob.clone().requires_grad_(), batch.entropy.clone().requires_grad_()]
    loss = truth(
        objective,
        leaves[0],
        advantages,
        batch.mask,
        batch.old,
        entropy=leaves[1],
        truncated=batch.truncated,
        threshold=threshold,
    )
    return loss.detach(), torch.autograd.grad(loss, leaves, materialize_grads=True)


@pytest.mark.parametrize("implementation", ["torch", "fused"])
@pytest.mark.parametrize("mask_truncated", [False, True])
@pytest.mark.parametrize("quantile", [None, 0.4])
@pytest.mark.parametrize("bonus", [0.0, 0.7])
@pytest.mark.parametrize("loss", LOSSES)
def test_entropy_terms_truncation_and_token_advantages_match_fp64(
    loss, bonus, quantile, mask_truncated, implementation
):
    objective = Objective(
        loss=loss,
        max_length=9,
        entropy_bonus=bonus,
        top_entropy_quantile=quantile,
        mask_truncated=mask_truncated,
    )
    true, true_grads = truth_with_entropy(objective)
    batch, advantages = batch_with_token_advantages()
    given = poison(batch).to(torch.float32)
    found = [given.logprob.requires_grad_(), given.entropy.requires_grad_()]
    out = grpo_loss(
        found[0],
        torch.where(batch.mask, advantages, torch.nan).float(),
        given.mask,
        objective=objective,
        old_logprob=given.old,
        entropy=found[1],
        truncated=given.truncated,
        implementation=implementation,
    )
    grads = torch.autograd.grad(out.loss, found, materialize_grads=True)
    torch.testing.assert_close(out.loss.double(), true, rtol=3e-6, atol=1e-7)
    for grad, true_grad in zip(grads, true_grads, strict=True):
        torch.testing.assert_close(grad.double(), true_grad, rtol=3e-6, atol=1e-7)


@pytest.mark.parametrize("implementation", ["torch", "fused"])
@pytest.mark.parametrize("loss", LOSSES)
def test_on_policy_without_old_log_probs_matches_fp64(loss, implementation):
    batch = make_batch(5)
    objective = Objective(loss=loss, max_length=9, beta=0.1, importance="token_truncate")
    leaf = batch.logprob.clone().requires_grad_()
    true = truth(objective, leaf, batch.advantages, batch.mask, None, batch.reference, batch.logprob + 0.1)
    (true_grad,) = torch.autograd.grad(true, leaf)
    given = batch.to(torch.float32)
    found = given.logprob.requires_grad_()
    out = grpo_loss(
        found,
        given.advantages,
        given.mask,
        objective=objective,
        reference_logprob=given.reference,
        rollout_logprob=(batch.logprob + 0.1).float(),
        implementation=implementation,
    )
    torch.testing.assert_close(out.loss.double(), true, rtol=3e-6, atol=1e-7)
    (grad,) = torch.autograd.grad(3 * out.loss, found)
    torch.testing.assert_close(grad.double(), 3 * true_grad, rtol=3e-6, atol=1e-7)


@pytest.mark.parametrize("importance", IMPORTANCE)
@pytest.mark.parametrize("loss", LOSSES)
def test_metrics_are_the_same_from_both_implementations(loss, importance):
    objective = Objective(loss=loss, max_length=9, beta=0.1, importance=importance, top_entropy_quantile=0.5)
    batch = make_batch(7)
    more = {"entropy": poison(batch).entropy.float()}
    _, _, plain = of_kernel(objective, batch, torch.float32, "torch", **more)
    _, _, fused = of_kernel(objective, batch, torch.float32, "fused", **more)
    assert plain.metrics.keys() == fused.metrics.keys()
    for name, value in plain.metrics.items():
        torch.testing.assert_close(fused.metrics[name], value, rtol=1e-5, atol=1e-7, msg=name)
