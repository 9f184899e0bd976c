"""The groups of a training step, drawn in one round or, under dynamic sampling, in several.

Shapes: P prompts, G completions of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from harness.rewards.composite import Scores
from harness.rollout.engine import Completion
from harness.spec.recipe import RolloutSpec
from harness.training.advantages import zero_spread


class Drawn:
    """Prompts, their completions and scores, and which groups are trained on.

    Args:
        group: completions of a prompt, G.

    Attributes:
        chosen: problem of each group.
        completions: G by G in the order of the groups.
        texts: the completions as text.
        kept: groups that are trained on.
        rounds: rounds drawn.
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

    def wants_more(self, rollout: RolloutSpec) -> bool:
        """Whether another round is due: the first, or one for groups without spread, within the bound."""
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
        """Takes in a round."""
        flat = rewards_of(scores, self._group)
        useful = [True] * len(chosen) if rollout.zero_spread == "keep" else (~zero_spread(flat)).tolist()
        self.kept += [len(self.chosen) + i for i, keep in enumerate(useful) if keep]
        self.chosen += chosen
        self.completions += completions
        self.texts += texts
        self._scores = scores if self._scores is None else joined(self._scores, scores)
        self.rounds += 1

    @property
    def scores(self) -> Scores:
        """Of all completions drawn."""
        assert self._scores is not None
        return self._scores

    def rewards(self) -> Tensor:
        """fp64 [P, G]."""
        return rewards_of(self.scores, self._group)

    def record(self, zero_spread: str) -> dict[str, Any]:
        """The part of the step's record that says what was drawn and left out; empty where all is kept."""
        if zero_spread == "keep":
            return {}
        left = [i for i in range(len(self.chosen)) if i not in set(self.kept)]
        rows = [row for i in left for row in range(i * self._group, (i + 1) * self._group)]
        return {
            "drawing": {
                "rounds": self.rounds,
                "groups_drawn": len(self.chosen),
                "groups_kept": len(self.kept),
                "left_out_tokens": sum(len(self.completions[row].token_ids) for row in rows),
            }
        }


def rewards_of(scores: Scores, group: int) -> Tensor:
    """Total rewards, fp64 [P, G]."""
    return torch.tensor(scores.total, dtype=torch.float64).view(-1, group)


def joined(first: Scores, second: Scores) -> Scores:
    """The scores of two rounds, one after the other."""
    values: dict[str, Any] = {}
    for field in fields(Scores):
        a, b = getattr(first, field.name), getattr(second, field.name)
        values[field.name] = {k: [*a[k], *b[k]] for k in a} if isinstance(a, dict) else [*a, *b]
    return Scores(**values)
