"""Checks of a grid against the world, before anything is written: models, data, rewards, lengths, output folder."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.data.errors import SourceNotFound
from harness.data.mix import build_benchmark
from harness.data.references import WholeSolutions, whole_solutions
from harness.data.sources import check_rows, check_source, source_fingerprint
from harness.data.templates import PromptFacts, PromptRefused, prompt_facts
from harness.matrix.planning.offline_fallback import PREFIX, assumed_fingerprint, assumed_model
from harness.models.catalog import ModelSource, resolve_model
from harness.models.converted import check_convertible
from harness.models.errors import ModelNotFound
from harness.rewards.code import Parts, code_fields
from harness.rewards.composite import resolved
from harness.rewards.errors import RewardFailed, UnknownReward
from harness.spec.data import FileSource, HubSource, SourceSpec
from harness.spec.engines import FIRST_ENGINE
from harness.spec.errors import SpecError
from harness.spec.evaluation import BenchmarkSpec
from harness.spec.grid import Cell, Grid
from harness.spec.identity import Identity
from harness.spec.prompt import PromptSpec
from harness.spec.recipe import ModelSpec, RewardSpec
from harness.spec.source import Path_, dotted
from harness.store.errors import Damaged, StoreError
from harness.store.folders import Store
from harness.store.schema import load

SOLUTION_RULE = "gold-solution"
"""The linter's rule about references that are whole solutions."""


@dataclass
class ResolvedInputs:
    """What a grid names, looked up once each: models, data sources, rewards.

    Attributes:
        planning: nothing is to be run, so a hub that cannot be reached may be planned without.
        assumed_models: hub models whose dimensions were taken for granted.
        assumed_data: hub datasets whose content was.
        data_warnings: rows that are dropped, and references that no answer can equal but that are waived.
    """

    planning: bool = False
    assumed_models: list[str] = field(default_factory=list)
    assumed_data: list[str] = field(default_factory=list)
    data_warnings: list[str] = field(default_factory=list)
    _solutions: dict[str, WholeSolutions | None] = field(default_factory=dict)
    _models: dict[str, ModelSource] = field(default_factory=dict)
    _data: dict[str, str] = field(default_factory=dict)
    _prompts: dict[tuple[str, str], PromptFacts | None] = field(default_factory=dict)
    _code: dict[str, dict[str, Parts]] = field(default_factory=dict)
    _passed: set[str] = field(default_factory=set)
    _evaluations: dict[str, dict[str, Identity]] = field(default_factory=dict)

    def model(self, spec: ModelSpec) -> ModelSource:
        """The model; raises `ModelNotFound`."""
        key = spec.model_dump_json()
        if key not in self._models:
            try:
                self._models[key] = resolve_model(spec)
            except ModelNotFound:
                if not self.planning or (assumed := assumed_model(spec)) is None:
                    raise
                self._models[key] = assumed
                self.assumed_models.append(spec.name)
        return self._models[key]

    def prompt(self, prompt: PromptSpec, spec: ModelSpec) -> PromptFacts | None:
        """What a model's chat template makes of a prompt; None where that is not known yet.

        Raises:
            PromptRefused: the template does not render it as it was meant.
        """
        key = prompt.model_dump_json(), spec.model_dump_json()
        if key not in self._prompts:
            self._prompts[key] = prompt_facts(prompt, self.model(spec))
        return self._prompts[key]

    def prompt_notes(self) -> list[str]:
        """What is worth knowing of the prompts that were looked at."""
        moved = sorted(
            {
                json.loads(spec)["name"]
                for (_, spec), facts in self._prompts.items()
                if facts is not None and facts.system_moved
            }
        )
        return [
            f"The chat template of {name} puts the system message into the user's turn." for name in moved
        ]

    def fingerprint(self, source: SourceSpec) -> str:
        """Digest of a source's content; raises `SourceNotFound`."""
        key = source.model_dump_json()
        if key not in self._data:
            try:
                check_source(source)
                self._solutions[key] = self._check_rows(source)
                self._data[key] = source_fingerprint(source)
            except SourceNotFound:
                if not self.planning or (assumed := assumed_fingerprint(source)) is None:
                    raise
                self._data[key] = assumed
                self.assumed_data.append(assumed.removeprefix(PREFIX).rpartition("@")[0])
        return self._data[key]

    def _check_rows(self, source: SourceSpec) -> WholeSolutions | None:
        """Reads a file or a cached hub dataset in full; references of it that no answer can equal."""
        if (stored := check_rows(source)) is None or not isinstance(source, FileSource | HubSource):
            return None
        if (dropped := stored.dropped()) is not None:
            self.data_warnings.append(dropped)
        return whole_solutions(
            stored.problems, column=stored.columns.answer, unit=stored.unit, pattern=source.answer_pattern
        )

    def check_references(self, source: SourceSpec, waivers: Mapping[str, str]) -> None:
        """Whether answers can equal the references of a source that was looked up.

        Raises:
            SourceNotFound: more than a few of them are whole solutions, and the grid does not waive it.
        """
        found = self._solutions.get(source.model_dump_json())
        if found is None:
            return
        if found.grave and SOLUTION_RULE not in waivers:
            raise SourceNotFound(found.effect, found.instead)
        if found.effect not in self.data_warnings:
            self.data_warnings.append(found.effect)

    def reward_code(self, spec: RewardSpec) -> dict[str, Parts]:
        """Identity fields of the code behind the user's own rewards; raises `UnknownReward`."""
        key = spec.model_dump_json()
        if key not in self._code:
            self._code[key] = code_fields([function.name for function in spec.functions])
        return self._code[key]

    def evaluations(self, key: str, make: Callable[[], dict[str, Identity]]) -> dict[str, Identity]:
        """Identities of the benchmarks under what `key` names, made once."""
        if key not in self._evaluations:
            self._evaluations[key] = make()
        return self._evaluations[key]

    def once(self, key: str, check: Callable[[], object]) -> None:
        """Makes a check that depends on `key` alone, the first time."""
        if key not in self._passed:
            check()
            self._passed.add(key)


def located(grid: Grid, cell: Cell, path: Path_, message: str, hint: str | None = None) -> SpecError:
    """An error about a field of a cell's recipe, at the line that gave the field its value.

    Args:
        grid: the grid.
        cell: one of its cells.
        path: of the field in the recipe.
        message: what is wrong with it.
        hint: how to mend it.
    """
    for axis, name in reversed(cell.levels.items()):
        level = next(v for v in grid.axes[axis] if v.name == name)
        if level.sets(path):
            text = f"axes.{axis}.{name}: {dotted(path)}: {message}"
            return SpecError(text, file=grid.file, line=level.patch.line(path), hint=hint)
    return grid.located.error(("base", *path), f"base.{dotted(path)}: {message}", hint)


def resolve_inputs(grid: Grid, world: ResolvedInputs) -> None:
    """Checks every cell's model, data, rewards and lengths, and the benchmarks.

    Raises:
        SpecError: at the line that is to be mended.
    """
    for index, benchmark in enumerate(grid.head.evaluate.benchmarks):
        _check_benchmark(grid, world, index, benchmark)
    for cell in grid.cells:
        # Seeds repeat the same recipes; what passed for one seed passes for all.
        if cell.seed == grid.head.seeds[0]:
            _check_cell(grid, world, cell)


def _check_benchmark(grid: Grid, world: ResolvedInputs, index: int, benchmark: BenchmarkSpec) -> None:
    path: Path_ = ("evaluate", "benchmarks", index, "source")
    try:
        world.fingerprint(benchmark.source)
        world.check_references(benchmark.source, grid.head.lint.waive)
        if benchmark.source.source != "hub":  # which would be downloaded for it
            build_benchmark(benchmark)
    except (SourceNotFound, SpecError) as error:
        message, hint = _told(error)
        raise grid.located.error(path, f"{dotted(path)}: {message}", hint) from None


def _check_cell(grid: Grid, world: ResolvedInputs, cell: Cell) -> None:
    recipe = cell.recipe
    _check_engine(grid, cell, planning=world.planning)
    if not world.planning:
        _check_extras(grid, cell)
    try:
        model = world.model(recipe.model)
        if not world.planning:
            world.once(f"convert {recipe.model.name}", lambda: check_convertible(model))
    except ModelNotFound as error:
        raise located(grid, cell, ("model", "name"), *_told(error)) from None
    for index, source in enumerate(recipe.data.sources):
        try:
            world.fingerprint(source)
            world.check_references(source, grid.head.lint.waive)
        except SourceNotFound as error:
            raise located(grid, cell, ("data", "sources", index), *_told(error)) from None
    try:
        world.once(recipe.reward.model_dump_json(), lambda: _check_rewards(world, recipe.reward))
    except UnknownReward as error:
        raise reward_error(grid, cell, error) from None
    _check_prompts(grid, world, cell)
    _check_lengths(grid, cell, model)


def _check_rewards(world: ResolvedInputs, spec: RewardSpec) -> None:
    """Whether built-in rewards are there and take their parameters, and the user's own modules are there."""
    for function in spec.functions:
        if ":" in function.name:
            world.reward_code(spec)
        else:
            resolved(function)


def reward_error(grid: Grid, cell: Cell, error: UnknownReward | RewardFailed) -> SpecError:
    """What is wrong with one of a cell's rewards, at its line."""
    return located(grid, cell, _reward_path(cell, str(error)), *_told(error))


def _check_prompts(grid: Grid, world: ResolvedInputs, cell: Cell) -> None:
    """The prompt of training, and the one that is evaluated under where it is another."""
    recipe, own = cell.recipe, grid.head.evaluate.prompt
    try:
        world.prompt(recipe.prompt, recipe.model)
    except PromptRefused as error:
        raise located(grid, cell, ("prompt", error.field), *_told(error)) from None
    try:
        if own is not None:
            world.prompt(own, recipe.model)
    except PromptRefused as error:
        message, hint = _told(error)
        at = ("evaluate", "prompt", error.field)
        raise grid.located.error(at, f"{dotted(at)}: {message}", hint) from None


def _check_extras(grid: Grid, cell: Cell) -> None:
    """Packages that a recipe needs and a plain installation lacks."""
    recipe = cell.recipe
    extras: list[tuple[Path_, bool, str, str]] = [
        (("model", "lora"), recipe.model.lora is not None, "peft", "leave it out"),
        (("model", "liger"), recipe.model.liger, "liger_kernel", "leave it out"),
        (("optimizer", "name"), recipe.optimizer.name == "adamw_8bit", "bitsandbytes", "use `adamw`"),
    ]
    for path, wanted, package, otherwise in extras:
        if wanted and importlib.util.find_spec(package) is None:
            name = package.replace("_", "-")
            message = f"{name} is not installed here"
            raise located(grid, cell, path, message, f"pip install {name}, or {otherwise}")


def _check_engine(grid: Grid, cell: Cell, *, planning: bool) -> None:
    """Whether the engine's package is installed, unless for a plan alone, and it samples at the temperatures."""
    engine = cell.recipe.rollout.traits
    if engine.package is not None and not planning and importlib.util.find_spec(engine.package) is None:
        hint = f"install it (README, {engine.title}), or use `{FIRST_ENGINE}`"
        raise located(grid, cell, ("rollout", "engine"), f"{engine.package} is not installed here", hint)
    if (most := engine.max_temperature) is None:
        return
    for section, value in (
        ("rollout", cell.recipe.rollout.temperature),
        ("evaluate", grid.head.evaluate.temperature),
    ):
        if value > most:
            message = f"{engine.title} samples at {most:g} at most, got {value:g}"
            hint = f"use `{FIRST_ENGINE}` for more"
            if section == "rollout":
                raise located(grid, cell, ("rollout", "temperature"), message, hint)
            raise grid.located.error(("evaluate", "temperature"), f"evaluate.temperature: {message}", hint)


def _told(error: Exception) -> tuple[str, str | None]:
    """Message and hint of a lookup that failed, each on one line."""
    message = " ".join(str(getattr(error, "message", error)).split())
    return message, " ".join(str(getattr(error, "hint", None) or "").split()) or None


def _reward_path(cell: Cell, message: str) -> Path_:
    """The path of the reward function that the message quotes, or of them all."""
    functions = cell.recipe.reward.functions
    named = [i for i, f in enumerate(functions) if f"'{f.name}'" in message or f'"{f.name}"' in message]
    return ("reward", "functions", *named[:1])


def _check_lengths(grid: Grid, cell: Cell, model: ModelSource) -> None:
    context, recipe, evaluate = model.context_tokens, cell.recipe, grid.head.evaluate
    cap, prompt = recipe.rollout.max_completion_tokens, recipe.prompt.max_tokens
    if prompt + cap > context:
        at: Path_ = ("rollout", "max_completion_tokens") if cap >= prompt else ("prompt", "max_tokens")
        raise located(grid, cell, at, *_too_long(cap, prompt, context, recipe.model.name, "rollout"))
    cap, prompt = evaluate.max_completion_tokens, (evaluate.prompt or recipe.prompt).max_tokens
    if prompt + cap > context:
        message, hint = _too_long(cap, prompt, context, recipe.model.name, "evaluate")
        at = ("evaluate", "max_completion_tokens")
        raise grid.located.error(at, f"{dotted(at)}: {message}", hint)


def _too_long(cap: int, prompt: int, context: int, model: str, section: str) -> tuple[str, str]:
    message = (
        f"a completion of {cap} tokens after a prompt of up to {prompt} goes beyond the {context} of {model}"
    )
    room = f"{section}.max_completion_tokens to at most {context - prompt}" if prompt < context else None
    return message, f"lower {room}, or prompt.max_tokens" if room else "lower prompt.max_tokens"


def check_output(grid: Grid, out: Path, *, given: bool) -> None:
    """Checks that `out` can hold this grid's results, without writing.

    Args:
        grid: the grid.
        out: the output folder, which need not exist.
        given: whether it was given by `--out`; else it follows from the grid's name.

    Raises:
        SpecError: it is not a folder, not writable, or holds something else.
    """

    def error(message: str, hint: str) -> SpecError:
        if given:
            return SpecError(f"--out {out}: {message}", hint=hint)
        return grid.located.error(("name",), f"name: output folder {out}: {message}", hint)

    existing = next(p for p in (out, *out.absolute().parents) if os.path.lexists(p))
    if not existing.is_dir():
        raise error(f"{existing} is not a folder", "choose another with --out")
    if not os.access(existing, os.W_OK | os.X_OK) or _read_only(existing):
        raise error(f"cannot write in {existing}", "choose another with --out, or change its permissions")
    if not out.exists() or not any(p for p in out.iterdir() if not p.name.startswith(".")):
        return
    store = Store(out)
    # Both have the name; the plan is much the smaller file, and written second.
    records = [record for record in (store.plan_file, store.grid_file) if record.exists()]
    if not records:
        raise error("holds something else than results", "choose an empty or new folder with --out")
    for record in records:
        try:
            there = load("output", record).get("name")
            break
        except Damaged as damaged:  # either can be written anew from the grid
            unreadable: StoreError = damaged
        except StoreError as newer:
            raise error(str(newer), "choose another with --out") from None
    else:
        raise error(str(unreadable), "choose another with --out")
    if there != grid.head.name:
        raise error(
            f"holds the results of grid {there!r}, not {grid.head.name!r}", "choose another with --out"
        )
    axes: set[str] = set()
    if store.plan_file.exists():
        with contextlib.suppress(Damaged):
            axes = {axis for cell in store.plan().cells for axis in cell.levels}
    # An edited grid has kept an axis at least.
    if axes and grid.axes and not axes & set(grid.axes):
        raise error(
            f"holds the results of another grid of this name, over {', '.join(sorted(axes))}",
            "choose another with --out, or give this grid a name of its own",
        )


def _read_only(folder: Path) -> bool:
    """Whether the file system refuses writes; root passes every permission check, so it is asked itself."""
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
