"""Rewards for how a completion is laid out."""

from __future__ import annotations

from collections.abc import Sequence

from harness.rewards.boxed import final_answer
from harness.rewards.registry import reward
from harness.rewards.types import RewardContext, RewardInput


@reward("boxed")
def boxed(batch: Sequence[RewardInput], context: RewardContext) -> list[float]:
    """1 for a completion with a closed `\\boxed{…}` after its thought, else 0."""
    return [float(final_answer(item.text) is not None) for item in batch]


@reward("format", wants_thought=True)
def format_think(batch: Sequence[RewardInput], context: RewardContext) -> list[float]:
    """1 for exactly one end of thought on a line of its own, else 0 (Open-RS, arXiv 2503.16219).

    The opening `<think>` is part of the prompt in the chat templates of reasoning models, hence not asked for.
    """
    return [float(item.text.count("\n</think>\n") == 1) for item in batch]


@reward("format_strict", reads_opened=True, wants_thought=True)
def format_strict(batch: Sequence[RewardInput], context: RewardContext) -> list[float]:
    """1 for a match of `^<think>\\n.*?\\n</think>\\n<answer>\\n.*?\\n</answer>$`, else 0 (open-r1).

    As there, `.` matches newlines and `$` the end of any line, so text may follow on further lines. Decided in
    linear time, which the expression itself is not. A `<think>` that the prompt opened counts as the completion's:
    no completion could earn anything otherwise.
    """
    return [float(_strictly_formatted(item.opened + item.text)) for item in batch]


def _strictly_formatted(text: str) -> bool:
    opening, middle, closing = "<think>\n", "\n</think>\n<answer>\n", "\n</answer>"
    if not text.startswith(opening):
        return False
    turn = text.find(middle, len(opening))
    if turn < 0:
        return False
    answer = turn + len(middle)
    return text.find(closing + "\n", answer) >= 0 or (
        text.endswith(closing) and len(text) - len(closing) >= answer
    )


@reward("tag_count", reads_opened=True, wants_thought=True)
def tag_count(batch: Sequence[RewardInput], context: RewardContext) -> list[float]:
    """A quarter for each tag that occurs exactly once in its place (open-r1), one that the prompt opened included."""
    tags = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")
    return [sum(0.25 for tag in tags if (item.opened + item.text).count(tag) == 1) for item in batch]
