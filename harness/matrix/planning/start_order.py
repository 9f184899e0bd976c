"""In which order runs start, so that a matrix that is cut short is still balanced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.matrix.planning.planner import Plan
from harness.store.job import RunJob


def start_order(plan: Plan) -> list[RunJob]:
    """Base jobs, then seed by seed, and within a seed whole factorial fractions first.

    With every axis at m levels, the runs whose level numbers sum to 0 modulo m are a fraction in which every level
    of every axis stands equally often (Box, Hunter and Hunter, Statistics for Experimenters, chapter 6); then
    those that sum to 1, and so on. Within a fraction the same holds of the sums over fewer axes. A run from which
    others fork comes before the first of them.
    """
    levels = {axis: [level.name for level in found] for axis, found in plan.grid.axes.items()}
    seeds = plan.grid.head.seeds

    def key(job: RunJob) -> tuple[int, int, tuple[int, ...]]:
        if job.kind == "base":
            return 0, 0, ()
        return 1, seeds.index(job.seed), _fraction(levels, plan.levels[job.run_id])

    by_id = {job.run_id: job for job in plan.jobs}
    ordered: dict[str, RunJob] = {}
    for job in sorted(plan.jobs, key=key):
        line = [job]
        while (fork := line[-1].fork) is not None and fork.run_id not in ordered:
            line.append(by_id[fork.run_id])
        ordered |= {each.run_id: each for each in reversed(line) if each.run_id not in ordered}
    return list(ordered.values())


def _fraction(axes: Mapping[str, Sequence[str]], levels: Mapping[str, str]) -> tuple[int, ...]:
    """The nested fractions that a run lies in, the largest first."""
    numbers = [axes[axis].index(level) for axis, level in levels.items()]
    width = max((len(axes[axis]) for axis in levels), default=1)
    return tuple(sum(numbers[:count]) % width for count in range(len(numbers), 0, -1))
