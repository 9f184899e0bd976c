"""Looks: a study that is judged, given more seeds or questions and judged again has more than one chance to err.

The error rate is spent over looks (Lan and DeMets 1983): each look is judged at a nominal level of its own in place
of alpha, such that the chance of any false verdict over all of them is bounded.

A study that declares its looks spends as O'Brien and Fleming do: next to nothing early on, where few runs measure the
noise badly, and nearly all of alpha at the last look. Of the spending functions tried on seeds added one by one up to
ten, this one finds most: 77 % of the time what ten seeds find in 80 %, where Pocock's finds it in 66 %. A study that
declares none has spent alpha at its first look, so that being judged once costs nothing. Whatever number of looks
follows has a tenth of alpha more, all together: at most 5.5 % for alpha = 5 %. A look at which no verdict could be
given spends nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

UNDECLARED_SHARE = 0.1
"""Of alpha, for all looks after the first one of a study that declared none."""
_NODES = 201
_REACH = 8.0
"""Standard deviations beyond which no bound lies: a level of 1e-15."""
_SLACK = 1e-9


@dataclass(frozen=True, kw_only=True)
class Looks:
    """The looks of a study up to the present one.

    Attributes:
        alpha: error rate of the study.
        information: at each look up to this one, in any unit in which it adds up, such as runs; increasing.
        declared: at each look that was declared, in the same unit; empty where none was.
    """

    alpha: float
    information: tuple[float, ...]
    declared: tuple[float, ...] = ()

    @property
    def level(self) -> float:
        """The nominal level of this look; 0 where declared looks are used up."""
        goals = self._goals()
        if len(goals) == 1 and not self.declared:
            return self.alpha
        return nominal_levels(self.information, goals)[-1] if goals[-1] > 0 else 0.0

    @property
    def left(self) -> float:
        """Error rate that looks after this one have, all together."""
        if self.declared:
            return max(0.0, self.alpha - sum(self._goals()))
        return self.alpha * UNDECLARED_SHARE / len(self.information)

    def _goals(self) -> list[float]:
        """What each look up to this one spends."""
        looks = len(self.information)
        if not self.declared:
            return [self.alpha, *(self.alpha * UNDECLARED_SHARE / (k * (k - 1)) for k in range(2, looks + 1))]
        # A look that was not declared, as where one seed failed, is one like others: a share of the last one.
        shares = [min(1.0, v / self.declared[-1]) for v in self.information]
        return np.diff([0.0, *(spent(share, self.alpha) for share in shares)]).tolist()


def spent(information: float, alpha: float) -> float:
    """Error rate spent up to a share of the information: O'Brien and Fleming's on each side, 4 − 4Φ(z/√t) with z the
    quantile of 1 − alpha/4 (Lan and DeMets 1983, section 3)."""
    if information >= 1:
        return alpha
    if information <= 0:
        return 0.0
    return 4 * float(special.ndtr(special.ndtri(alpha / 4) / math.sqrt(information)))


def nominal_levels(information: Sequence[float], goals: Sequence[float]) -> list[float]:
    """Two-sided nominal level of every look.

    Statistics are treated as those of a Brownian motion: increments between looks are independent. Bounds follow by
    recursion over the density of what has not crossed one so far (Armitage, McPherson and Rowe 1969). A look's level
    is then used with t and its degrees of freedom, Dunnett and Holm as alpha is.

    Args:
        information: at each look, increasing; its unit does not matter.
        goals: chance of crossing the bound of each look and none before, if there is no effect.

    Raises:
        ValueError: information does not increase.
    """
    t = np.asarray(information, dtype=np.float64) / information[0]
    if (np.diff(t) <= _SLACK).any():
        raise ValueError(f"`information` must increase, got {list(information)}")
    bounds = [_bound(goals[0])]
    grid = np.linspace(-1, 1, _NODES) * bounds[0]
    density = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    for before, now, goal in zip(t[:-1], t[1:], goals[1:]):
        weights = density * (grid[1] - grid[0])
        weights[[0, -1]] /= 2
        bounds.append(_next_bound(grid, weights, before, now, goal))
        wider = np.linspace(-1, 1, _NODES) * bounds[-1] * math.sqrt(now)
        step = math.sqrt(now - before)
        kernel = np.exp(-((wider[:, None] - grid) ** 2) / (2 * step**2)) / (step * math.sqrt(2 * math.pi))
        grid, density = wider, kernel @ weights
    return [2 * float(special.ndtr(-bound)) for bound in bounds]


def _bound(goal: float) -> float:
    return min(_REACH, -float(special.ndtri(goal / 2))) if goal > 0 else _REACH


def _next_bound(grid: np.ndarray, weights: np.ndarray, before: float, now: float, goal: float) -> float:
    """The z at which a motion that is at `grid` with `weights` crosses ±z√now with probability `goal`."""
    step = math.sqrt(now - before)

    def crossing(z: float) -> float:
        reach = z * math.sqrt(now)
        out = special.ndtr((grid - reach) / step) + special.ndtr((-reach - grid) / step)
        return float(weights @ out)

    if crossing(_REACH) >= goal:
        return _REACH
    return float(optimize.brentq(lambda z: crossing(z) - goal, 0.0, _REACH, xtol=1e-8))
