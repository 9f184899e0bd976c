"""A test for every defect of heads like this one that is on record, named after what it guards."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from kernels.token_logprob import Lora, token_logprob
from kernels.token_logprob.dtypes import product_dtype
from tests.kernels.token_logprob.problems import assert_as_good_as_reference, make_problem, solve, truth

pytestmark = pytest.mark.usefixtures("small_tiles")
BOTH = pytest.mark.parametrize("implementation", ["slabs", "fused"])


@BOTH
@pytest.mark.parametrize("level", [-120.0, -3e4, 3e4])
def test_all_logits_far_from_zero(implementation, level):
    """A running maximum that starts at 0 gives inf and NaN here."""
    problem = make_problem(bias=True, entropy=True)
    problem.bias.add_(level)
    found = solve(problem.to(torch.float32), implementation)
    assert all(value.isfinite().all() for value in found.values())
    # A logit of this size is itself rounded to this many units of a logit of size 1.
    assert_as_good_as_reference(problem, implementation, torch.float32, roundings=max(1.0, abs(level) / 20))


@BOTH
def test_vocabulary_padding_has_no_probability(implementation):
    """Padding rows with large weights gave log-probs that do not sum to one, and rewards that collapse."""
    problem = make_problem(padded=True, entropy=True).to(torch.float32)
    clean = solve(problem, implementation)
    problem.weight[problem.vocab_size :] = 1e4
    dirty = solve(problem, implementation)
    for name in clean:
        assert torch.equal(clean[name], dirty[name]), name
    assert not dirty["d weight"][problem.vocab_size :].any()
    assert (dirty["logprob"] <= 0).all()


@BOTH
def test_bias_is_not_ignored(implementation):
    """Fails if the bias is left out of the forward pass or of the backward pass."""
    problem = make_problem(bias=True)
    without = truth(copy.copy(problem).__class__(**{**problem.__dict__, "bias": None}))
    exact = truth(problem)
    assert (exact["logprob"] - without["logprob"]).abs().max() > 0.1
    assert (exact["d weight"] - without["d weight"]).abs().max() > 0.01
    assert_as_good_as_reference(problem, implementation, torch.float32)


@BOTH
def test_minus_infinity_in_the_bias_forbids_a_token(implementation):
    """0 · inf in the entropy, and a whole tile of -inf, must not become NaN."""
    problem = make_problem(bias=True, entropy=True).to(torch.float32)
    problem.bias[20:41] = -torch.inf
    problem.targets[(problem.targets >= 20) & (problem.targets < 41)] = 3
    found = solve(problem, implementation, 0)
    assert all(value.isfinite().all() for value in found.values())
    assert not found["d weight"][20:41].any()


@BOTH
def test_entropy_gradient_is_not_dropped(implementation):
    problem = make_problem(entropy=True)
    problem.d_logprob.zero_()
    assert truth(problem)["d hidden"].abs().max() > 0.1
    assert_as_good_as_reference(problem, implementation, torch.float32)


@BOTH
def test_lora_on_the_head_is_not_ignored(implementation):
    problem = make_problem(lora=True)
    assert truth(problem)["d lora.a"].abs().max() > 0.01
    assert_as_good_as_reference(problem, implementation, torch.float32)


@BOTH
def test_frozen_head_gets_no_gradient(implementation, monkeypatch):
    """A frozen head costs no dW: no buffer for it is ever made."""
    from kernels.token_logprob import gradients

    problem = make_problem().to(torch.float32)
    expected = solve(problem, implementation)["d hidden"]

    def no_buffer(*arguments):
        raise AssertionError("a gradient of the frozen weight was allocated")

    monkeypatch.setattr(gradients, "SlabSum", no_buffer)
    hidden = problem.hidden.clone().requires_grad_()
    out = token_logprob(hidden, problem.weight, problem.targets, implementation=implementation)
    (out.logprob * problem.d_logprob).sum().backward()
    assert torch.equal(hidden.grad, expected)


@BOTH
def test_lora_on_a_frozen_head(implementation):
    """The usual case: gradients of the pair without the product for dW."""
    problem = make_problem(lora=True).to(torch.float32)
    exact = truth(problem)
    pair = Lora(
        problem.lora.a.clone().requires_grad_(), problem.lora.b.clone().requires_grad_(), problem.lora.scale
    )
    out = token_logprob(
        problem.hidden, problem.weight, problem.targets, lora=pair, implementation=implementation
    )
    (out.logprob * problem.d_logprob).sum().backward()
    torch.testing.assert_close(pair.a.grad.double(), exact["d lora.a"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pair.b.grad.double(), exact["d lora.b"], rtol=1e-4, atol=1e-5)


@BOTH
def test_tied_weight_sums_both_uses(implementation):
    weight = torch.randn(30, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    tokens = torch.tensor([3, 3, 29, 0])

    def gradient(how):
        out = token_logprob(weight[tokens], weight, tokens.flip(0), implementation=how)
        return torch.autograd.grad(out.logprob.sum(), weight)[0]

    torch.testing.assert_close(gradient(implementation), gradient("reference"), rtol=1e-4, atol=1e-5)


@BOTH
def test_activation_checkpointing_around_the_head(implementation):
    """Saved tensors that are asked for twice are a CheckpointError."""
    problem = make_problem().to(torch.float32)

    def gradient(around):
        hidden = problem.hidden.clone().requires_grad_()
        around(lambda x: token_logprob(x, problem.weight, problem.targets, implementation=implementation)[0])(
            hidden
        ).sum().backward()
        return hidden.grad

    def checkpointed(work):
        return lambda x: checkpoint(work, x, use_reentrant=False)

    assert torch.equal(gradient(checkpointed), gradient(lambda work: work))


@BOTH
def test_a_second_derivative_is_refused_not_wrong(implementation):
    problem = make_problem().to(torch.float32)
    hidden = problem.hidden.clone().requires_grad_()
    out = token_logprob(hidden, problem.weight, problem.targets, implementation=implementation)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(out.logprob.sum() + hidden.square().sum(), hidden, create_graph=True)


@BOTH
@pytest.mark.parametrize("logit_bytes", [0, None])
def test_second_backward_over_the_same_graph(implementation, logit_bytes):
    """Gradients written over the kept logits would make the second one wrong."""
    problem = make_problem().to(torch.float32)
    hidden = problem.hidden.clone().requires_grad_()
    out = token_logprob(
        hidden, problem.weight, problem.targets, implementation=implementation, logit_bytes=logit_bytes
    )
    first, second = (
        torch.autograd.grad((out.logprob * problem.d_logprob).sum(), hidden, retain_graph=True)[0]
        for _ in range(2)
    )
    assert torch.equal(first, second)


@BOTH
def test_inputs_are_not_changed(implementation):
    """In-place work on the inputs, as under a careless autotuner."""
    problem = make_problem(bias=True, lora=True, entropy=True, softcap=4.0).to(torch.float32)
    before = {name: leaf.clone() for name, leaf in problem.leaves().items()}
    upstream = problem.d_logprob.clone()
    solve(problem, implementation)
    solve(problem, implementation, 0)
    assert all(torch.equal(before[name], leaf) for name, leaf in problem.leaves().items())
    assert torch.equal(upstream, problem.d_logprob)


@BOTH
@pytest.mark.filterwarnings(
    "ignore:All-NaN slice:RuntimeWarning"
)  # the interpreter's maximum, on its way to NaN
def test_nan_is_not_swallowed(implementation):
    problem = make_problem(ignored=False).to(torch.float32)
    problem.hidden[4, 3] = torch.nan
    found = solve(problem, implementation)
    assert found["logprob"][4].isnan()
    assert found["logprob"].isnan().sum() == 1


@BOTH
def test_nan_upstream_is_not_taken_for_zero(implementation):
    problem = make_problem(ignored=False).to(torch.float32)
    problem.d_logprob.zero_()
    problem.d_logprob[2] = torch.nan
    assert solve(problem, implementation)["d hidden"][2].isnan().all()


def test_head_near_certainty_keeps_its_gradient_in_bf16():
    """1 - p loses everything near p = 1 if p is rounded to bf16 first."""
    hidden = torch.full((1, 8), 1.0, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.zeros(2, 8, dtype=torch.bfloat16)
    weight[0] = 0.875
    out = token_logprob(hidden, weight, torch.tensor([0]), implementation="slabs")
    out.logprob.sum().backward()
    expected = (1 - torch.sigmoid(torch.tensor(7.0))) * 0.875
    assert hidden.grad[0, 0].item() == pytest.approx(expected.item(), rel=0.02)


def test_non_contiguous_inputs():
    problem = make_problem().to(torch.float32)
    hidden = problem.hidden.T.contiguous().T.requires_grad_()
    weight = problem.weight.T.contiguous().T.requires_grad_()
    for implementation in ("slabs", "fused"):
        out = token_logprob(hidden, weight, problem.targets, implementation=implementation)
        found = torch.autograd.grad((out.logprob * problem.d_logprob).sum(), (hidden, weight))
        expected = solve(problem, "reference")
        torch.testing.assert_close(found[0], expected["d hidden"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[1], expected["d weight"], rtol=1e-4, atol=1e-5)


def test_master_weights_in_fp32_under_autocast():
    """bf16 hidden states and an fp32 weight: the gradient of the weight is fp32 and autocast changes nothing."""
    problem = make_problem(bias=True).to(torch.float32)
    hidden = problem.hidden.bfloat16().requires_grad_()
    weight = problem.weight.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = token_logprob(hidden, weight, problem.targets, bias=problem.bias)
    (out.logprob * problem.d_logprob).sum().backward()
    assert out.logprob.dtype == torch.float32
    assert weight.grad.dtype == torch.float32
    expected = solve(problem.to(torch.float32), "reference")
    torch.testing.assert_close(weight.grad, expected["d weight"], rtol=0, atol=0.05)


def test_configurations_are_explicit():
    """No autotuner: what is measured, compiled and tested is the same configuration."""
    from kernels.token_logprob.cases import FOOTPRINT_CASES

    for kernel in {case.fn for case in FOOTPRINT_CASES}:
        assert not hasattr(kernel, "configs")
    assert {case.name for case in FOOTPRINT_CASES} >= {
        "forward/plain/bf16/128x128x32s3w8",
        "gradient/full/bf16/128x128x32s3w8",
    }


def test_products_stay_out_of_fp32_where_the_machine_has_better():
    assert product_dtype(torch.bfloat16, "cuda") == torch.bfloat16
    assert product_dtype(torch.float32, "cpu") == torch.float32
