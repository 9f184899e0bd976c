"""Factorial designs: from the levels of runs to a design matrix and the contrasts that answer questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Contrast:
    """One level against the baseline, averaged evenly over the levels of the other axes.

    Attributes:
        level: the level's name; `a×b` for an interaction.
        baseline: what it is compared with.
        weights: what it takes of the design's coefficients [P].
    """

    level: str
    baseline: str
    weights: FloatArray


@dataclass(frozen=True)
class Design:
    """A main-effects design with declared interactions and seeds as blocks.

    Attributes:
        matrix: D [R, P]. Axes are effect-coded (they sum to zero over levels), so that in the presence of
            interactions a main effect stays the average over the other axis.
        contrasts: by axis, or `a×b` for an interaction, in the order of the axes.
        blocked: whether seeds are blocks, so that one more seed takes a coefficient of its own.
    """

    matrix: FloatArray
    contrasts: dict[str, tuple[Contrast, ...]]
    blocked: bool = False


INTERCEPT = np.ones(1)
"""The contrast of an intercept-only design: a mean."""


def mean_design(runs: int, axis: str, level: str, baseline: str) -> Design:
    """The design of paired differences: their mean over runs, degrees of freedom runs − 1."""
    return Design(np.ones((runs, 1)), {axis: (Contrast(level, baseline, INTERCEPT),)})


INTERACTION_SIGN = "×"


def interaction_name(first: str, second: str) -> str:
    """`reward×length_cap`."""
    return f"{first}{INTERACTION_SIGN}{second}"


def factorial_design(
    levels: Mapping[str, Sequence[str]],
    order: Mapping[str, Sequence[str]],
    baselines: Mapping[str, str],
    *,
    blocks: Sequence[object] = (),
    interactions: Sequence[tuple[str, str]] = (),
) -> Design:
    """The design of runs that were given levels of several axes.

    Args:
        levels: by axis, every run's level [R].
        order: by axis, its levels in the order of the grid.
        baselines: by axis, the level that the others are compared with.
        blocks: every run's block, its seed or None [R]; empty for none.
        interactions: pairs of axes whose interaction is estimated.

    Returns:
        The design. Levels that no run has leave no contrast, and no contrast is left of an axis whose
        baseline no run has.
    """
    runs = max([len(v) for v in levels.values()] + [len(blocks)])
    columns: list[FloatArray] = [np.ones((runs, 1))]
    where: dict[str, slice] = {}
    codes = {axis: _codes(levels[axis], order[axis]) for axis in levels}
    width = 1
    for axis, code in codes.items():
        columns.append(_coded(levels[axis], code, runs))
        width = _append(where, axis, columns, width)
    for first, second in interactions:
        a, b = _coded(levels[first], codes[first], runs), _coded(levels[second], codes[second], runs)
        columns.append((a[:, :, None] * b[:, None, :]).reshape(runs, -1))
        width = _append(where, interaction_name(first, second), columns, width)
    distinct = list(dict.fromkeys(blocks))
    columns.append(np.array([[float(b == d) for d in distinct[1:]] for b in blocks]).reshape(runs, -1))
    matrix = np.hstack(columns)
    contrasts: dict[str, tuple[Contrast, ...]] = {}
    for axis, code in codes.items():
        steps = _steps(code, baselines[axis])
        contrasts[axis] = tuple(
            Contrast(level, baselines[axis], _placed(step, where[axis], matrix.shape[1]))
            for level, step in steps.items()
        )
    for first, second in interactions:
        name = interaction_name(first, second)
        pairs = product(
            _steps(codes[first], baselines[first]).items(), _steps(codes[second], baselines[second]).items()
        )
        contrasts[name] = tuple(
            Contrast(
                interaction_name(a, b),
                interaction_name(baselines[first], baselines[second]),
                _placed(np.asarray(np.kron(step_a, step_b)), where[name], matrix.shape[1]),
            )
            for (a, step_a), (b, step_b) in pairs
        )
    return Design(matrix, contrasts, blocked=any(b is not None for b in blocks))


def _codes(levels: Sequence[str], order: Sequence[str]) -> dict[str, FloatArray]:
    """Effect codes [levels − 1] of the levels that runs have."""
    present = [level for level in order if level in set(levels)]
    codes = np.vstack([np.eye(len(present) - 1), -np.ones((1, len(present) - 1))])
    return {level: codes[i] for i, level in enumerate(present)}


def _coded(levels: Sequence[str], codes: Mapping[str, FloatArray], runs: int) -> FloatArray:
    return np.array([codes[level] for level in levels], dtype=np.float64).reshape(runs, -1)


def _append(where: dict[str, slice], name: str, columns: list[FloatArray], width: int) -> int:
    wider = width + columns[-1].shape[1]
    where[name] = slice(width, wider)
    return wider


def _steps(codes: Mapping[str, FloatArray], baseline: str) -> dict[str, FloatArray]:
    """Differences of codes between every level and the baseline."""
    if baseline not in codes:
        return {}
    return {level: code - codes[baseline] for level, code in codes.items() if level != baseline}


def _placed(step: FloatArray, where: slice, width: int) -> FloatArray:
    weights = np.zeros(width)
    weights[where] = step
    return weights
