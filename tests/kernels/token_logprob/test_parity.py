"""Values and gradients of every implementation against fp64, features crossed."""

from __future__ import annotations

import itertools

import pytest
import torch

from kernels.token_logprob import token_logprob
from tests.kernels.token_logprob.problems import assert_as_good_as_reference, make_problem

VALUES = {
    "bias": (False, True),
    "temperature": (1.0, 0.7),
    "softcap": (None, 4.0),
    "padded": (False, True),
    "lora": (False, True),
    "entropy": (False, True),
}
# Nothing, two slabs of a 19-token problem, and everything.
LOGIT_BYTES = (0, 2 * 19 * 20 * 4, None)
HALVES = (torch.float16, torch.bfloat16)
pytestmark = pytest.mark.usefixtures("small_tiles")


def problems(*dtypes, all_budgets=False, slow_halves=False):
    """Every combination of features in each dtype; the budgets of kept logits take turns unless all are asked for.

    With `slow_halves`, 16-bit dtypes run by default on a quarter of the combinations, in which every three features
    meet in all eight ways: such a dtype changes how single operands are loaded and stored.
    """
    for number, on in enumerate(itertools.product((0, 1), repeat=len(VALUES))):
        features = {name: values[i] for (name, values), i in zip(VALUES.items(), on, strict=True)}
        first, second, third, fourth, fifth, sixth = on
        covering = fifth == first ^ second ^ third and sixth == second ^ third ^ fourth
        words = [name for name, i in zip(VALUES, on, strict=True) if i]
        budgets = LOGIT_BYTES if all_budgets else [LOGIT_BYTES[number % len(LOGIT_BYTES)]]
        for dtype, logit_bytes in itertools.product(dtypes, budgets):
            yield pytest.param(
                features,
                dtype,
                logit_bytes,
                id="-".join([str(dtype).removeprefix("torch."), *words, f"keep_{logit_bytes}"]),
                marks=pytest.mark.slow if slow_halves and dtype in HALVES and not covering else (),
            )


@pytest.mark.parametrize(
    ("features", "dtype", "logit_bytes"),
    [*problems(torch.float32, all_budgets=True), *problems(torch.float64, *HALVES)],
)
def test_slabs_over_all_features(features, dtype, logit_bytes):
    assert_as_good_as_reference(make_problem(**features), "slabs", dtype, logit_bytes)


@pytest.mark.parametrize(
    ("features", "dtype", "logit_bytes"), [*problems(torch.float32, torch.float16, slow_halves=True)]
)
def test_fused_over_all_features(features, dtype, logit_bytes):
    assert_as_good_as_reference(make_problem(**features), "fused", dtype, logit_bytes)


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
@pytest.mark.parametrize("logit_bytes", [0, None])
@pytest.mark.parametrize("entropy", [False, True])
def test_odd_shapes(implementation, tokens, hidden, vocab, entropy, logit_bytes):
    problem = make_problem(tokens, hidden, vocab, bias=True, entropy=entropy)
    assert_as_good_as_reference(problem, implementation, torch.float32, logit_bytes)


@pytest.mark.parametrize("implementation", ["slabs", "fused"])
def test_everything_ignored(implementation):
    problem = make_problem(7, bias=True, entropy=True)
    problem.targets.fill_(-100)
    assert_as_good_as_reference(problem, implementation, torch.float32)


def test_gradcheck_in_fp64():
    problem = make_problem(5, 4, 9, ignored=False)
    leaves = tuple(leaf.requires_grad_() for leaf in (problem.hidden, problem.weight))

    def outputs(hidden, weight):
        out = token_logprob(
            hidden, weight, problem.targets, temperature=0.8, softcap=3.0, return_entropy=True
        )
        return out.logprob, out.entropy

    assert torch.autograd.gradcheck(outputs, leaves)
