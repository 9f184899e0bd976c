"""The head under pytest-benchmark: `make bench`. Not collected by a plain `pytest`."""

from __future__ import annotations

import pytest
import torch

from kernels.benchmarks.batches import make_batch
from kernels.benchmarks.variants import available, loss_of
from kernels.token_logprob.shapes import head_shape


@pytest.mark.parametrize("batch", ["dense", "half-masked"])
@pytest.mark.parametrize("variant", ["slabs-keep", "slabs-lean", "torch", "checkpoint", "trl", "lce"])
def test_full_pass(benchmark, variant, batch):
    if not available(variant, "cpu"):
        pytest.skip(f"{variant} is not installed")
    problem = make_batch(head_shape("small@512"), batch, torch.float32, "cpu")
    leaves = (problem.hidden.requires_grad_(), problem.weight.requires_grad_())
    loss = loss_of(variant, problem)
    benchmark.group = f"small@512 {batch}"
    benchmark(lambda: torch.autograd.grad(loss(problem), leaves))
