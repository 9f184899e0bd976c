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
    if not len(rewards):  # no group had spread; a deviation of nothing warns
        return rewards
    centred = rewards - rewards.mean(1, keepdim=True)
    # The mean of equal numbers may differ from them in the last bit; their advantage is zero.
    centred = torch.where(zero_spread(rewards)[:, None], torch.zeros_like(centred), centred)
    if spec.scale == "none":
        return centred
    deviation = rewards.std(1, keepdim=True) if spec.scale == "group" else rewards.std()
    return centred / (deviation + spec.epsilon)


def zero_spread(rewards: Tensor) -> Tensor:
    """bool [P]: groups whose rewards [P, G] are all equal, which teach nothing."""
    return (rewards == rewards[:, :1]).all(1)
