"""From a grid to jobs: cells → runs → evaluations, what is shared and why. Never imports torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from harness.matrix.planning.data_rules import Linted, lint_grid
from harness.matrix.planning.forks import fork_sentences, with_forks
from harness.matrix.planning.hardware import Hardware, Machine, resolve_hardware
from harness.matrix.planning.offline_fallback import assumption
from harness.matrix.planning.preflight import ResolvedInputs, check_output, resolve_inputs
from harness.models.catalog import ModelSource
from harness.rewards.composite import reads_opened
from harness.spec.grid import Cell, Grid
from harness.spec.identity import (
    Identity,
    base_identity,
    evaluation_identity,
    experiment_fields,
    run_identity,
    schedule_depends_on_steps,
)
from harness.spec.recipe import Keep, Recipe
from harness.store.folders import Store
from harness.store.job import RunJob
from harness.store.records import CellEntry, JobEntry, JobFork, PlanRecord
from harness.store.records.form import JsonObject


@dataclass(frozen=True)
class PlannedCell:
    """A cell, and the checkpoint of a run that gives its figures."""

    cell: Cell
    run_id: str
    step: int


@dataclass(frozen=True)
class Plan:
    """What a grid comes to.

    Attributes:
        grid: the grid.
        out: the output folder.
        hardware: as resolved on this machine.
        cells: every cell with its run and step.
        jobs: base jobs first, then the runs in the order in which they start: seed by seed, so that an
            interrupted matrix is balanced.
        levels: of each run, by run id: its level on every axis but those that vary steps alone.
        models: what is known of each job's model, by run id.
        sharing: what is shared or not, and why.
        warnings: what the author of the grid may not intend.
    """

    grid: Grid
    out: Path
    hardware: Hardware
    cells: list[PlannedCell]
    jobs: list[RunJob]
    levels: dict[str, dict[str, str]]
    models: dict[str, ModelSource]
    sharing: list[str]
    warnings: list[str]

    def job(self, run_id: str) -> RunJob:
        """The job of this id."""
        return next(job for job in self.jobs if job.run_id == run_id)

    @cached_property
    def linted(self) -> Linted:
        """What the linter finds in the grid. Looking at the data takes seconds: it is done when first asked for."""
        return lint_grid(self.grid)

    def record(self) -> PlanRecord:
        """`plan.json` without estimates."""
        return PlanRecord(
            name=self.grid.head.name,
            cells=tuple(
                CellEntry(levels=c.cell.levels, seed=c.cell.seed, run=c.run_id, step=c.step)
                for c in self.cells
            ),
            jobs=tuple(
                JobEntry(
                    run=job.run_id,
                    kind=job.kind,
                    label=job.label,
                    levels=self.levels.get(job.run_id, {}),
                    seed=job.seed,
                    steps=job.steps,
                    evaluation_ids=job.evaluation_ids,
                    devices=job.devices,
                    usd_per_hour=job.usd_per_hour,
                    fork=JobFork(run=job.fork.run_id, step=job.fork.step) if job.fork else None,
                )
                for job in self.jobs
            ),
            sharing=tuple(self.sharing),
            warnings=tuple(self.warnings),
        )


def grid_json(grid: Grid) -> JsonObject:
    """`grid.resolved.json`: every default written out, and the baseline level of every axis."""
    baselines = {axis: grid.baseline(axis) for axis in grid.axes}
    return {**grid.resolved(), "baselines": baselines}


def make_plan(
    grid: Grid, out: Path, machine: Machine, *, out_given: bool = True, planning: bool = False
) -> Plan:
    """Checks the grid against the world and lays out its jobs. Writes nothing.

    Args:
        grid: the grid.
        out: the output folder.
        machine: this machine.
        out_given: whether `out` was given by the user; else it follows from the grid's name.
        planning: see `resolve_hardware`; and a hub that cannot be reached is no error.

    Raises:
        SpecError: something that the grid names is not there, does not fit, or `out` cannot be used.
    """
    world = ResolvedInputs(planning=planning)
    resolve_inputs(grid, world)
    check_output(grid, out, given=out_given)
    hardware = resolve_hardware(grid.head.hardware, machine, planning=planning)
    cells, identities = _cells(grid, world)
    groups: dict[str, list[PlannedCell]] = {}
    for cell in cells:
        groups.setdefault(cell.run_id, []).append(cell)
    bases = _base_jobs(grid, world, hardware, groups) if grid.head.evaluate.base else []
    recipes: dict[tuple[int, int, Keep], Recipe] = {}
    runs = [
        _train_job(grid, world, hardware, group, identities[run_id], recipes)
        for run_id, group in groups.items()
    ]
    runs.sort(key=lambda job: grid.head.seeds.index(job.seed))
    jobs = with_forks([*bases, *runs])
    free = [axis for axis in grid.axes if axis not in grid.steps_axes]
    return Plan(
        grid=grid,
        out=out,
        hardware=hardware,
        cells=cells,
        jobs=jobs,
        levels={r: {axis: group[0].cell.levels[axis] for axis in free} for r, group in groups.items()},
        models={job.run_id: world.model(job.recipe.model) for job in jobs},
        sharing=[*_sharing(cells, groups, bases), *fork_sentences(jobs, Store(out))],
        warnings=[
            *filter(None, [assumption(world.assumed_models, world.assumed_data)]),
            *world.data_warnings,
            *world.prompt_notes(),
            *_duplicates(cells),
        ],
    )


def _cells(grid: Grid, world: ResolvedInputs) -> tuple[list[PlannedCell], dict[str, Identity]]:
    cells, identities = [], {}
    fields: dict[str, dict[str, Any]] = {}  # by the recipe's JSON: the seeds of a cell have it in common
    for cell in grid.cells:
        text = cell.recipe.model_dump_json()
        if text not in fields:
            fields[text] = experiment_fields(cell.recipe)
        identity = identity_of(cell, world, fields[text])
        identities[identity.digest] = identity
        cells.append(PlannedCell(cell, identity.digest, cell.recipe.training.steps))
    return cells, identities


def identity_of(cell: Cell, world: ResolvedInputs, fields: dict[str, Any] | None = None) -> Identity:
    """Identity of the run that a cell lies on; `fields` are its recipe's `experiment_fields`, where at hand."""
    content = [world.fingerprint(source) for source in cell.recipe.data.sources]
    fields = experiment_fields(cell.recipe) if fields is None else fields
    facts = world.prompt(cell.recipe.prompt, cell.recipe.model)
    if facts and facts.opened and reads_opened(cell.recipe.reward):
        # Such rewards gave nothing before they read what the prompt opened.
        fields = {**fields, "reward.opened": facts.opened}
    if code := world.reward_code(cell.recipe.reward):
        fields = {**fields, **code}
    return run_identity(
        cell.recipe,
        cell.seed,
        model_fingerprint=world.model(cell.recipe.model).fingerprint,
        data_fingerprint=json.dumps(content, separators=(",", ":")),
        fields=fields,
    )


def _evaluations(grid: Grid, world: ResolvedInputs, recipe: Recipe) -> dict[str, Identity]:
    evaluate = grid.head.evaluate
    return world.evaluations(
        repr(recipe.prompt),
        lambda: {
            benchmark.name: evaluation_identity(
                evaluate,
                benchmark,
                recipe.prompt,
                benchmark_fingerprint=world.fingerprint(benchmark.source),
            )
            for benchmark in evaluate.benchmarks
        },
    )


def _job(
    grid: Grid, world: ResolvedInputs, hardware: Hardware, identity: Identity, recipe: Recipe, **fields: Any
) -> RunJob:
    evaluations = _evaluations(grid, world, recipe)
    return RunJob(
        run_id=identity.digest,
        recipe=recipe,
        evaluate=grid.head.evaluate,
        evaluation_ids={name: e.digest for name, e in evaluations.items()},
        evaluation_identities={name: e.fields for name, e in evaluations.items()},
        hardware=hardware.spec,
        usd_per_hour=hardware.usd_per_hour,
        devices=hardware.devices,
        identity=identity.fields,
        model_files=dict(world.model(recipe.model).files),
        **fields,
    )


def _train_job(
    grid: Grid,
    world: ResolvedInputs,
    hardware: Hardware,
    group: list[PlannedCell],
    identity: Identity,
    recipes: dict[tuple[int, int, Keep], Recipe],
) -> RunJob:
    steps = tuple(sorted({c.step for c in group}))
    first = group[0].cell
    # Of the knobs that change no result the first cell's are taken; but what one cell keeps, no other may remove.
    keep = min((c.cell.recipe.training.keep for c in group), key=get_args(Keep).index)
    # The seeds of a cell share their recipe, and so do their jobs: what follows from it is found once.
    key = id(first.recipe), steps[-1], keep
    if key not in recipes:
        training = first.recipe.training.model_copy(update={"steps": steps[-1], "keep": keep})
        recipes[key] = first.recipe.model_copy(update={"training": training})
    recipe = recipes[key]
    lengths = [] if not schedule_depends_on_steps(recipe) else grid.steps_axes
    levels = {a: v for a, v in first.levels.items() if a not in grid.steps_axes or a in lengths}
    label = " ".join([*(f"{axis}={level}" for axis, level in levels.items()), f"seed={first.seed}"])
    return _job(
        grid, world, hardware, identity, recipe, kind="train", seed=first.seed, steps=steps, label=label
    )


def _base_jobs(
    grid: Grid, world: ResolvedInputs, hardware: Hardware, groups: dict[str, list[PlannedCell]]
) -> list[RunJob]:
    jobs: dict[str, RunJob] = {}
    for group in groups.values():
        recipe = group[0].cell.recipe
        # What evaluates under a prompt of its own does so whatever the prompt in training.
        prompt = grid.head.evaluate.prompt or recipe.prompt
        recipe = recipe.model_copy(update={"prompt": prompt})
        identity = base_identity(recipe, model_fingerprint=world.model(recipe.model).fingerprint)
        if identity.digest not in jobs:
            jobs[identity.digest] = _job(
                grid,
                world,
                hardware,
                identity,
                recipe,
                kind="base",
                seed=grid.head.evaluate.seed,
                steps=(0,),
                label=f"untrained {recipe.model.name}",
            )
    return list(jobs.values())


def _sharing(
    cells: list[PlannedCell], groups: dict[str, list[PlannedCell]], bases: list[RunJob]
) -> list[str]:
    """What is shared or not, and why, in sentences."""
    sentences = []
    shared = [g for g in groups.values() if len({c.step for c in g}) > 1]
    if shared:
        inside = sum(map(len, shared))
        stated = sorted({s for g in shared if (s := _stated_schedule(g[0].cell.recipe)) is not None})
        reason = (
            f"each is a checkpoint of a {' or '.join(stated)} schedule (optimizer.schedule_steps)"
            if stated
            else "under a constant schedule (optimizer.schedule) no step depends on how many follow"
        )
        sentences.append(
            f"{inside} cells are checkpoints of {len(shared)} runs: they differ only in training.steps, and {reason}."
        )
    apart = [c for c in cells if schedule_depends_on_steps(c.cell.recipe)]
    if len({c.step for c in apart}) > 1:
        schedules = " and ".join(sorted({c.cell.recipe.optimizer.schedule for c in apart}))
        sentences.append(
            f"{len(apart)} cells are a run each for every training length: under optimizer.schedule "
            f"{schedules} the learning rate of a step depends on how many follow."
        )
    for base in bases:
        sentences.append(
            f"Step 0 of {base.label.removeprefix('untrained ')} is evaluated once, for all runs that start from it."
        )
    return sentences


def _stated_schedule(recipe: Recipe) -> str | None:
    """The schedule whose checkpoints a recipe's lengths are, where it is not a constant one."""
    optimizer = recipe.optimizer
    if optimizer.schedule == "constant" or optimizer.schedule_steps is None:
        return None
    return f"{optimizer.schedule_steps}-step {optimizer.schedule}"


def _duplicates(cells: list[PlannedCell]) -> list[str]:
    """Cells that are one and the same checkpoint."""
    seen: dict[tuple[str, int], PlannedCell] = {}
    warnings = []
    for cell in cells:
        twin = seen.setdefault((cell.run_id, cell.step), cell)
        if twin is not cell:
            warnings.append(
                f"cells [{twin.cell.label}] and [{cell.cell.label}] resolve to the same run and step "
                f"({cell.run_id}, step {cell.step}): what sets them apart does not change the experiment."
            )
    return warnings
