"""On a CUDA device: the compiled kernels' values and gradients, in every dtype and at real tile sizes."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.token_logprob.problems import OWN_TOLERANCE, make_problem, solve, truth

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


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
@pytest.mark.parametrize("implementation", ["slabs", "fused"])
def test_values_and_gradients(implementation, features, logit_bytes, dtype):
    for shape in ((19, 20, 61), (300, 136, 9001)):
        problem = on_device(make_problem(*shape, entropy=True, **features).to(dtype))
        exact, reference = truth(problem), solve(problem, "reference")
        found = solve(problem, implementation, logit_bytes)
        for name, value in exact.items():
            own = (reference[name].double() - value).abs().max()
            limit = own + OWN_TOLERANCE[dtype] * value.abs().max()
            assert (found[name].double() - value).abs().max() <= limit, name


def test_same_inputs_give_the_same_bits():
    problem = on_device(make_problem(300, 128, 9001, entropy=True).to(torch.bfloat16))
    first, second = solve(problem, "fused"), solve(problem, "fused")
    assert all(torch.equal(first[name], second[name]) for name in first)
