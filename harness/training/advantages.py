"""Group-relative advantages (DeepSeekMath, arXiv 2402.03300, section 4.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.spec.recipe import AdvantageSpec


def group_advantages(rewards: Tensor, spec: AdvantageSpec) -> Tensor:
    """(r − mean of the group) / (standard deviation + ε), with n − 1 in the deviation.

    Args:
        rewards: [P, G], a row per prompt, a column per completion.
        spec: `scale` by `group`, by `batch` (the deviation of all P·G rewards), or `none`
            (Dr. GRPO, arXiv 2503.20783).

    Returns:
        [P, G] in the rewards' dtype; exactly zero in groups whose rewards are all equal.
    """
    if not len(rewards):  # no group is trained on; `std` of an empty tensor warns
        return rewards
    centred = rewards - rewards.mean(1, keepdim=True)
    # The floating-point mean of equal rewards may differ from them in the last bit; the advantage must be 0.
    centred = torch.where(zero_spread(rewards)[:, None], torch.zeros_like(centred), centred)
    if spec.scale == "none":
        return centred
    deviation = rewards.std(1, keepdim=True) if spec.scale == "group" else rewards.std()
    return centred / (deviation + spec.epsilon)


def zero_spread(rewards: Tensor) -> Tensor:
    """bool [P]: whether all rewards of a group are equal; `rewards` is [P, G]."""
    return (rewards == rewards[:, :1]).all(1)
