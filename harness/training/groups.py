"""The groups of completions of one training step, sampled in one round or, under dynamic sampling, in several.

A group is the G completions of one prompt. Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2) replaces groups
whose rewards are all equal. Shapes: P prompts, G completions of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from harness.data.problem import Problem
from harness.rewards.composite import Scores
from harness.rewards.types import RewardInput
from harness.rollout.engine import Completion
from harness.spec.recipe import RolloutSpec
from harness.store.records import DrawingFigures
from harness.training.advantages import zero_spread


class SampledGroups:
    """All groups that a step has sampled, their scores, and which of them it trains on.

    Args:
        group: completions of a prompt, G.

    Attributes:
        chosen: index of the training problem of each of the P groups.
        completions: P·G completions, group by group.
        texts: the completions as text.
        kept: indices of the groups to train on.
        rounds: number of sampling rounds.
        resample_seconds: seconds of the rounds after the first.
    """

    def __init__(self, group: int) -> None:
        self._group = group
        self.chosen: list[int] = []
        self.completions: list[Completion] = []
        self.texts: list[str] = []
        self._scores: Scores | None = None
        self.kept: list[int] = []
        self.rounds = 0
        self.resample_seconds = 0.0

    def needs_another_round(self, rollout: RolloutSpec) -> bool:
        """True before the first round; then, under `zero_spread: resample`, until enough groups are kept.

        At most `max_resamples` rounds follow the first.
        """
        if self.rounds == 0:
            return True
        short = len(self.kept) < rollout.prompts_per_step
        return rollout.zero_spread == "resample" and short and self.rounds <= rollout.max_resamples

    def add(
        self,
        chosen: Sequence[int],
        completions: Sequence[Completion],
        texts: Sequence[str],
        scores: Scores,
        rollout: RolloutSpec,
    ) -> None:
        """Adds the groups of one round.

        Args:
            chosen: index of the problem of each group.
            completions: G for each of them, in the same order.
            texts: the completions as text.
            scores: of the completions.
            rollout: `zero_spread` decides which groups are kept.
        """
        flat = rewards_of(scores, self._group)
        useful = [True] * len(chosen) if rollout.zero_spread == "keep" else (~zero_spread(flat)).tolist()
        self.kept += [len(self.chosen) + i for i, keep in enumerate(useful) if keep]
        self.chosen += chosen
        self.completions += completions
        self.texts += texts
        self._scores = scores if self._scores is None else concatenated(self._scores, scores)
        self.rounds += 1

    @property
    def scores(self) -> Scores:
        """Scores of all completions; needs at least one round."""
        assert self._scores is not None
        return self._scores

    def rewards(self) -> Tensor:
        """Total rewards, fp64 [P, G]."""
        return rewards_of(self.scores, self._group)

    def figures(self, zero_spread: str) -> DrawingFigures | None:
        """What was sampled and not trained on, for the step's record; None where `zero_spread` is `keep`."""
        if zero_spread == "keep":
            return None
        left = [i for i in range(len(self.chosen)) if i not in set(self.kept)]
        rows = [row for i in left for row in range(i * self._group, (i + 1) * self._group)]
        return DrawingFigures(
            rounds=self.rounds,
            groups_drawn=len(self.chosen),
            groups_kept=len(self.kept),
            left_out_tokens=sum(len(self.completions[row].token_ids) for row in rows),
        )


def reward_inputs(
    problems: Sequence[Problem],
    completions: Sequence[Completion],
    texts: Sequence[str],
    *,
    cap: int,
    opened: Sequence[str],
) -> list[RewardInput]:
    """What the reward functions see of P·G completions.

    Args:
        problems: the problem of each of P groups.
        completions: G for each problem, group by group.
        texts: the completions as text.
        cap: the length cap that they were sampled with, in tokens.
        opened: what the prompt of each problem opened of the completion (see `PromptEncoder.opened`).
    """
    size = len(completions) // max(1, len(problems))
    return [
        RewardInput(
            text=text,
            answer=problems[row // size].answer,
            tokens=len(completion.token_ids),
            cap=cap,
            truncated=completion.truncated,
            question=problems[row // size].question,
            group=row // size,
            columns=problems[row // size].columns,
            opened=opened[row // size],
        )
        for row, (text, completion) in enumerate(zip(texts, completions))
    ]


def rewards_of(scores: Scores, group: int) -> Tensor:
    """Total rewards, fp64 [P, G]."""
    return torch.tensor(scores.total, dtype=torch.float64).view(-1, group)


def concatenated(first: Scores, second: Scores) -> Scores:
    """The scores of two batches as those of one."""
    values: dict[str, Any] = {}
    for field in fields(Scores):
        a, b = getattr(first, field.name), getattr(second, field.name)
        values[field.name] = {k: [*a[k], *b[k]] for k in a} if isinstance(a, dict) else [*a, *b]
    return Scores(**values)
