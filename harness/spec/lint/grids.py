"""A grid under the rules: its runs as runs, and what only the whole matrix shows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from harness.spec.grid import Cell, Grid
from harness.spec.identity import flattened, run_identity
from harness.spec.lint import reward_rules, rules
from harness.spec.lint.finding import Finding, Place, Severity
from harness.spec.lint.run_settings import RunSettings
from harness.spec.recipe import Recipe
from harness.spec.source import Path_
from kernels.grpo_loss.objective import VARIANTS

PATHS: dict[str, Path_] = {
    "rate": ("optimizer", "learning_rate"),
    "warmup": ("optimizer", "warmup_steps"),
    "inner": ("training", "inner_epochs"),
    "beta": ("objective", "beta"),
    "group": ("rollout", "completions_per_prompt"),
    "cap": ("rollout", "max_completion_tokens"),
    "temperature": ("rollout", "temperature"),
    "logprob_temperature": ("training", "logprob_temperature"),
    "top_p": ("rollout", "top_p"),
    "reward": ("reward", "functions"),
}
"""Where a concept stands in a recipe."""
CLIP_FIELDS = ("clip_low", "clip_high", "delta", "cispo_max")
KL_FIELDS = ("kl", "kl_ratio")
MANY_CHECKPOINTS = 5
"""From so many checkpoints of one run on, picking the best of them is a finding to answer for."""


def grid_findings(
    grid: Grid, contexts: Mapping[str, int] | None = None, parameters: Mapping[str, int] | None = None
) -> list[Finding]:
    """What the file alone shows, before waivers.

    Args:
        grid: the grid.
        contexts: context length by model name, where it is known.
        parameters: of a model by its name, where they are known.
    """
    cells = [cell for cell in grid.cells if cell.seed == grid.head.seeds[0]]
    runs = [settings_of(grid, cell) for cell in cells]
    found = rules.findings(runs) + reward_rules.findings(runs)
    found += rules.lengths(runs, contexts) if contexts else []
    found += rules.rate(runs, parameters)
    return [*dict.fromkeys(found), *same_runs(grid, cells), *evaluation(grid, cells)]


def settings_of(grid: Grid, cell: Cell) -> RunSettings:
    """A cell as the rules see it."""
    recipe = cell.recipe
    places = {name: _place(grid, cell, path) for name, path in PATHS.items()}
    stated = {name for name, path in PATHS.items() if _stated(grid, cell, path)}
    for name, fields in (("clip", CLIP_FIELDS), ("kl", KL_FIELDS)):
        for field in fields:
            if _stated(grid, cell, ("objective", field)):
                stated.add(name)
                places.setdefault(name, _place(grid, cell, ("objective", field)))
    places["checkpoints"] = _steps_place(grid, cell)
    return RunSettings(
        file=grid.file,
        places=places,
        names={name: ".".join(map(str, path)) for name, path in PATHS.items()}
        | {"fix_temperature": "remove `training.logprob_temperature`: log-probs then follow the rollout's"},
        steps=recipe.training.steps,
        horizon=recipe.optimizer.schedule_steps or recipe.training.steps,
        optimizer=recipe.optimizer,
        checkpoints=(recipe.training.steps,),
        updates=recipe.training.inner_epochs * recipe.training.minibatches,
        loss=recipe.objective.loss,
        beta=recipe.objective.beta,
        group=recipe.rollout.completions_per_prompt,
        prompts=recipe.rollout.prompts_per_step,
        cap=recipe.rollout.max_completion_tokens,
        prompt_cap=recipe.prompt.max_tokens,
        model=recipe.model.name,
        lora=recipe.model.lora is not None,
        temperature=recipe.rollout.temperature,
        logprob_temperature=recipe.logprob_temperature,
        top_p=recipe.rollout.top_p,
        reward=recipe.reward,
        reward_places=tuple(
            _place(grid, cell, ("reward", "functions", i)) for i in range(len(recipe.reward.functions))
        ),
        stated=frozenset(stated),
    )


def _place(grid: Grid, cell: Cell, path: Path_) -> Place:
    key, line = grid.where(cell, path)
    return Place(key=key, line=line)


def _steps_place(grid: Grid, cell: Cell) -> Place:
    """The steps axis as a whole, where there is one."""
    for axis in grid.steps_axes:
        return Place(key=f"axes.{axis}", line=grid.located.line(("axes", axis)))
    return _place(grid, cell, ("training", "steps"))


def _stated(grid: Grid, cell: Cell, path: Path_) -> bool:
    if any(
        level.sets(path)
        for axis, name in cell.levels.items()
        for level in grid.axes[axis]
        if level.name == name
    ):
        return True
    data = grid.located.data["base"]
    for key in path:
        if not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True


def same_runs(grid: Grid, cells: list[Cell]) -> Iterator[Finding]:
    """Cells that differ in nothing that has an effect."""
    seen: dict[tuple[str, int], Cell] = {}
    for cell in cells:
        twin = seen.setdefault((_effective_digest(cell.recipe), cell.recipe.training.steps), cell)
        if twin is cell:
            continue
        fields = _differences(twin.recipe, cell.recipe)
        axes = [axis for axis in cell.levels if cell.levels[axis] != twin.levels[axis]]
        effect = f"[{twin.label}] and [{cell.label}] are one and the same experiment"
        if fields:
            effect += f": {', '.join(fields)} has no effect under these settings"
        yield Finding(
            rule="same-run",
            severity="error",
            file=grid.file,
            place=Place(
                key=f"axes.{axes[0]}" if axes else "include", line=grid.located.line(("axes", *axes[:1]))
            ),
            effect=effect,
            instead="let the levels differ in something that changes training, or remove one",
        )


def effective(recipe: Recipe) -> Recipe:
    """The recipe with fields that have no effect under its settings at their defaults."""
    idle: dict[str, set[str]] = {"objective": set(), "optimizer": set()}
    objective, training = recipe.objective, recipe.training
    if training.inner_epochs * training.minibatches == 1 or VARIANTS[objective.loss].surrogate != "clip":
        idle["objective"] |= {"clip_low", "clip_high", "delta"}
    for family, fields in (("cispo", {"cispo_max"}), ("sapo", _named("sapo_")), ("vespo", _named("vespo_"))):
        if objective.loss != family:
            idle["objective"] |= fields
    if objective.beta == 0:
        idle["objective"] |= set(KL_FIELDS)
    if objective.importance == "none":
        idle["objective"].add("importance_cap")
    if recipe.optimizer.schedule == "constant":
        idle["optimizer"] |= {"min_learning_rate_ratio", "schedule_steps"}
    update: dict[str, BaseModel] = {}
    for section, names in idle.items():
        now = getattr(recipe, section)
        defaults = {name: type(now).model_fields[name].default for name in names}
        update[section] = now.model_copy(update=defaults)
    return recipe.model_copy(update=update)


def _named(prefix: str) -> set[str]:
    from harness.spec.objective import ObjectiveSpec

    return {name for name in ObjectiveSpec.model_fields if name.startswith(prefix)}


def _effective_digest(recipe: Recipe) -> str:
    content = json.dumps([source.model_dump(mode="json") for source in recipe.data.sources])
    model = recipe.model.model_dump_json()
    return run_identity(effective(recipe), 0, model_fingerprint=model, data_fingerprint=content).digest


def _differences(one: Recipe, other: Recipe) -> list[str]:
    first, second = flattened(one.model_dump(mode="json")), flattened(other.model_dump(mode="json"))
    return sorted(name for name in first if first[name] != second.get(name))


def evaluation(grid: Grid, cells: list[Cell]) -> Iterator[Finding]:
    """What the evaluation cannot show."""
    evaluate = grid.head.evaluate

    def finding(rule: str, severity: Severity, path: Path_, effect: str, instead: str) -> Finding:
        key = ".".join(map(str, path))
        place = Place(key=key, line=grid.located.line(path))
        return Finding(
            rule=rule, severity=severity, file=grid.file, place=place, effect=effect, instead=instead
        )

    if evaluate.samples == 1 and evaluate.temperature > 0:
        yield finding(
            "one-sample",
            "warning",
            ("evaluate", "samples"),
            f"one sample a question at temperature {evaluate.temperature:g}: the chance of sampling is as large "
            "as can be, and cannot be told from the effect of training",
            "4 or more samples, fewer questions' worth of time",
        )
    longest = max(cell.recipe.rollout.max_completion_tokens for cell in cells)
    if evaluate.max_completion_tokens < longest:
        yield finding(
            "evaluation-cap",
            "warning",
            ("evaluate", "max_completion_tokens"),
            f"evaluation cuts off at {evaluate.max_completion_tokens} tokens what training allows up to {longest}",
            f"{longest} or more",
        )
    yield from _small(grid, cells, finding)
    yield from _selection(grid, finding)


def _small(grid: Grid, cells: list[Cell], finding: Any) -> Iterator[Finding]:
    """Benchmarks on which no number of runs would show the effect that the grid asks about."""
    from harness.stats.power import ASSUMED, detectable_effect, planned_error

    head = grid.head
    many = 10**6
    for index, benchmark in enumerate(head.evaluate.benchmarks):
        if benchmark.questions is None:
            continue
        error = planned_error(
            ASSUMED, runs=many, questions=benchmark.questions, samples=head.evaluate.samples
        )
        limit = detectable_effect(error, many, alpha=head.verdict.alpha, power=head.verdict.power)
        if limit > head.verdict.delta:
            enough = math.ceil(benchmark.questions * (limit / head.verdict.delta) ** 2)
            yield finding(
                "small-benchmark",
                "warning",
                ("evaluate", "benchmarks", index),
                f"{benchmark.name} has {benchmark.questions} questions: effects below {limit:.1%} cannot be shown on "
                f"it with any number of seeds, and the grid asks about {head.verdict.delta:.1%}",
                f"about {enough} questions, or read it only together with the others",
            )


def _selection(grid: Grid, finding: Any) -> Iterator[Finding]:
    """Runs that are evaluated at many checkpoints, of which the best may be picked."""
    axes = grid.steps_axes
    counts = [len(grid.axes[axis]) for axis in axes]
    looked_at = len(grid.cells)
    if not counts or max(counts) < 2:
        return
    from harness.stats.bestof import expected_normal_maximum

    smallest = min((b.questions for b in grid.head.evaluate.benchmarks if b.questions), default=None)
    gain = ""
    if smallest:
        spread = math.sqrt(0.25 / (smallest * grid.head.evaluate.samples))
        points = 100 * spread * expected_normal_maximum(looked_at)
        gain = (
            f"; on {smallest} questions the best of {looked_at} identical checkpoints is expected up to "
            f"{points:.0f} points above their mean"
        )
    yield finding(
        "best-of-checkpoints",
        "warning" if max(counts) >= MANY_CHECKPOINTS else "info",
        ("axes", axes[counts.index(max(counts))]),
        f"{looked_at} checkpoints are evaluated on the questions that the report is about{gain}",
        "name the checkpoint that counts before looking, or read the report's best-of guard beside the best one",
    )
