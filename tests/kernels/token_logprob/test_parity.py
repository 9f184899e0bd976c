"""Values and gradients of every implementation against fp64, features crossed."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.kernels.token_logprob.problems import (  # noqa: F401
    assert_as_good_as_reference,
    make_problem,
    small_tiles,
)

FEATURES = [
    dict(zip(("bias", "temperature", "softcap", "padded", "lora", "entropy"), values))
    for values in itertools.product(
        (False, True), (1.0, 0.7), (None, 4.0), (False, True), (False, True), (False, True)
    )
]
# Nothing, two slabs of a 19-token problem, and everything.
LOGIT_BYTES = (0, 2 * 19 * 20 * 4, None)
pytestmark = pytest.mark.usefixtures("small_tiles")


@pytest.mark.parametrize("logit_bytes", LOGIT_BYTES)
def test_slabs_over_all_features(logit_bytes):
    for features in FEATURES:
        assert_as_good_as_reference(make_problem(**features), "slabs", torch.float32, logit_bytes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_slabs_over_all_features_and_dtypes(dtype):
    for number, features in enumerate(FEATURES):
        problem = make_problem(**features)
        assert_as_good_as_reference(problem, "slabs", dtype, LOGIT_BYTES[number % len(LOGIT_BYTES)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_fused_over_all_features(dtype):
    for number, features in enumerate(FEATURES):
        problem = make_problem(**features)
        assert_as_good_as_reference(problem, "fused", dtype, LOGIT_BYTES[number % len(LOGIT_BYTES)])


@pytest.mark.parametrize("implementation", ["slabs", "fused"])
@pytest.mark.parametrize(
    ("tokens", "hidden", "vocab"),
    [
        (0, 8, 16),  # a batch that was filtered away
        (1, 1, 1),  # a distribution with one outcome: log-prob 0, no gradient
        (1, 33, 40),  # one row, odd hidden
        (8, 20, 20),  # exactly one tile
        (9, 16, 21),  # one more in both directions
        (40, 24, 130),  # several of everything
    ],
)
def test_odd_shapes(implementation, tokens, hidden, vocab):
    for entropy in (False, True):
        problem = make_problem(tokens, hidden, vocab, bias=True, entropy=entropy)
        assert_as_good_as_reference(problem, implementation, torch.float32, 0)
        assert_as_good_as_reference(problem, implementation, torch.float32)


@pytest.mark.parametrize("implementation", ["slabs", "fused"])
def test_everything_ignored(implementation):
    problem = make_problem(7, bias=True, entropy=True)
    problem.targets.fill_(-100)
    assert_as_good_as_reference(problem, implementation, torch.float32)


def test_gradcheck_in_fp64():
    from kernels.token_logprob import token_logprob

    problem = make_problem(5, 4, 9, ignored=False)
    leaves = tuple(leaf.requires_grad_() for leaf in (problem.hidden, problem.weight))

    def outputs(hidden, weight):
        out = token_logprob(
            hidden, weight, problem.targets, temperature=0.8, softcap=3.0, return_entropy=True
        )
        return out.logprob, out.entropy

    assert torch.autograd.gradcheck(outputs, leaves)
