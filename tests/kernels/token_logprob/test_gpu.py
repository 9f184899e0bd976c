"""On a CUDA device: the compiled kernels' values and gradients, in every dtype and at real tile sizes."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.token_logprob.problems import assert_as_good_as_reference, make_problem, solve

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

pytestmark = pytest.mark.gpu


def on_device(problem):
    moved = {
        name: value.cuda() if isinstance(value, torch.Tensor) else value
        for name, value in vars(problem).items()
    }
    if problem.lora is not None:
        moved["lora"] = type(problem.lora)(problem.lora.a.cuda(), problem.lora.b.cuda(), problem.lora.scale)
    return type(problem)(**moved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("logit_bytes", [0, None])
@pytest.mark.parametrize(
    "features", [{}, {"bias": True, "softcap": 5.0, "padded": True, "lora": True, "temperature": 0.7}]
)
@pytest.mark.parametrize("shape", [(19, 20, 61), (300, 136, 9001)])
@pytest.mark.parametrize("implementation", ["slabs", "fused"])
def test_values_and_gradients(implementation, shape, features, logit_bytes, dtype):
    problem = on_device(make_problem(*shape, entropy=True, **features).to(dtype))
    assert_as_good_as_reference(problem, implementation, dtype, logit_bytes)


def test_same_inputs_give_the_same_bits():
    problem = on_device(make_problem(300, 128, 9001, entropy=True).to(torch.bfloat16))
    first, second = solve(problem, "fused"), solve(problem, "fused")
    assert all(torch.equal(first[name], second[name]) for name in first)
