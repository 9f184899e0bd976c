import math

import pytest
import torch

from harness.spec.recipe import OptimizerSpec
from harness.training.optimizer import build_optimizer, learning_rate


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
