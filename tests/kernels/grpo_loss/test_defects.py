"""Defects that other GRPO kernels had, each held by a test named after it, and the odd shapes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from kernels.grpo_loss import Normalizer, Objective, entropy_threshold, grpo_loss
from tests.kernels.grpo_loss.batches import LOSSES, make_batch, poison

BOTH = pytest.mark.parametrize("implementation", ["torch", "fused"])


def gradient(objective, batch, implementation="torch", **more):
    leaf = batch.logprob.detach().clone().requires_grad_()
    arguments = {**batch.arguments(), **more}
    out = grpo_loss(
        leaf, batch.advantages, batch.mask, objective=objective, implementation=implementation, **arguments
    )
    (grad,) = torch.autograd.grad(out.loss, leaf)
    return out, grad


def by_differences(objective, batch, step=1e-6):
    """The gradient by central differences in fp64, from values alone."""
    grad = torch.zeros_like(batch.logprob)
    for b, t in batch.mask.nonzero().tolist():
        values = []
        for sign in (1, -1):
            moved = batch.logprob.clone()
            moved[b, t] += sign * step
            found = grpo_loss(moved, batch.advantages, batch.mask, objective=objective, **batch.arguments())
            values.append(found.loss)
        grad[b, t] = (values[0] - values[1]) / (2 * step)
    return grad


@BOTH
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_luspo_gradient_with_ragged_lengths(level, implementation):
    """A kernel that reads the [B, 1] length factor as if it were [B, T] passes with equal lengths only."""
    batch = make_batch(1, patterns=("full", "right padded", "one token"))
    objective = Objective(loss="luspo", ratio_level=level)
    _, grad = gradient(objective, batch.to(torch.float32), implementation)
    torch.testing.assert_close(grad.double(), by_differences(objective, batch), rtol=1e-4, atol=1e-7)


@BOTH
@pytest.mark.parametrize("kl", ["k1", "k2", "k3", "abs"])
def test_gradient_of_ratio_corrected_kl_at_sequence_level(kl, implementation):
    """The shared ratio carries the KL of every token of its sequence, not only its own."""
    batch = make_batch(2, patterns=("full", "left padded"))
    objective = Objective(loss="gspo", beta=0.5, kl=kl, kl_ratio=True)
    _, grad = gradient(objective, batch.to(torch.float32), implementation)
    torch.testing.assert_close(grad.double(), by_differences(objective, batch), rtol=1e-4, atol=1e-7)


@BOTH
@pytest.mark.parametrize(
    ("loss", "more"),
    [
        ("gspo", {"importance": "sequence_truncate"}),
        ("luspo", {"importance": "sequence_truncate"}),
        ("vespo", {"importance": "sequence_truncate"}),
        ("vespo", {"importance": "token_truncate", "importance_cap": 0.8}),
    ],
)
def test_sequence_level_is_blind_to_padding(loss, more, implementation):
    """The geometric mean and the product run over completion tokens, whatever padding holds or how wide it is."""
    batch = make_batch(3).to(torch.float32)
    objective = Objective(loss=loss, beta=0.1, **more)
    out, grad = gradient(objective, batch, implementation)
    wide = [
        torch.cat([v, torch.full((v.shape[0], 5), torch.nan)], 1)
        for v in (batch.logprob, batch.old, batch.reference, batch.rollout)
    ]
    padded = batch._replace(
        logprob=wide[0],
        old=wide[1],
        reference=wide[2],
        rollout=wide[3],
        mask=torch.cat([batch.mask, torch.zeros(len(batch.mask), 5, dtype=torch.bool)], 1),
    )
    padded_out, padded_grad = gradient(objective, padded, implementation)
    torch.testing.assert_close(padded_out.loss, out.loss, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(padded_grad[:, :8], grad, rtol=1e-6, atol=1e-8)
    assert bool((padded_grad[:, 8:] == 0).all())


@BOTH
def test_no_variant_silently_trains_another(implementation):
    batch = make_batch(4).to(torch.float32)
    grads = {loss: gradient(Objective(loss=loss, max_length=20), batch, implementation)[1] for loss in LOSSES}
    # On one whole batch the local tokens are all tokens.
    torch.testing.assert_close(grads.pop("bnpo"), grads["dapo"])
    names = sorted(grads)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            assert not torch.allclose(grads[first], grads[second], rtol=1e-2), (first, second)


# A setting in which the field is read, and a change of it.
FIELDS = {
    "loss": ({}, {"loss": "grpo"}),
    "ratio_level": ({}, {"ratio_level": "sequence"}),
    "aggregation": ({}, {"aggregation": "sequence_sum"}),
    "max_length": ({"loss": "dr_grpo"}, {"max_length": 21}),
    "clip_low": ({}, {"clip_low": 0.1}),
    "clip_high": ({}, {"clip_high": 0.3}),
    "delta": ({}, {"delta": 3.0}),
    "cispo_max": ({"loss": "cispo"}, {"cispo_max": 2.0}),
    "sapo_tau_pos": ({"loss": "sapo"}, {"sapo_tau_pos": 2.0}),
    "sapo_tau_neg": ({"loss": "sapo"}, {"sapo_tau_neg": 2.0}),
    "vespo_k_pos": ({"loss": "vespo"}, {"vespo_k_pos": 1.0}),
    "vespo_lambda_pos": ({"loss": "vespo"}, {"vespo_lambda_pos": 1.0}),
    "vespo_k_neg": ({"loss": "vespo"}, {"vespo_k_neg": 1.0}),
    "vespo_lambda_neg": ({"loss": "vespo"}, {"vespo_lambda_neg": 1.0}),
    "beta": ({}, {"beta": 0.4}),
    "kl": ({}, {"kl": "k2"}),
    "kl_ratio": ({}, {"kl_ratio": True}),
    "importance": ({}, {"importance": "token_mask"}),
    "importance_cap": ({"importance": "token_truncate"}, {"importance_cap": 1.5}),
    "entropy_bonus": ({}, {"entropy_bonus": 0.1}),
    "top_entropy_quantile": ({}, {"top_entropy_quantile": 0.5}),
    "mask_truncated": ({}, {"mask_truncated": True}),
}


@BOTH
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Objective)])
def test_every_objective_field_changes_the_loss(name, implementation):
    """A field that nothing reads would train what the recipe does not say."""
    batch = make_batch(5).to(torch.float32)
    setting, change = FIELDS[name]
    base = {"beta": 0.3, "max_length": 20, **setting}
    more = {"entropy": batch.entropy, "truncated": batch.truncated}
    before, _ = gradient(Objective(**base), batch, implementation, **more)
    after, _ = gradient(Objective(**{**base, **change}), batch, implementation, **more)
    assert abs(before.loss - after.loss) > 1e-5


def test_65537_positions_do_not_overflow_the_launch_grid():
    """CUDA admits 65,535 blocks in the second and third grid dimension."""
    g = torch.Generator().manual_seed(0)
    T = 65_537
    logprob = -torch.rand(1, T, generator=g)
    old = logprob + 0.3 * torch.randn(1, T, generator=g)
    mask = torch.rand(1, T, generator=g) < 0.9
    grads = []
    for implementation in ("torch", "fused"):
        leaf = logprob.clone().requires_grad_()
        out = grpo_loss(
            leaf, torch.ones(1), mask, objective=Objective(), old_logprob=old, implementation=implementation
        )
        out.loss.backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-12)


def test_fused_without_a_device_says_what_is_needed(monkeypatch):
    from triton.runtime import JITFunction

    from kernels.grpo_loss import launch

    # As Triton compiles it where nothing asks for the interpreter.
    monkeypatch.setattr(launch, "grpo_loss_kernel", JITFunction(launch.grpo_loss_kernel.fn))
    with pytest.raises(ValueError, match="`implementation` must be torch on this device, got fused on cpu"):
        grpo_loss(
            torch.zeros(1, 2), torch.zeros(1), torch.ones(1, 2), objective=Objective(), implementation="fused"
        )


@BOTH
def test_inputs_are_left_as_they_were(implementation):
    """Autotuning an in-place kernel runs it several times over the same memory."""
    batch = make_batch(6).to(torch.float32)
    kept = [v.clone() for v in batch]
    gradient(Objective(beta=0.1), batch, implementation, entropy=batch.entropy)
    for before, after in zip(kept, batch):
        assert torch.equal(before, after)


def test_fused_writes_every_element_it_returns(monkeypatch):
    """Uninitialised memory often happens to be zero."""
    batch = make_batch(7).to(torch.float32)
    expected, grad = gradient(Objective(), batch, "fused")

    def poisoned(*size, **options):
        return torch.full(size, torch.nan, **options)

    monkeypatch.setattr("kernels.grpo_loss.launch.torch.empty", poisoned)
    found, found_grad = gradient(Objective(), batch, "fused")
    assert torch.equal(found.loss, expected.loss)
    assert torch.equal(found_grad, grad)


@BOTH
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["logprob", "old", "reference", "rollout", "entropy"])
@pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")
def test_a_non_finite_input_is_counted_and_nan_reaches_the_loss(where, value, implementation):
    batch = make_batch(8, patterns=("full",)).to(torch.float32)
    spoiled = getattr(batch, where).clone()
    spoiled[1, 2] = value
    batch = batch._replace(**{where: spoiled})
    objective = Objective(beta=0.1, importance="token_truncate", entropy_bonus=0.1)
    out, _ = gradient(objective, batch, implementation, entropy=batch.entropy)
    assert out.metrics["non_finite"] == 1
    if value != value:
        assert out.loss.isnan()


@BOTH
@pytest.mark.parametrize("importance", ["none", "token_mask", "sequence_mask", "token_truncate"])
@pytest.mark.parametrize("loss", ["gspo", "cispo", "sapo", "vespo"])  # one of each surrogate
@pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")
def test_no_clamp_swallows_nan(loss, importance, implementation):
    """min, max and comparisons drop NaN in Triton unless told otherwise."""
    batch = make_batch(9, patterns=("full",)).to(torch.float32)
    batch.rollout[0, 0] = torch.nan
    if importance == "none":
        batch.old[1, 1] = torch.nan
    out, _ = gradient(Objective(loss=loss, importance=importance), batch, implementation)
    assert out.loss.isnan()
    assert out.metrics["non_finite"] >= 1


@pytest.mark.parametrize("loss", ["grpo", "gspo", "vespo"])
@pytest.mark.parametrize(
    "shape",
    [
        (0, 4),  # no sequences
        (3, 0),  # no positions
        (0, 0),
        (1, 1),
        (2, 33),  # just past a tile
        (5, 1025),  # just past the largest tile
    ],
)
def test_odd_shapes(shape, loss):
    g = torch.Generator().manual_seed(0)
    logprob = -torch.rand(*shape, generator=g)
    old = logprob + 0.2 * torch.randn(*shape, generator=g)
    found = {}
    for implementation in ("torch", "fused"):
        leaf = logprob.clone().requires_grad_()
        out = grpo_loss(
            leaf,
            torch.ones(shape[0]),
            torch.ones(shape),
            objective=Objective(loss=loss),
            old_logprob=old,
            implementation=implementation,
        )
        assert out.loss.isfinite()
        found[implementation] = out.loss.detach(), torch.autograd.grad(out.loss, leaf)[0]
    torch.testing.assert_close(found["fused"], found["torch"])


@BOTH
def test_strided_inputs(implementation):
    batch = make_batch(10).to(torch.float32)
    strided = batch._replace(
        **{name: getattr(batch, name).t().contiguous().t() for name in ("logprob", "old", "mask")}
    )
    _, expected = gradient(Objective(), batch, implementation)
    _, found = gradient(Objective(), strided, implementation)
    assert torch.equal(found, expected)


@BOTH
def test_k3_keeps_its_digits_close_to_the_reference(implementation):
    """e^(−Δ) + Δ − 1 in fp32 loses all of them below Δ = 3e-4, where a run with a KL term lives."""
    delta = torch.tensor([[1e-4, -3e-5, 2e-3, 0.3, -0.7]])
    leaf = delta.clone().requires_grad_()
    out = grpo_loss(
        leaf,
        torch.zeros(1),
        torch.ones(1, 5),
        objective=Objective(beta=1.0),
        reference_logprob=torch.zeros(1, 5),
        implementation=implementation,
    )
    out.loss.backward()
    exact = -torch.expm1(-delta.double()) / 5
    torch.testing.assert_close(leaf.grad.double(), exact, rtol=1e-6, atol=0)


def test_the_second_derivative_of_k3_is_right_in_torch_and_refused_by_the_kernel():
    batch = make_batch(5)
    objective = Objective(loss="grpo", beta=0.3)

    def total(logprob, implementation="torch"):
        return grpo_loss(
            logprob,
            batch.advantages,
            batch.mask,
            objective=objective,
            implementation=implementation,
            **batch.arguments(),
        ).loss

    assert torch.autograd.gradgradcheck(total, batch.logprob.clone().requires_grad_())
    leaf = batch.logprob.float().requires_grad_()
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(total(leaf, "fused") + leaf.square().sum(), leaf, create_graph=True)


@pytest.mark.parametrize("loss", ["cispo", "vespo"])
def test_detached_weights_carry_no_gradient(loss):
    """The weight multiplies the gradient of log π; differentiating it too is another objective."""
    batch = make_batch(11, patterns=("full",))
    objective = Objective(loss=loss)
    leaf = batch.logprob.clone().requires_grad_()
    shifted = []
    for constant in (0.0, 5.0):  # adding a constant to log π and π_old moves the loss, not its gradient
        out = grpo_loss(
            leaf + constant,
            batch.advantages,
            batch.mask,
            objective=objective,
            old_logprob=batch.old + constant,
        )
        shifted.append(torch.autograd.grad(out.loss, leaf)[0])
    torch.testing.assert_close(shifted[0], shifted[1])


def test_dr_grpo_divides_by_the_cap_and_not_by_the_padded_length():
    batch = make_batch(12)
    objective = Objective(loss="dr_grpo", max_length=100)
    whole, _ = gradient(objective, batch)
    cut = batch._replace(**{n: getattr(batch, n)[:, :6] for n in ("logprob", "old", "reference", "rollout")})
    cut = cut._replace(mask=batch.mask[:, :6])
    short = batch._replace(mask=torch.cat([batch.mask[:, :6], torch.zeros_like(batch.mask[:, 6:])], 1))
    assert gradient(objective, cut)[0].loss == gradient(objective, short)[0].loss != whole.loss


def test_entropy_threshold_of_the_whole_batch_makes_micro_batches_exact():
    batch = make_batch(13)
    objective = Objective(top_entropy_quantile=0.3)
    given = poison(batch)
    whole, _ = gradient(objective, given, entropy=given.entropy)
    threshold = entropy_threshold(given.entropy, given.mask, objective)
    halves = []
    for rows in (slice(0, 7), slice(7, None)):
        part = type(batch)(*(v[rows] for v in given))
        halves.append(
            gradient(
                objective,
                part,
                entropy=part.entropy,
                entropy_threshold=threshold,
                normalizer=Normalizer.count(batch.mask, objective=objective),
            )[0].loss
        )
    torch.testing.assert_close(sum(halves), whole.loss)
