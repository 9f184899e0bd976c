"""On a CUDA device: the compiled kernel's values, gradients and speed."""

from __future__ import annotations

import pytest
import torch

from kernels.grpo_loss import Objective, grpo_loss
from tests.kernels.grpo_loss.batches import IMPORTANCE, LOSSES, make_batch, poison
from tests.kernels.grpo_loss.truth import truth

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

pytestmark = pytest.mark.gpu


def on_device(batch, dtype):
    return type(batch)(*(v.cuda() for v in poison(batch).to(dtype)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("importance", IMPORTANCE)
@pytest.mark.parametrize("kl", [{}, {"beta": 0.3, "kl": "k3", "kl_ratio": True}, {"beta": 0.3, "kl": "abs"}])
@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_gradient_match_fp64(loss, kl, importance, dtype):
    # bf16 rounds the inputs too, so the truth starts from what the kernel is given.
    batch = make_batch().to(dtype).to(torch.float64)
    objective = Objective(loss=loss, max_length=9, importance=importance, importance_cap=1.4, **kl)
    leaf = batch.logprob.clone().requires_grad_()
    true = truth(objective, leaf, batch.advantages, batch.mask, batch.old, batch.reference, batch.rollout)
    (true_grad,) = torch.autograd.grad(true, leaf)
    given = on_device(batch, dtype)
    found = given.logprob.requires_grad_()
    out = grpo_loss(found, given.advantages, given.mask, objective=objective, **given.arguments())
    (grad,) = torch.autograd.grad(out.loss, found)
    scale = true_grad.abs().max()
    unit = max(float(torch.finfo(dtype).eps), 1e-6)
    assert (grad.cpu().double() - true_grad).abs().max() <= 4 * unit * scale
    assert abs(out.loss.item() - true.item()) <= 1e-5 * true_grad.abs().sum()


def random_batch(rows, positions):
    g = torch.Generator("cuda").manual_seed(0)
    logprob = -torch.rand(rows, positions, generator=g, device="cuda")
    old = logprob + 0.2 * torch.randn(rows, positions, generator=g, device="cuda")
    lengths = torch.randint(1, positions + 1, (rows, 1), generator=g, device="cuda")
    mask = torch.arange(positions, device="cuda") < lengths
    return logprob, torch.randn(rows, generator=g, device="cuda"), mask, old


def gradient(objective, implementation, logprob, advantages, mask, old):
    leaf = logprob.detach().requires_grad_()
    out = grpo_loss(
        leaf,
        advantages,
        mask,
        objective=objective,
        old_logprob=old,
        reference_logprob=old,
        implementation=implementation,
    )
    out.loss.backward()
    return leaf.grad


@pytest.mark.parametrize("shape", [(1, 70_000), (72, 3584), (70_000, 8), (3, 1025)])
@pytest.mark.parametrize("loss", ["dapo", "gspo", "vespo"])
def test_real_launch_grids_match_torch_and_never_vary(loss, shape):
    """More than 65,535 positions, and more than 65,535 sequences."""
    objective = Objective(loss=loss, beta=0.1)
    batch = random_batch(*shape)
    fused = gradient(objective, "fused", *batch)
    expected = gradient(objective, "torch", *batch)
    torch.testing.assert_close(fused, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    for _ in range(3):
        assert torch.equal(gradient(objective, "fused", *batch), fused)


def milliseconds(run):
    for _ in range(10):
        run()
    times = []
    for _ in range(50):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop))
    return sorted(times)[len(times) // 2]


def test_fused_is_faster_than_torch_forward_and_backward():
    batch = random_batch(72, 3584)
    objective = Objective(loss="gspo", beta=0.04)
    fused, plain = (milliseconds(lambda i=i: gradient(objective, i, *batch)) for i in ("fused", "torch"))
    assert fused < plain, f"fused {fused:.3f} ms, torch {plain:.3f} ms"
