"""An interrupted matrix is balanced."""

from __future__ import annotations

import itertools
from collections import Counter
from types import SimpleNamespace

import pytest

from harness.matrix.planning.start_order import start_order


def planned(widths, seeds=(0,)):
    """What the order reads of a plan of a full factorial."""
    axes = {f"a{i}": [SimpleNamespace(name=str(n)) for n in range(width)] for i, width in enumerate(widths)}
    jobs, levels = [], {}
    for seed in seeds:
        for combination in itertools.product(*(range(w) for w in widths)):
            run_id = f"{seed}{combination}"
            jobs.append(SimpleNamespace(kind="train", run_id=run_id, seed=seed, fork=None))
            levels[run_id] = {f"a{i}": str(n) for i, n in enumerate(combination)}
    grid = SimpleNamespace(axes=axes, head=SimpleNamespace(seeds=seeds))
    return SimpleNamespace(grid=grid, jobs=jobs, levels=levels)


@pytest.mark.parametrize(
    ("widths", "fractions"),
    [((2, 2, 2), (2, 1)), ((3, 3, 3), (3, 1)), ((2, 2, 2, 2), (2, 1)), ((4, 2), (4, 2))],
)
def test_whole_fractions_come_first(widths, fractions):
    """After 1/m of the runs every level of every axis has stood equally often, and so after each further 1/m."""
    plan = planned(widths)
    order = start_order(plan)
    size = len(order) // fractions[0]
    for start in range(0, len(order), size):
        part = order[start : start + size]
        for axis, width in enumerate(widths):
            counts = Counter(plan.levels[job.run_id][f"a{axis}"] for job in part)
            if width <= size and len(set(widths)) == 1:
                assert len(set(counts.values())) == 1, (axis, counts)
                assert len(counts) == width
    assert sorted(j.run_id for j in order) == sorted(j.run_id for j in plan.jobs)


def test_pairs_of_axes_are_balanced_in_half_of_a_two_level_design():
    plan = planned((2, 2, 2))
    half = start_order(plan)[:4]
    for one, other in itertools.combinations(("a0", "a1", "a2"), 2):
        pairs = Counter((plan.levels[j.run_id][one], plan.levels[j.run_id][other]) for j in half)
        assert set(pairs.values()) == {1}


def test_seeds_one_after_the_other():
    assert [job.seed for job in start_order(planned((2, 2), seeds=(5, 1)))] == [5] * 4 + [1] * 4


def test_a_run_comes_before_those_that_fork_from_it():
    plan = planned((2, 2), seeds=(0, 1))
    before = [job.run_id for job in start_order(plan)]
    by_id = {job.run_id: job for job in plan.jobs}
    one, two, three, last = before[:4]
    by_id[one].fork = SimpleNamespace(run_id=three)
    by_id[three].fork = SimpleNamespace(run_id=last)
    assert [job.run_id for job in start_order(plan)] == [last, three, one, two, *before[4:]]
