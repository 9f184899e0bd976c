"""Which effect each axis could show with this many runs and questions, before anything is spent."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.matrix.planning.planner import Plan
from harness.matrix.planning.time_model import EVALUATION_QUESTIONS
from harness.stats.power import ASSUMED, MIN_DF, detectable_effect, planned_error


@dataclass(frozen=True)
class Detectable:
    """The smallest effect of an axis that would be found.

    Attributes:
        axis: its name.
        levels: how many levels it has.
        df: degrees of freedom.
        effect: as a fraction of accuracy; NaN where no verdict is possible.
        one_more_seed: the same with one more seed.
    """

    axis: str
    levels: int
    df: int
    effect: float
    one_more_seed: float


def detectable_effects(plan: Plan) -> list[Detectable]:
    """For every axis with two levels or more, under the assumed noise of `harness.stats.power`."""
    seeds = len(plan.grid.head.seeds)
    found = []
    for axis, levels in plan.grid.axes.items():
        if len(levels) > 1:
            (df, now), (_, more) = _effect(plan, axis, seeds), _effect(plan, axis, seeds + 1)
            found.append(Detectable(axis, len(levels), df, now, more))
    return found


def _effect(plan: Plan, axis: str, seeds: int) -> tuple[int, float]:
    """Degrees of freedom and detectable effect of an axis with `seeds` seeds."""
    grid, verdict, evaluate = plan.grid, plan.grid.head.verdict, plan.grid.head.evaluate
    questions = sum(b.questions or EVALUATION_QUESTIONS for b in evaluate.benchmarks)
    widths = {a: len(v) for a, v in grid.axes.items() if len(v) > 1}
    # Axes that are compared within runs or families take nothing from between them.
    within = _within_families(plan)
    runs = _families(plan, within) * seeds // len(grid.head.seeds)
    paired = axis in within
    if paired:
        df = runs - 1
    else:
        free = [w for a, w in widths.items() if a not in within]
        pairs = [math.prod(widths.get(a, 1) - 1 for a in pair) for pair in verdict.interactions]
        df = runs - 1 - sum(w - 1 for w in free) - sum(pairs) - (seeds - 1)
    df = min(df, questions - 1)
    if df < MIN_DF:
        return df, math.nan
    error = planned_error(
        ASSUMED, runs=runs, questions=questions, samples=evaluate.samples, levels=widths[axis], paired=paired
    )
    comparisons = len(widths) * (widths[axis] - 1)
    return df, detectable_effect(error, df, alpha=verdict.alpha, power=verdict.power, comparisons=comparisons)


def _within_families(plan: Plan) -> set[str]:
    """Axes compared within units: lengths that are checkpoints of one run, and what forks of a trunk vary."""
    within = set(plan.grid.steps_axes) if any(len(job.steps) > 1 for job in plan.jobs) else set()
    trunk = {job.run_id: job.fork.run_id for job in plan.jobs if job.fork is not None}
    levels = {cell.run_id: cell.cell.levels for cell in plan.cells}
    for run in trunk:
        root = run
        while root in trunk:
            root = trunk[root]
        if run in levels and root in levels:
            within |= {axis for axis, level in levels[run].items() if levels[root][axis] != level}
    return within


def _families(plan: Plan, within: set[str]) -> int:
    """Units between runs: trajectories that differ in axes within families alone are one."""
    return len(
        {
            (cell.cell.seed, *(level for axis, level in cell.cell.levels.items() if axis not in within))
            for cell in plan.cells
        }
    )


def noise_text() -> str:
    """The assumed noise, in a sentence."""
    return (
        f"noise of {ASSUMED.run:.1%} between seeds, {ASSUMED.slope:.0%} in an effect between questions, "
        f"{ASSUMED.interaction:.0%} of a run between questions, accuracy about {ASSUMED.accuracy:.0%}"
    )
