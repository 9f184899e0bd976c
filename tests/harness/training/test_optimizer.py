import math

import pytest
import torch

from harness.spec.errors import SpecError
from harness.spec.recipe import OptimizerSpec
from harness.spec.schedule import learning_rate
from harness.training.optimizer import build_optimizer


def _rates(steps=10, **fields):
    spec = OptimizerSpec(learning_rate=1.0, **fields)
    return [learning_rate(spec, step=s, steps=steps) for s in range(1, steps + 1)]


def test_constant_after_warmup():
    assert _rates(warmup_steps=4) == [0.25, 0.5, 0.75, 1.0, 1, 1, 1, 1, 1, 1]


def test_constant_does_not_look_ahead():
    assert _rates(steps=5) == _rates(steps=50)[:5]


def test_linear_reaches_its_floor_at_the_last_step():
    rates = _rates(schedule="linear", warmup_steps=2, min_learning_rate_ratio=0.2)
    assert rates[:2] == [0.5, 1.0]
    assert rates[-1] == pytest.approx(0.2)
    assert rates[5] == pytest.approx(0.2 + 0.8 * 0.5)


def test_cosine_by_hand():
    rates = _rates(schedule="cosine", min_learning_rate_ratio=0.1)
    assert rates[4] == pytest.approx(0.1 + 0.9 * 0.5)
    assert rates[-1] == pytest.approx(0.1)
    assert rates[2] == pytest.approx(0.1 + 0.9 * (1 + math.cos(0.3 * math.pi)) / 2)


def test_adamw_first_step_by_hand_and_only_matrices_decay():
    linear = torch.nn.Linear(1, 1)
    with torch.no_grad():
        linear.weight.fill_(2.0)
        linear.bias.fill_(3.0)
    optimizer = build_optimizer(linear, OptimizerSpec(learning_rate=0.1, weight_decay=0.5))
    linear.weight.grad = torch.full((1, 1), 4.0)
    linear.bias.grad = torch.full((1,), -4.0)
    optimizer.step()
    # The first Adam step moves by the learning rate against the sign; decay shrinks the matrix by lr·decay.
    assert linear.weight.item() == pytest.approx(2.0 * (1 - 0.05) - 0.1, abs=1e-6)
    assert linear.bias.item() == pytest.approx(3.0 + 0.1, abs=1e-6)


@pytest.mark.parametrize("steps", [10, 37])
@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("fraction", [0.0, 0.2, 1.0])
def test_wsd_by_its_closed_form(steps, warmup, fraction):
    rates = _rates(
        steps, schedule="wsd", warmup_steps=warmup, decay_fraction=fraction, min_learning_rate_ratio=0.1
    )
    start = max(warmup, steps - round(fraction * steps))
    for step, rate in enumerate(rates, 1):
        if step <= warmup:
            expected = step / warmup
        elif step <= start:
            expected = 1.0
        else:
            expected = 1.0 - 0.9 * (step - start) / (steps - start)
        assert rate == pytest.approx(expected), step


def test_wsd_before_its_fall_is_the_constant_schedule():
    assert _rates(20, schedule="wsd", warmup_steps=2)[:16] == _rates(20, warmup_steps=2)[:16]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd"])
def test_a_stated_length_goes_before_the_number_of_steps(schedule):
    longer = _rates(8, schedule=schedule, schedule_steps=20)
    assert longer == _rates(20, schedule=schedule)[:8]
    assert _rates(30, schedule=schedule, schedule_steps=20)[20:] == [pytest.approx(0.0)] * 10


@pytest.mark.skipif(torch.cuda.is_available(), reason="is told where there is no GPU")
def test_eight_bit_moments_without_a_gpu_are_told_in_words():
    with pytest.raises(SpecError, match="adamw_8bit needs a CUDA device"):
        build_optimizer(torch.nn.Linear(2, 2), OptimizerSpec(name="adamw_8bit"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_eight_bit_moments_follow_the_full_ones():
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    full = torch.nn.Linear(256, 256, device="cuda")
    small = torch.nn.Linear(256, 256, device="cuda")
    small.load_state_dict(full.state_dict())
    start = full.weight.detach().clone()
    optimizers = [
        build_optimizer(m, OptimizerSpec(name=n, learning_rate=1e-3))
        for m, n in ((full, "adamw"), (small, "adamw_8bit"))
    ]
    for _ in range(20):
        x = torch.randn(64, 256, device="cuda")
        for model, optimizer in zip((full, small), optimizers):
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    moved = (full.weight - start).norm()
    assert (small.weight - full.weight).norm() < 0.1 * moved
