"""The grid: a base recipe, axes, seeds, evaluation, hardware, budget and verdict settings, and its cells."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from harness.safe_text import visible
from harness.spec.evaluation import EvaluateSpec
from harness.spec.hardware import BudgetSpec, HardwareSpec, LintSpec, VerdictSpec
from harness.spec.identity import RECIPE
from harness.spec.recipe import Recipe
from harness.spec.section import Listed, NonNegativeInt, Section
from harness.spec.source import Located, Path_, nearest, read_yaml
from harness.spec.validate import check_partial, dotted, validated

RESERVED_AXES = {
    "run", "seed", "step", "benchmark", "questions", "samples", "accuracy", "ci_low", "ci_high", "correct", "gain",
    "kind", "label", "status", "attempts", "failed_attempts", "wall_seconds", "device_seconds", "usd_per_hour",
    "devices", "cost_usd", "device", "error",
}  # fmt: skip
"""Columns of the tables by cell and by run, which no axis may be called."""


class GridHead(Section):
    """Everything in the file but the base recipe and the axes, which are resolved cell by cell."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Names the output folder."""
    question: str
    """The question that the matrix is to answer, in words."""
    seeds: Annotated[tuple[NonNegativeInt, ...], Listed, Field(min_length=1)] = (0,)
    """Seeds: every combination of levels is run once per seed."""
    evaluate: EvaluateSpec
    """What is measured on every checkpoint."""
    hardware: HardwareSpec = HardwareSpec()
    """Where runs execute, and at which price."""
    budget: BudgetSpec = BudgetSpec()
    """Upper bounds."""
    verdict: VerdictSpec = VerdictSpec()
    """What counts as an effect."""
    lint: LintSpec = LintSpec()
    """Findings of the linter that are meant to be, with the reason."""

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"must be distinct, got {list(value)}")
        return value


@dataclass(frozen=True)
class Level:
    """One value of an axis: a patch of the base recipe."""

    name: str
    patch: Located
    path: Path_
    """Where it stands in the file."""

    def sets(self, path: Path_) -> bool:
        """Whether the patch sets the recipe's field at `path`, or a whole section or list around it."""
        return _sets(self.patch.data, path)


@dataclass(frozen=True)
class Cell:
    """One point of the matrix.

    Attributes:
        levels: level name by axis, in the grid's order of axes.
        seed: the run's seed.
        recipe: the resolved recipe.
    """

    levels: dict[str, str]
    seed: int
    recipe: Recipe

    @property
    def label(self) -> str:
        """`data=easy length_cap=32 seed=0`."""
        return " ".join([*(f"{axis}={level}" for axis, level in self.levels.items()), f"seed={self.seed}"])


@dataclass(frozen=True)
class Grid:
    """A validated grid.

    Attributes:
        head: everything but the base recipe and the axes.
        axes: levels by axis.
        cells: every cell, in the order of the file: the last axis varies fastest, seeds slowest.
        file: where it was read from.
        located: the file's data with lines, for later messages.
    """

    head: GridHead
    axes: dict[str, list[Level]]
    cells: list[Cell]
    file: str
    located: Located

    def resolved(self) -> dict[str, Any]:
        """The grid with every default written out, as JSON-ready data."""
        recipes = {id(c.recipe): c.recipe for c in self.cells}  # which seeds have in common
        dumped = {key: recipe.model_dump(mode="json") for key, recipe in recipes.items()}
        return {
            **self.head.model_dump(mode="json"),
            "axes": {axis: [level.name for level in levels] for axis, levels in self.axes.items()},
            "steps_axes": self.steps_axes,
            "cells": [
                {"levels": c.levels, "seed": c.seed, "recipe": dumped[id(c.recipe)]} for c in self.cells
            ],
        }

    @cached_property
    def steps_axes(self) -> list[str]:
        """Axes that vary nothing but the number of training steps, and knobs of how they are executed."""
        return [axis for axis, levels in self.axes.items() if all(map(_sets_steps_alone, levels))]

    def where(self, cell: Cell, path: Path_) -> tuple[str, int | None]:
        """Dotted name and line of what gave a cell's recipe its value at `path`: a level's patch, or the base."""
        for axis, name in reversed(cell.levels.items()):
            level = next(v for v in self.axes[axis] if v.name == name)
            if level.sets(path):
                return f"axes.{axis}.{name}: {dotted(path)}", level.patch.line(path)
        return f"base.{dotted(path)}", self.located.line(("base", *path))

    def baseline(self, axis: str) -> str:
        """The level that the others of `axis` are compared with."""
        return self.head.verdict.baseline.get(axis, self.axes[axis][0].name)


def load_grid(file: str | Path) -> Grid:
    """Reads and validates a grid, cell by cell.

    Raises:
        SpecError: with file, line, what is wrong and how to mend it.
    """
    located = read_yaml(file)
    if not isinstance(located.data, dict):
        raise located.error((), "must be a mapping with `name`, `question`, `base`, `axes` and `evaluate`")
    known = [*GridHead.model_fields, "base", "axes", "include", "exclude"]
    for key in located.data:
        if key not in known:
            raise located.error((key,), f"{key}: unknown key", nearest(str(key), known))
    own = ("base", "axes", "include", "exclude")
    rest = Located({k: v for k, v in located.data.items() if k not in own}, located.lines, located.file)
    head = validated(GridHead, rest)
    if "base" not in located.data:
        raise located.error((), "base: missing", "add `base:` with a model, data and reward")
    if not isinstance(located.data["base"], dict):
        raise located.error(("base",), "base: must be a mapping")
    axes = _axes(located)
    _check_verdict(head, axes, located)
    cells = list(_cells(located, head, axes))
    if not cells:
        raise located.error(("exclude",), "exclude: no cell is left", "remove an entry")
    return Grid(head, axes, cells, str(file), located)


def _axes(located: Located) -> dict[str, list[Level]]:
    data = located.data.get("axes", {})
    if not isinstance(data, dict):
        raise located.error(("axes",), "axes: must map axis names to levels")
    axes = {}
    for axis, value in data.items():
        if not isinstance(axis, str) or axis in RESERVED_AXES:
            raise located.error(
                ("axes", axis), f"axes.{axis}: is a column of the tables", "choose another axis name"
            )
        axes[axis] = _levels(located, axis, value)
    return axes


def _levels(located: Located, axis: str, value: Any) -> list[Level]:
    path: Path_ = ("axes", axis)
    if isinstance(value, dict) and len(value) == 1 and isinstance(next(iter(value.values())), list):
        field, values = next(iter(value.items()))
        return _value_levels(located, axis, (*path, field), str(field), values)
    if isinstance(value, list):
        return _value_levels(located, axis, path, axis, value)
    if not isinstance(value, dict):
        raise located.error(
            path, f"axes.{axis}: must map level names to patches, or list values of one field"
        )
    if not value:
        raise located.error(
            path, f"axes.{axis}: has no levels", "give at least one level, or remove the axis"
        )
    levels = []
    for name, patch in value.items():
        at = (*path, name)
        if not isinstance(patch, dict):
            hint = "write `level: {section: {field: value}}`"
            raise located.error(at, f"{dotted(at)}: must be a patch of the base recipe, got {patch!r}", hint)
        levels.append(Level(_level_name(name), _expanded(located.at(*at)), at))
    return _distinct(located, axis, levels)


def _value_levels(located: Located, axis: str, path: Path_, field: str, values: list[Any]) -> list[Level]:
    if not values:
        raise located.error(
            path, f"axes.{axis}: has no levels", "give at least one value, or remove the axis"
        )
    if "." not in field:
        hint = f"write `{axis}: {{section.field: [...]}}`, such as `{axis}: {{training.steps: [10, 20]}}`"
        raise located.error(path, f"axes.{axis}: `{field}` names no field of the recipe", hint)
    levels = []
    for index, value in enumerate(values):
        line = located.line((*path, index)) or 1
        patch = Located({field: value}, {(): line, (field,): line}, located.file)
        levels.append(Level(_level_name(value), _expanded(patch), (*path, index)))
    return _distinct(located, axis, levels)


def _level_name(value: Any) -> str:
    """The level's name as YAML writes the value: `true`, `null`, `0.5`, `easy`."""
    return json.dumps(value) if value is None or isinstance(value, bool) else visible(str(value))


def _distinct(located: Located, axis: str, levels: list[Level]) -> list[Level]:
    seen: set[str] = set()
    for level in levels:
        if level.name in seen:
            raise located.error(
                level.path, f"axes.{axis}: level {level.name!r} stands twice", "remove or rename one"
            )
        seen.add(level.name)
    return levels


def _expanded(patch: Located) -> Located:
    """A patch whose dotted keys, `rollout.temperature`, are written out as nested mappings."""
    result = Located({}, {(): patch.lines.get((), 1)}, patch.file)
    for key, value in patch.data.items():
        *parents, last = str(key).split(".")
        below = {(*parents, last, *p[1:]): line for p, line in patch.lines.items() if p[:1] == (key,)}
        for depth in range(1, len(parents) + 1):
            below[tuple(parents[:depth])] = below[(*parents, last)]
        nested: Any = {last: value}
        for parent in reversed(parents):
            nested = {parent: nested}
        result = result.merged(Located(nested, below, patch.file))
    return result


def _sets(data: Any, path: Path_) -> bool:
    for key in path:
        if isinstance(data, dict):
            if key not in data:
                return False
            data = data[key]
        elif isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
        else:
            return True
    return True


def _sets_steps_alone(level: Level) -> bool:
    fields = {dotted(path) for path in _leaves(level.patch.data)}
    knobs = {name for name in RECIPE.runtime if name.startswith(("training.", "rollout."))}
    return "training.steps" in fields and fields - {"training.steps"} <= knobs


def _leaves(data: Any, path: Path_ = ()) -> list[Path_]:
    if isinstance(data, dict):
        return [leaf for key, value in data.items() for leaf in _leaves(value, (*path, key))]
    return [path]


def _check_verdict(head: GridHead, axes: dict[str, list[Level]], located: Located) -> None:
    for axis, level in head.verdict.baseline.items():
        path: Path_ = ("verdict", "baseline", axis)
        if axis not in axes:
            raise located.error(path, f"verdict.baseline.{axis}: no such axis", nearest(axis, axes))
        names = [v.name for v in axes[axis]]
        if level not in names:
            raise located.error(
                path, f"verdict.baseline.{axis}: no such level {level!r}", nearest(level, names)
            )
    for index, pair in enumerate(head.verdict.interactions):
        path = ("verdict", "interactions", index)
        if len(pair) != 2 or len(set(pair)) < 2:
            raise located.error(path, f"verdict.interactions[{index}]: must name two axes, got {pair}")
        for axis in pair:
            if axis not in axes:
                raise located.error(
                    path, f"verdict.interactions[{index}]: no such axis {axis!r}", nearest(axis, axes)
                )


def _selections(located: Located, key: str, axes: dict[str, list[Level]]) -> list[dict[str, str]]:
    entries = located.data.get(key, [])
    if not isinstance(entries, list):
        raise located.error((key,), f"{key}: must be a list of {{axis: level}} mappings")
    selections = []
    for index, entry in enumerate(entries):
        path: Path_ = (key, index)
        if not isinstance(entry, dict) or not entry:
            raise located.error(path, f"{key}[{index}]: must be a mapping of axes to levels, got {entry!r}")
        for axis, level in entry.items():
            if axis not in axes:
                raise located.error(
                    (*path, axis), f"{key}[{index}].{axis}: no such axis", nearest(str(axis), axes)
                )
            names = [v.name for v in axes[axis]]
            if _level_name(level) not in names:
                message = f"{key}[{index}].{axis}: no such level {level!r}"
                raise located.error((*path, axis), message, nearest(_level_name(level), names))
        if key == "include" and (missing := [a for a in axes if a not in entry]):
            raise located.error(
                path, f"include[{index}]: names no level of {', '.join(missing)}", "name one for every axis"
            )
        selections.append({axis: _level_name(level) for axis, level in entry.items()})
    return selections


def _cells(located: Located, head: GridHead, axes: dict[str, list[Level]]) -> Iterator[Cell]:
    """Every combination of levels that `exclude` leaves or `include` brings back, for every seed."""
    excluded = _selections(located, "exclude", axes)
    included = _selections(located, "include", axes)
    base = located.at("base")
    if isinstance(base.data.get("model"), str):
        # Written out, so that a level's `model: {dtype: …}` merges with the short form.
        line = base.line(("model",)) or 1
        long = Located(
            {"model": {"name": base.data["model"]}}, {("model",): line, ("model", "name"): line}, base.file
        )
        base = base.merged(long)
    # A mistake in the base is one even where every level happens to cover it up.
    lines = {("base", *p): line for p, line in base.lines.items()}
    check_partial(Recipe, Located({"base": base.data}, lines, base.file), ("base",))
    resolved: list[tuple[dict[str, str], Recipe]] = []
    known: dict[str, Section] = {}
    for levels, data in _combinations(base, list(axes.items()), {}):
        dropped = any(all(levels[a] == v for a, v in entry.items()) for entry in excluded)
        if not dropped or levels in included:
            resolved.append((levels, _recipe(data, known)))
    for seed in head.seeds:
        for levels, recipe in resolved:
            yield Cell(levels, seed, recipe)


def _combinations(
    data: Located, axes: list[tuple[str, list[Level]]], levels: dict[str, str]
) -> Iterator[tuple[dict[str, str], Located]]:
    """Every combination of levels with the base recipe patched by it, the last axis fastest."""
    if not axes:
        yield levels, data
        return
    axis, found = axes[0]
    for level in found:
        yield from _combinations(
            data.merged(_with_long_model(level.patch)), axes[1:], {**levels, axis: level.name}
        )


def _recipe(data: Located, known: dict[str, Section]) -> Recipe:
    """The validated recipe. Sections that another cell has in common are in `known`, and validated once."""
    sections = {}
    for name, value in data.data.items():
        field = Recipe.model_fields.get(name)
        key = f"{name} {value!r}"
        if key not in known and field is not None and isinstance(field.annotation, type):
            with contextlib.suppress(ValidationError):  # reported below, with its place
                known[key] = field.annotation.model_validate(value)
        sections[name] = known.get(key, value)
    try:
        return Recipe.model_validate(sections)
    except ValidationError:
        lines = {("base", *p): line for p, line in data.lines.items()}
        return validated(Recipe, Located({"base": data.data}, lines, data.file), ("base",))


def _with_long_model(patch: Located) -> Located:
    model = patch.data.get("model")
    if not isinstance(model, str):
        return patch
    lines = {**patch.lines, ("model", "name"): patch.line(("model",)) or 1}
    return Located({**patch.data, "model": {"name": model}}, lines, patch.file)
