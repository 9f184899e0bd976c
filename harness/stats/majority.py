"""Majority voting over samples whose answers are grouped by equality."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

NO_ANSWER = -1
"""Class of a sample without a readable answer: it has no vote."""


def majority_at_k(classes: npt.ArrayLike, correct: npt.ArrayLike, k: int) -> npt.NDArray[np.float64]:
    """Whether the most frequent of k answers is right, per question, as a mean over disjoint blocks of k samples.

    Of several answers with as many votes the first to appear wins: samples are exchangeable, so that is a draw by
    lot which needs no random number. A block without any answer is wrong. The K mod k last samples are not used
    (self-consistency, Wang et al. 2022, arXiv 2203.11171; blocks keep the estimate unbiased).

    Args:
        classes: int [Q, K]: equal numbers for equal answers of a question, −1 for none.
        correct: bool [Q, K]: whether the sample is right; the same for a whole class.
        k: votes, 1 ≤ k ≤ K.

    Returns:
        Fractions [Q].

    Raises:
        ValueError: the shapes differ, or k is out of range.
    """
    groups, right = np.asarray(classes, dtype=np.int64), np.asarray(correct, dtype=bool)
    if groups.ndim != 2 or groups.shape != right.shape:
        raise ValueError(f"`classes` and `correct` must be [Q, K] both, got {groups.shape} and {right.shape}")
    questions, samples = groups.shape
    if not 1 <= k <= samples:
        raise ValueError(f"`k` must be between 1 and the number of samples ({samples}), got {k}")
    blocks = samples // k
    groups = groups[:, : blocks * k].reshape(questions, blocks, k)
    right = right[:, : blocks * k].reshape(questions, blocks, k)
    votes = (groups[..., :, None] == groups[..., None, :]).sum(-1)
    votes[groups == NO_ANSWER] = 0
    # argmax takes the first of equals: the class whose first member appears first.
    winner = votes.argmax(-1)[..., None]
    won = np.take_along_axis(right, winner, -1)[..., 0] & (np.take_along_axis(votes, winner, -1)[..., 0] > 0)
    return np.asarray(won.mean(axis=1))
