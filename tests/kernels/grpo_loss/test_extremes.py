"""Log-ratios beyond what fp32 can exponentiate, in every input, against fp64 autograd of the papers' formulas.

What holds of a token: its gradient is the exact one wherever its loss is a finite fp32 number; otherwise
`non_finite` counts it. A ratio that overflows where the loss does not depend on it spoils nothing.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from kernels.grpo_loss import Objective, grpo_loss
from tests.kernels.grpo_loss.batches import CLIPPED, IMPORTANCE, LOSSES
from tests.kernels.grpo_loss.truth import truth

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*encountered in.*:RuntimeWarning"
)  # numpy, in the interpreter
BOTH = pytest.mark.parametrize("implementation", ["torch", "fused"])
SHIFTS = (88.0, 89.0, 104.0, -88.0, -89.0, -104.0)
INPUTS = ("logprob", "old", "reference", "rollout")
T = 3
LARGEST = torch.finfo(torch.float32).max


def rows(shifts=SHIFTS, inputs=INPUTS):
    """A sequence for every input, log-ratio and sign of the advantage; the second of three tokens is the far one.

    Values are multiples of 1/64, so that fp32 holds every difference exactly.
    """
    cases = list(itertools.product(inputs, shifts, (1.0, -1.0)))
    g = torch.Generator().manual_seed(3)

    def near(centre):
        return centre + torch.randint(-6, 7, (len(cases), T), generator=g).double() / 64

    found = {"logprob": near(-1.5)}
    found |= {name: found["logprob"] + near(0.0) for name in INPUTS[1:]}
    for row, (name, shift, _) in enumerate(cases):
        if name in INPUTS:
            found[name][row, 1] += shift if name == "logprob" else -shift
    found["advantages"] = torch.tensor([0.75 * sign for *_, sign in cases], dtype=torch.float64)
    found["mask"] = torch.ones(len(cases), T, dtype=torch.bool)
    return cases, found


def measured(objective, batch, implementation):
    given = {k: v if k == "mask" else v.float() for k, v in batch.items()}
    leaf = given["logprob"].clone().requires_grad_()
    out = grpo_loss(
        leaf,
        given["advantages"],
        given["mask"],
        objective=objective,
        old_logprob=given["old"],
        reference_logprob=given["reference"],
        rollout_logprob=given["rollout"],
        implementation=implementation,
    )
    (grad,) = torch.autograd.grad(out.loss, leaf)
    return out, grad.double()


def exact(objective, batch):
    leaf = batch["logprob"].clone().requires_grad_()
    names = ("advantages", "mask", "old", "reference", "rollout")
    loss = truth(objective, leaf, *(batch[name] for name in names))
    (grad,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), grad


def chosen(batch, where):
    return {name: values[where] for name, values in batch.items()}


def objectives(loss):
    # These are grpo but for the weights of their tokens.
    alike = loss in ("bnpo", "dapo", "dr_grpo")
    for level in ("token",) if alike else ("token", "sequence"):
        if (loss, level) == ("gspo", "token"):
            continue
        base = {"loss": loss, "ratio_level": level, "max_length": 7}
        for importance in IMPORTANCE[:2] if alike else IMPORTANCE:
            yield Objective(**base, importance=importance)
        for ratio in (False, True):
            yield Objective(**base, beta=0.3, kl="k3", kl_ratio=ratio)
        if loss in ("grpo", "cispo"):
            for kl, ratio in itertools.product(("k1", "k2", "abs"), (False, True)):
                yield Objective(**base, beta=0.3, kl=kl, kl_ratio=ratio)
        if loss in CLIPPED:
            yield Objective(**base, delta=3.0)
            yield Objective(**base, importance="token_truncate", beta=0.3, kl="k3", kl_ratio=True)


@BOTH
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_exact_or_counted(loss, implementation):
    cases, batch = rows()
    for objective in objectives(loss):
        _, true_grad = exact(objective, batch)
        assert true_grad.isfinite().all(), "the truth itself must not overflow"
        out, grad = measured(objective, batch, implementation)
        lost = ~grad.isfinite().all(1)
        for row in lost.nonzero().flatten().tolist():
            # A power that reaches the loss leaves fp32; its factors here (weight, β, KL) are small numbers.
            true_loss, _ = exact(objective, chosen(batch, [row]))
            largest = torch.maximum(true_loss.abs(), true_grad[row].abs().max())
            # By sequence KL · ρ is one product, and k3 alone may leave fp32.
            beyond = objective.kl_ratio and (batch["reference"] - batch["logprob"])[row].max() > 88
            assert largest > 1e-6 * LARGEST or beyond, (objective, cases[row], grad[row])
        assert bool(out.metrics["non_finite"] > 0) == bool(lost.any()), objective
        if lost.any():
            alone, _ = measured(objective, chosen(batch, lost), implementation)
            assert alone.metrics["non_finite"] >= lost.sum(), objective
        rest = chosen(batch, ~lost)
        true_loss, true_grad = exact(objective, rest)
        out, grad = measured(objective, rest, implementation)
        assert out.metrics["non_finite"] == 0 or not out.loss.isfinite(), objective
        # Of each token by its own size: a far one must not hide the others.
        torch.testing.assert_close(
            grad, true_grad, rtol=4e-5, atol=1e-8, msg=lambda text, o=objective: f"{o}\n{text}"
        )
        if out.loss.isfinite():
            # Log-probs of −104 cancel in the sum.
            torch.testing.assert_close(out.loss.double(), true_loss, rtol=2e-5, atol=4e-6)


@BOTH
@pytest.mark.parametrize("log_ratio", [89.0, 104.0, 1e4, float("inf")])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss", CLIPPED)
def test_a_clipped_token_has_no_gradient_however_far_it_is(loss, level, log_ratio, implementation):
    if (loss, level) == ("gspo", "token"):
        pytest.skip("gspo by token is grpo; the objective refuses it")
    _, batch = rows((0.0,), ("old",))
    batch = chosen(batch, [0])
    batch["old"][:, 1] = batch["logprob"][:, 1] - (3 if level == "sequence" else 1) * log_ratio
    objective = Objective(loss=loss, ratio_level=level, max_length=7)
    out, grad = measured(objective, batch, implementation)
    assert grad[0, 1] == 0
    assert grad.isfinite().all()
    assert out.loss.isfinite()
    assert out.metrics["non_finite"] == (log_ratio == float("inf"))
    assert out.metrics["clip_fraction_high"] >= 1 / 3
    reversed_sign = measured(objective, batch | {"advantages": -batch["advantages"]}, implementation)
    assert reversed_sign[0].metrics["non_finite"] >= 1


@BOTH
@pytest.mark.parametrize("loss", LOSSES)
def test_beyond_fp64_the_limit_stays_the_same(loss, implementation):
    """e^10000 is out of fp64's reach too: the loss is what it was at e^312, or counted as it was."""
    for importance in IMPORTANCE:
        objective = Objective(loss=loss, max_length=7, importance=importance)
        inputs = ("old",) if importance == "none" else ("rollout",)
        found = []
        for size in (312.0, 1e4):  # e^104 for the mean of three tokens
            _, batch = rows((size, -size), inputs)
            found.append(measured(objective, batch, implementation))
        (before, before_grad), (after, after_grad) = found
        assert after.metrics["non_finite"] == before.metrics["non_finite"], objective
        torch.testing.assert_close(after_grad, before_grad, equal_nan=True)
        torch.testing.assert_close(after.loss, before.loss, equal_nan=True)


@BOTH
@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_not_a_number_is_counted_in_every_input(loss, implementation):
    values = (float("nan"), float("inf"), float("-inf"))
    cases, batch = rows(values, (*INPUTS, "advantages"))
    cases = [case for case in cases if case[2] > 0]
    batch = {name: part[::2].clone() for name, part in batch.items()}
    batch["advantages"] = torch.full((len(cases), T), 0.75, dtype=torch.float64)
    for row, (name, value, _) in enumerate(cases):
        for other in INPUTS:
            batch[other][row, 1] = -1.5
        batch[name][row, 1] = value
    for importance in IMPORTANCE:
        objective = Objective(loss=loss, max_length=7, importance=importance, beta=0.1)
        out, _ = measured(objective, batch, implementation)
        assert out.metrics["non_finite"] >= len(cases), objective
        assert out.loss.isnan(), objective
        by_token = loss != "vespo" and objective.resolved().ratio_level == "token"
        if by_token and not importance.startswith("sequence"):
            assert out.metrics["non_finite"] == len(cases), objective


@BOTH
def test_a_sum_that_overflows_is_counted(implementation):
    """Each token's loss is a finite number, their sum is none."""
    _, batch = rows((88.0,), ("old",))
    batch = chosen(batch, [1, 1, 1])
    batch["old"] = batch["logprob"] - 88.0
    out, grad = measured(Objective(loss="grpo"), batch, implementation)
    assert grad.isfinite().all()
    assert not out.loss.isfinite()
    assert out.metrics["non_finite"] >= 1
