"""The stateless order of training problems."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.order import epoch_of, step_problems


@given(st.integers(1, 50), st.integers(0, 10), st.integers(1, 70))
def test_every_problem_once_an_epoch(count, seed, per_step):
    steps = -(-3 * count // per_step)
    drawn = [
        index
        for step in range(steps)
        for index in step_problems(count, seed=seed, step=step, prompts_per_step=per_step)
    ]
    assert len(drawn) == steps * per_step
    for epoch in range(3):
        assert sorted(drawn[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_and_seeds_differ():
    orders = [
        tuple(step_problems(100, seed=seed, step=step, prompts_per_step=100))
        for seed in (0, 1)
        for step in (0, 1)
    ]
    assert len(set(orders)) == 4


def test_the_order_is_the_same_in_every_process():
    code = (
        "from harness.data.order import step_problems as s; print(s(9, seed=3, step=1, prompts_per_step=9))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, env={"PYTHONHASHSEED": hash_seed}
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert outputs == {f"{step_problems(9, seed=3, step=1, prompts_per_step=9)}\n".encode()}


def test_epoch_of():
    assert epoch_of(64, step=3, prompts_per_step=32) == 1.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "`count` must be >= 1, got 0"),
        ({"step": -1}, "`step` must be >= 0, got -1"),
        ({"prompts_per_step": 0}, "`prompts_per_step` must be >= 1, got 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    arguments = {"count": 4, "step": 0, "prompts_per_step": 2} | arguments
    count = arguments.pop("count")
    with pytest.raises(ValueError, match=message):
        step_problems(count, seed=0, **arguments)
    with pytest.raises(ValueError, match=message):
        epoch_of(count, **arguments)
