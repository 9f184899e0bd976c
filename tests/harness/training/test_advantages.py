import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.spec.recipe import AdvantageSpec
from harness.training.advantages import group_advantages, zero_spread

REWARDS = torch.tensor(
    [[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0], [3.0, 1.0, 0.0, 0.0]], dtype=torch.float64
)


def test_group_scale_by_hand():
    # Group 1: mean 0.5, deviation sqrt(4·0.25/3) = 0.57735; group 3: mean 1, deviation sqrt((4+0+1+1)/3) = √2.
    truth = torch.tensor(
        [
            [0.5 / 0.5774502692, -0.5 / 0.5774502692, -0.5 / 0.5774502692, 0.5 / 0.5774502692],
            [0.0, 0.0, 0.0, 0.0],
            [2 / 1.4143135624, 0.0, -1 / 1.4143135624, -1 / 1.4143135624],
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(group_advantages(REWARDS, AdvantageSpec()), truth, rtol=1e-9, atol=1e-9)


def test_no_scale_by_hand():
    truth = torch.tensor([[0.5, -0.5, -0.5, 0.5], [0, 0, 0, 0], [2, 0, -1, -1]], dtype=torch.float64)
    torch.testing.assert_close(group_advantages(REWARDS, AdvantageSpec(scale="none")), truth)


def test_batch_scale_by_hand():
    # All twelve rewards: mean 14/12, squares sum 28, variance (28 − 14²/12)/11.
    deviation = ((28 - 14**2 / 12) / 11) ** 0.5
    truth = torch.tensor([[0.5, -0.5, -0.5, 0.5], [0, 0, 0, 0], [2, 0, -1, -1]], dtype=torch.float64)
    computed = group_advantages(REWARDS, AdvantageSpec(scale="batch"))
    torch.testing.assert_close(computed, truth / (deviation + 1e-4))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.7 + 0.2, 1e-9])
def test_equal_rewards_give_exactly_zero(scale, value):
    # The mean of three equal floats need not be that float.
    rewards = torch.full((2, 3), value)
    rewards[1, 0] += 1
    advantages = group_advantages(rewards, AdvantageSpec(scale=scale))
    assert (advantages[0] == 0).all()
    assert advantages[1].abs().min() > 0
    assert zero_spread(rewards).tolist() == [True, False]


@given(
    st.lists(st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4), min_size=1, max_size=6),
    st.floats(-3, 3),
)
def test_shifting_a_groups_rewards_changes_nothing_and_advantages_sum_to_zero(rows, shift):
    rewards = torch.tensor(rows, dtype=torch.float64)
    advantages = group_advantages(rewards, AdvantageSpec(scale="none"))
    shifted = group_advantages(rewards + shift, AdvantageSpec(scale="none"))
    torch.testing.assert_close(advantages, shifted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        advantages.sum(1), torch.zeros(len(rows), dtype=torch.float64), atol=1e-9, rtol=0
    )
