"""Families: a run and those that share its trunk are one unit between runs, like the checkpoints of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.reporting.frames import records
from harness.store.study import Study


@dataclass(frozen=True)
class Block:
    """One trajectory: a level of every axis but training length, and a seed.

    Attributes:
        levels: level by axis, without the training length.
        seed: the seed.
        family: what it shares with runs that are no independent ones: the run that they all begin as.
        checkpoints: (run, step) by level of training length; one entry, "", where there is no such axis.
    """

    levels: dict[str, str]
    seed: int
    family: str
    checkpoints: dict[str, tuple[str, int]]


Place = tuple[str, int]
"""A checkpoint: run and step."""
Nest = tuple[str, ...]
"""Levels of the axes that vary within families, training length last where it is one."""


@dataclass(frozen=True)
class Family:
    """Trajectories that are one unit between runs.

    Attributes:
        levels: level by axis that does not vary within families.
        seed: the seed; None where the family has several.
        members: its trajectories.
        cells: its checkpoints by levels of the axes that vary within families; several where a trunk was forked twice
            alike, which are averaged.
    """

    levels: dict[str, str]
    seed: int | None
    members: tuple[Block, ...]
    cells: dict[Nest, tuple[Place, ...]]


def family_names(study: Study) -> dict[str, str]:
    """The run that each run's family begins as: the end of its chain of forks, or what external rows say.

    A fork is one by what it is, not by how it was executed: two runs of one seed whose learning rates agree up to a
    step are one trajectory up to there, even where the second was trained from step 0 on its own.
    """
    if "family" in study.runs.columns:
        return {str(r["run"]): str(r["family"]) for r in records(study.runs)}
    trunk = {job.run: job.fork.run for job in study.plan.jobs if job.fork is not None}
    names = {}
    for run in (str(r) for r in study.runs["run"]):
        root, seen = run, {run}
        while root in trunk and trunk[root] not in seen:
            root = trunk[root]
            seen.add(root)
        names[run] = root
    return names


def nested_axes(blocks: Sequence[Block], axes: Sequence[str]) -> tuple[str, ...]:
    """Axes of which one family has several levels, in the order given."""
    found: dict[str, dict[str, set[str]]] = {}
    for block in blocks:
        own = found.setdefault(block.family, {axis: set() for axis in axes})
        for axis in axes:
            own[axis].add(block.levels[axis])
    return tuple(axis for axis in axes if any(len(own[axis]) > 1 for own in found.values()))


def families_of(
    blocks: Sequence[Block], nested: Sequence[str], *, by_length: bool, shared_seeds: bool
) -> tuple[Family, ...]:
    """The families, in the order of their first trajectory.

    Where seeds are shared random numbers and some axis varies within families, trajectories that differ in such axes
    alone are one family even if they share no trunk: a level that does not fork is compared with those that do run by
    run of equal seed and levels, whatever they have in common.

    Args:
        blocks: trajectories.
        nested: axes that vary within families.
        by_length: whether training length is compared within runs.
        shared_seeds: whether runs of one seed share their random numbers.
    """
    owner: dict[str, int] = {}
    groups: list[list[Block]] = []
    for block in blocks:
        keys = [f"family {block.family}"]
        if nested and shared_seeds:
            rest = [block.levels[axis] for axis in block.levels if axis not in nested]
            keys.append(f"levels {rest} {block.seed}")
        places = sorted({owner[key] for key in keys if key in owner})
        if not places:
            places = [len(groups)]
            groups.append([])
        home = places[0]
        for other in places[1:]:
            groups[home] += groups[other]
            groups[other] = []
            owner.update({key: home for key, place in owner.items() if place == other})
        groups[home].append(block)
        owner.update(dict.fromkeys(keys, home))
    return tuple(_family(group, nested, by_length) for group in groups if group)


def _family(group: Sequence[Block], nested: Sequence[str], by_length: bool) -> Family:
    cells: dict[Nest, tuple[Place, ...]] = {}
    for block in group:
        own = tuple(block.levels[axis] for axis in nested)
        for length, place in block.checkpoints.items():
            cell = (*own, length) if by_length else own
            cells[cell] = (*cells.get(cell, ()), place)
    seeds = {block.seed for block in group}
    first = group[0]
    return Family(
        {axis: level for axis, level in first.levels.items() if axis not in nested},
        first.seed if len(seeds) == 1 else None,
        tuple(group),
        cells,
    )


def required_cells(families: Sequence[Family]) -> tuple[Nest, ...]:
    """Cells that every family was planned to have; all cells where there are none."""
    every = dict.fromkeys(cell for family in families for cell in family.cells)
    common = [cell for cell in every if all(cell in family.cells for family in families)]
    return tuple(common or every)


def levels_text(axes: Sequence[str], cell: Nest) -> Mapping[str, str]:
    """Level by axis of a cell."""
    return dict(zip(axes, cell))
