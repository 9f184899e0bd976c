"""Whose spread a contrast's noise between runs is taken from: all runs together, or each level's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from harness.stats.fiducial import MOST_DF
from harness.stats.power import MIN_DF

FloatArray = npt.NDArray[np.float64]

NoiseMethod = Literal["pooled", "by level", "both"]
"""`pooled`: one spread for all runs. `by level`: each level's own, degrees of freedom after Satterthwaite. `both`:
there are too few runs for that, and the wider of the two intervals is used, the own one with at most the degrees of
freedom that the design alone gives."""

POOLED: NoiseMethod = "pooled"
_MOST_IMBALANCE = 2.0
"""Up to this ratio of the weights of two levels' variances the pooled variance is close enough to the contrast's own:
at 1 they are equal whatever the levels' spreads."""
NO_DF = 0.25
"""A level whose runs have fewer residual degrees of freedom than this has no spread of its own: a single run."""
_PSEUDO = 1e-12


@dataclass(frozen=True)
class Partition:
    """The runs of a design by level of the axis that is judged.

    Attributes:
        members: which runs each level has [G, R].
        df: residual degrees of freedom that each level's runs contribute, Σ (1 − h) [G].
        residual_maker: M = I − H of the design [R, R].
        per_run: contrasts as weights on runs [C, R].
    """

    members: npt.NDArray[np.bool_]
    df: FloatArray
    residual_maker: FloatArray
    per_run: FloatArray

    def shares(self) -> FloatArray:
        """What each level's variance weighs in a contrast's, Σ p² over its runs [C, G]."""
        return np.asarray((self.per_run**2) @ self.members.T.astype(np.float64))

    def degrees_of_freedom(self, contrast: int, variances: FloatArray) -> float:
        """Satterthwaite's degrees of freedom of Σ_g shares·variances for levels of these variances [G].

        The estimate is a quadratic form eᵀAe of the residuals e = Mε, so that its moments are traces of MAM and the
        errors' covariance (Bell and McCaffrey 2002; Pustejovsky and Tipton 2018, section 2.3). In a one-way layout
        that is Welch's formula.
        """
        inside = self.df > NO_DF
        weight = np.zeros(len(self.df))
        weight[inside] = self.shares()[contrast][inside] / self.df[inside]
        a = weight @ self.members.astype(np.float64)
        errors = variances @ self.members.astype(np.float64)
        form = (self.residual_maker * a) @ self.residual_maker * errors
        square = float((form * form.T).sum())
        return float(np.trace(form)) ** 2 / square if square > 0 else 0.0


def partition(
    design: FloatArray, inverse: FloatArray, per_run: FloatArray, levels: Sequence[object]
) -> Partition:
    """The runs by level.

    Args:
        design: D [R, P].
        inverse: its generalised inverse [P, R].
        per_run: contrasts as weights on runs [C, R].
        levels: level of every run on the axis that is judged [R].
    """
    maker = np.eye(len(design)) - design @ inverse
    names = list(dict.fromkeys(levels))
    members = np.array([[level == name for level in levels] for name in names], dtype=np.bool_)
    df = members @ np.clip(np.diag(maker), 0.0, 1.0)
    return Partition(members, np.asarray(df, dtype=np.float64), maker, per_run)


def methods(parts: Partition) -> list[tuple[NoiseMethod, float]]:
    """The method of every contrast and the degrees of freedom it has if levels do not differ: by the design alone.

    Two levels of about equal weight are pooled: the pooled variance is their mean, as the contrast's is, whatever the
    two are. Otherwise the levels of the contrast speak for themselves, if that leaves degrees of freedom enough for a
    verdict; if not, both variances are computed. A level with a single run has no spread of its own and is given that
    of the others.
    """
    shares = parts.shares()
    found: list[tuple[NoiseMethod, float]] = []
    for m, share in enumerate(shares):
        own = share > _PSEUDO * max(float(share.max()), _PSEUDO)
        pooled_df = float(parts.df.sum())
        if len(parts.df) < 2 or not own.any() or (parts.df[own] <= NO_DF).any():
            found.append(("pooled", pooled_df))
            continue
        if len(parts.df) == 2 and share[own].max() <= _MOST_IMBALANCE * share[own].min():
            found.append(("pooled", pooled_df))
            continue
        df = parts.degrees_of_freedom(m, np.ones(len(parts.df)))
        found.append(("by level" if df >= MIN_DF else "both", min(df, MOST_DF)))
    return found
