"""Properties that hold for every problem."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.token_logprob import Lora, gradients, token_logprob
from tests.kernels.token_logprob.problems import make_problem, solve

pytestmark = pytest.mark.usefixtures("small_tiles")
FAST = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
FEW = settings(FAST, max_examples=6)
PROBLEMS = st.builds(
    make_problem,
    tokens=st.integers(1, 24),
    hidden=st.integers(1, 24),
    vocab=st.integers(9, 70),
    bias=st.just(True),
    temperature=st.sampled_from([1.0, 0.6]),
    padded=st.booleans(),
    lora=st.booleans(),
    entropy=st.booleans(),
    seed=st.integers(0, 999),
)


def close(found, expected):
    for name in expected:
        scale = float(expected[name].abs().max()) if expected[name].numel() else 0.0
        torch.testing.assert_close(
            found[name],
            expected[name],
            rtol=0,
            atol=2e-5 * max(scale, 1.0),
            msg=lambda m, n=name: f"{n}: {m}",
        )


def check_shift(problem, shift, implementation):
    problem = problem.to(torch.float32)
    expected = solve(problem, implementation)
    problem.bias.add_(shift)
    found = solve(problem, implementation)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=2e-4 * (1 + abs(shift) / 10))


@FAST
@given(PROBLEMS, st.floats(-50, 50))
def test_a_constant_added_to_all_logits_changes_nothing(problem, shift):
    check_shift(problem, shift, "slabs")


@FEW
@given(PROBLEMS, st.floats(-50, 50))
def test_a_constant_added_to_all_logits_changes_nothing_fused(problem, shift):
    check_shift(problem, shift, "fused")


@FAST
@given(PROBLEMS, st.randoms(use_true_random=False))
def test_permuted_rows_give_permuted_results(problem, random):
    problem = problem.to(torch.float32)
    expected = solve(problem, "slabs")
    order = torch.tensor(random.sample(range(len(problem.targets)), len(problem.targets)))
    per_row = ("hidden", "targets", "d_logprob", "d_entropy")
    changed = {n: getattr(problem, n)[order] for n in per_row if getattr(problem, n) is not None}
    found = solve(type(problem)(**{**problem.__dict__, **changed}), "slabs")
    for name in ("logprob", "entropy", "d hidden"):
        if name in expected:
            expected[name] = expected[name][order]
    close(found, expected)


@FAST
@given(PROBLEMS, st.integers(0, 24))
def test_a_batch_split_in_two_adds_up(problem, cut):
    problem = problem.to(torch.float32)
    whole = solve(problem, "slabs")
    per_row = ("hidden", "targets", "d_logprob", "d_entropy")
    halves = []
    for part in (slice(0, cut), slice(cut, None)):
        changed = {n: getattr(problem, n)[part] for n in per_row if getattr(problem, n) is not None}
        halves.append(solve(type(problem)(**{**problem.__dict__, **changed}), "slabs"))
    joined = {
        name: torch.cat([half[name] for half in halves])
        if name in ("logprob", "entropy", "d hidden")
        else halves[0][name] + halves[1][name]
        for name in whole
    }
    close(joined, whole)


@pytest.mark.parametrize("implementation", ["slabs", "fused"])
@pytest.mark.parametrize("logit_bytes", [0, None])
def test_compaction_on_or_off_gives_identical_gradients(implementation, logit_bytes, monkeypatch):
    """Exact to the bit per row; sums over rows differ only by how the product groups them."""
    problems = [
        make_problem(bias=True, lora=True, entropy=True, seed=seed).to(torch.float32) for seed in range(3)
    ]
    compacted = [solve(problem, implementation, logit_bytes) for problem in problems]
    select = gradients.rows_with_gradient

    def all_rows(targets, valid, log_sum_exp, entropy, upstream, temperature):
        # A gradient too small to change any sum keeps every row in the backward pass.
        filled = tuple(None if g is None else g.where(g != 0, 1e-38) for g in upstream)
        return select(targets, valid, log_sum_exp, entropy, filled, temperature)

    monkeypatch.setattr("kernels.token_logprob.autograd.rows_with_gradient", all_rows)
    for problem, expected in zip(problems, compacted):
        found = solve(problem, implementation, logit_bytes)
        for name, value in expected.items():
            torch.testing.assert_close(
                found[name], value, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_rows_without_gradient_are_not_multiplied(monkeypatch):
    """What compaction is for: the backward products see the live rows alone."""
    problem = make_problem(40, ignored=False).to(torch.float32)
    problem.d_logprob.zero_()
    problem.d_logprob[[3, 17, 31]] = 1.0
    seen = []
    add_tile = gradients.Gradients.add_tile

    def spy(self, dz, *arguments):
        seen.append(dz.shape[0])
        return add_tile(self, dz, *arguments)

    monkeypatch.setattr(gradients.Gradients, "add_tile", spy)
    solve(problem, "slabs", 0)
    assert set(seen) == {3}


def test_no_upstream_gradient_at_all_costs_no_product(monkeypatch):
    problem = make_problem(ignored=False).to(torch.float32)
    problem.d_logprob.zero_()

    def never(*arguments):
        raise AssertionError("a product was computed for rows without gradient")

    monkeypatch.setattr(gradients.Gradients, "add_tile", never)
    found = solve(problem, "slabs")
    assert not found["d hidden"].any()
    assert not found["d weight"].any()


def test_same_inputs_give_the_same_bits():
    problem = make_problem(bias=True, entropy=True).to(torch.bfloat16)
    for implementation in ("slabs", "reference"):
        first, second = solve(problem, implementation), solve(problem, implementation)
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_log_probs_of_all_targets_sum_to_one():
    problem = make_problem(1, 16, 50, softcap=2.0, temperature=0.5).to(torch.float32)
    targets = torch.arange(50)
    out = token_logprob(problem.hidden.expand(50, -1), problem.weight, targets, softcap=2.0, temperature=0.5)
    assert out.logprob.exp().sum().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("implementation", ["slabs", "fused"])
@pytest.mark.parametrize("features", [{}, {"padded": True, "lora": True, "bias": True, "entropy": True}])
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.float16])
@pytest.mark.usefixtures("small_tiles")
def test_accumulating_in_place_adds_what_autograd_would(implementation, features, weight_dtype):
    """Two micro-batches, several tiles each: once through autograd, once into `weight.grad`."""
    found = []
    for in_place in (False, True):
        weight = make_problem(**features).weight.to(weight_dtype).requires_grad_()
        others = []
        for seed in (1, 2):
            problem = make_problem(**features, seed=seed).to(torch.float32)
            leaves = {
                name: leaf.detach().clone().requires_grad_()
                for name, leaf in problem.leaves().items()
                if name != "weight"
            }
            lora = problem.lora and Lora(leaves["lora.a"], leaves["lora.b"], problem.lora.scale)
            out = token_logprob(
                leaves["hidden"], weight, problem.targets, bias=leaves.get("bias"), lora=lora,
                vocab_size=problem.vocab_size, return_entropy=problem.d_entropy is not None,
                implementation=implementation, accumulate_in_place=in_place,
            )  # fmt: skip
            loss = (out.logprob * problem.d_logprob).sum()
            (loss if out.entropy is None else loss + (out.entropy * problem.d_entropy).sum()).backward()
            assert weight.grad.dtype == weight_dtype
            others += [leaf.grad for leaf in leaves.values()]
        found.append((weight.grad, others))
    (through, others), (into, same) = found
    assert all(torch.equal(a, b) for a, b in zip(others, same, strict=True))
    tolerance = 1e-6 if weight_dtype == torch.float32 else 2e-3
    torch.testing.assert_close(into, through, rtol=tolerance, atol=tolerance * float(through.abs().max()))


def test_accumulating_in_place_makes_no_tensor_of_the_weights_size():
    hidden, weight = torch.randn(8, 4, requires_grad=True), torch.randn(50, 4, requires_grad=True)
    weight.grad = torch.ones_like(weight)
    own, seen = weight.grad, []
    weight.register_hook(seen.append)
    token_logprob(hidden, weight, torch.arange(8), accumulate_in_place=True).logprob.sum().backward()
    assert weight.grad is own
    assert all(gradient is None for gradient in seen)
    assert not torch.equal(own, torch.ones_like(own))


def test_accumulating_in_place_leaves_a_gradient_alone_where_no_row_is_live():
    hidden, weight = torch.randn(8, 4, requires_grad=True), torch.randn(50, 4, requires_grad=True)
    weight.grad = torch.ones_like(weight)
    (token_logprob(hidden, weight, torch.arange(8), accumulate_in_place=True).logprob * 0).sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))


@pytest.mark.parametrize(
    ("weight", "implementation", "words"),
    [
        (torch.randn(50, 4), "slabs", "must be a leaf that requires a gradient"),
        (torch.randn(50, 4, requires_grad=True) * 2, "slabs", "must be a leaf that requires a gradient"),
        (torch.randn(50, 4, requires_grad=True), "reference", "not for `implementation` reference"),
    ],
)
def test_accumulating_in_place_needs_a_leaf_and_slabs(weight, implementation, words):
    with pytest.raises(ValueError, match=words):
        token_logprob(
            torch.randn(8, 4), weight, torch.arange(8),
            implementation=implementation, accumulate_in_place=True,
        )  # fmt: skip
