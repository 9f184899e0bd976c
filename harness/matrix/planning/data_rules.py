"""A file under every rule of the linter: those of `harness.spec.lint`, and those that look at models and data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.curation.text import compared
from harness.data.mix import build_benchmark, build_mix
from harness.data.references import FEW, listed_rows, shortened, solution_mark, whole_solutions
from harness.data.sources import Loaded, SourceNotFound, Split, UnusableData, read_source, usable
from harness.matrix.planning.preflight import SOLUTION_RULE
from harness.matrix.planning.prompt_rules import prompt_findings
from harness.models.architecture import Architecture
from harness.models.catalog import ModelSource, resolve_model
from harness.models.errors import ModelNotFound
from harness.models.known import known_architecture
from harness.rewards.answers import AnswerChecker
from harness.spec.data import DataSpec, FileSource, HubSource, SourceSpec
from harness.spec.errors import SpecError
from harness.spec.grid import Grid, load_grid
from harness.spec.lint import grids, rules, trl_recipes, trl_rules, trl_settings
from harness.spec.lint.finding import Finding, Place, ordered, with_waivers
from harness.spec.recipe import RewardSpec
from harness.spec.source import Path_, read_pyyaml, read_yaml

GOLDS = 300
"""Reference answers that are looked at, per source."""


@dataclass(frozen=True)
class Linted:
    """What was found in a file.

    Attributes:
        findings: errors first, waived ones last.
        notes: what could not be looked at, and why.
        rewards: the file's rewards by name, each with its length cap: what `--plot` draws.
    """

    findings: list[Finding]
    notes: list[str] = field(default_factory=list)
    rewards: dict[str, tuple[RewardSpec, int]] = field(default_factory=dict)


def lint_file(file: str | Path) -> Linted:
    """A grid, or a recipe of trl or open-r1, under every rule.

    Raises:
        SpecError: the file is neither, or wrong in a way that is no matter of opinion.
    """
    if is_recipe(file):
        return _trl_recipe(file)
    try:
        grid = load_grid(file)
    except SpecError as error:
        if "unknown key" not in error.message:
            raise
        return Linted([_unknown_key(error)])
    return lint_grid(grid)


def is_recipe(file: str | Path) -> bool:
    """Whether a file is a recipe of trl, which PyYAML reads, or else a grid.

    Raises:
        SpecError: it is a recipe, and PyYAML cannot read it.
    """
    try:
        return trl_recipes.is_trl_recipe(read_pyyaml(file).data)
    except SpecError as error:
        with contextlib.suppress(SpecError):
            if trl_recipes.is_trl_recipe(read_yaml(file).data):
                raise error
    return False


def _trl_recipe(file: str | Path) -> Linted:
    recipe = trl_recipes.load_trl_recipe(file)
    place = Place(key="# lint: waive")
    run = trl_settings.settings_of(recipe)
    found = trl_rules.trl_findings(recipe)
    known = known_architecture(run.model)
    found += rules.rate([run], {run.model: known.parameters} if known else None)
    found += rules.lengths([run], {run.model: known.context_tokens}) if known else []
    found = with_waivers(found, recipe.waivers, file=recipe.file, place=place)
    rewards = (
        {Path(file).stem: (run.reward, run.cap)} if run.reward is not None and run.reward_complete else {}
    )
    return Linted(found, trl_rules.notes_on(recipe), rewards)


def _unknown_key(error: SpecError) -> Finding:
    key = error.message.partition(":")[0]
    return Finding(
        rule="unknown-key",
        severity="error",
        file=str(error.file),
        place=Place(key=key, line=error.line),
        effect="nothing reads this key: the grid is refused",
        instead=error.hint or "remove it",
    )


def lint_grid(grid: Grid) -> Linted:
    """A grid under every rule, with its waivers."""
    notes: list[str] = []
    known = _architectures(grid, notes)
    found = grids.grid_findings(
        grid,
        contexts={name: model.context_tokens for name, model in known.items()},
        parameters={name: model.parameters for name, model in known.items()},
    )
    found += prompt_findings(grid)
    found += unreadable_references(grid, notes)
    found += _overlaps(grid, notes)
    place = Place(key="lint.waive", line=grid.located.line(("lint", "waive")))
    waived = with_waivers(found, grid.head.lint.waive, file=grid.file, place=place)
    return Linted(ordered(waived), notes, _rewards(grid))


def before_spending(linted: Linted) -> list[str]:
    """Unwaived lint errors and warnings to print before a run, minus those that the plan itself prints."""
    return [
        str(found)
        for found in linted.findings
        if found.waived is None and found.severity != "info" and found.rule != "same-run"
    ]


def lint_json(linted: Linted) -> dict[str, object]:
    """Every finding, waived ones too, as the report of the study lists them: `lint.json` of an output folder."""
    rows = [
        {
            "severity": f.severity,
            "rule": f.rule,
            "message": f"{f.place.key}: {f.effect}; {f.instead}"
            + (f" (kept: {f.waived})" if f.waived else ""),
        }
        for f in linted.findings
    ]
    return {"findings": rows}


def _rewards(grid: Grid) -> dict[str, tuple[RewardSpec, int]]:
    rewards: dict[str, tuple[RewardSpec, int]] = {}
    seen: set[tuple[str, int]] = set()
    for cell in grid.cells:
        reward, cap = cell.recipe.reward, cell.recipe.rollout.max_completion_tokens
        if (key := (reward.model_dump_json(), cap)) not in seen:
            seen.add(key)
            names = " + ".join(f"{f.weight:g} {f.name}" for f in reward.functions)
            rewards[f"{names} (cap {cap})"] = (reward, cap)
    return rewards


def _architectures(grid: Grid, notes: list[str]) -> dict[str, Architecture | ModelSource]:
    architectures: dict[str, Architecture | ModelSource] = {}
    for spec in {cell.recipe.model.name: cell.recipe.model for cell in grid.cells}.values():
        try:
            architectures[spec.name] = known_architecture(spec.name) or resolve_model(spec)
        except ModelNotFound as error:
            told = f"{error.message} ({error.hint})" if error.hint else error.message
            notes.append(f"{told}; its context and prompts were not looked at")
    return architectures


def unreadable_references(grid: Grid, notes: list[str]) -> Iterator[Finding]:
    """Reference answers that no answer can equal: whole solutions, and what the answer checker cannot read.

    Raises:
        SpecError: a source cannot be used, at its line.
    """
    sources: dict[str, tuple[SourceSpec, Split, int, Place]] = {}
    for cell in grid.cells:
        for index, source in enumerate(cell.recipe.data.sources):
            key, line = grid.where(cell, ("data", "sources", index))
            sources.setdefault(source.model_dump_json(), (source, "train", 0, Place(key=key, line=line)))
    for index, benchmark in enumerate(grid.head.evaluate.benchmarks):
        path: Path_ = ("evaluate", "benchmarks", index)
        place = Place(key=f"evaluate.benchmarks[{index}]", line=grid.located.line(path))
        key = benchmark.source.model_dump_json() + f" {benchmark.seed}"
        sources.setdefault(key, (benchmark.source, "test", benchmark.seed, place))
    with AnswerChecker() as checker:
        for source, split, seed, place in sources.values():
            # What is stored is looked at whole, as far as that takes no algebra.
            count = None if isinstance(source, FileSource | HubSource) else GOLDS
            try:
                loaded = usable(source, read_source(source, split=split, count=count, seed=seed))
            except UnusableData as error:
                raise SpecError(
                    f"{place.key}: {error.message}", file=grid.file, line=place.line, hint=error.hint
                ) from None
            except SourceNotFound as error:
                notes.append(f"{error.message}; its answers were not looked at")
                continue
            if loaded.stored is not None and (dropped := loaded.stored.dropped()) is not None:
                notes.append(dropped)
            yield from _solutions(grid, source, loaded, place)
            yield from _unparsable(grid, loaded, checker, place)


def _solutions(grid: Grid, source: SourceSpec, loaded: Loaded, place: Place) -> Iterator[Finding]:
    if loaded.stored is None or not isinstance(source, FileSource | HubSource):
        return
    stored = loaded.stored
    found = whole_solutions(
        stored.problems, column=stored.columns.answer, unit=stored.unit, pattern=source.answer_pattern
    )
    if found is not None:
        yield Finding(
            rule=SOLUTION_RULE,
            severity="error" if found.grave else "warning",
            file=grid.file,
            place=place,
            effect=found.effect,
            instead=found.instead,
        )


def _unparsable(grid: Grid, loaded: Loaded, checker: AnswerChecker, place: Place) -> Iterator[Finding]:
    problems = [p for p in loaded.problems if solution_mark(p.answer) is None][:GOLDS]
    checks = checker.check_many([("\\boxed{0}", problem.answer) for problem in problems])
    bad = [p for p, c in zip(problems, checks, strict=True) if c.reason == "unparsable reference"]
    if bad:
        unit = None if loaded.stored is None else loaded.stored.unit
        rows = f" ({listed_rows(unit, sorted(problem.row for problem in bad))})" if unit else ""
        yield Finding(
            rule="gold-unparsable",
            severity="error" if len(bad) > len(problems) // FEW else "warning",
            file=grid.file,
            place=place,
            effect=f"{len(bad)} of {len(problems)} reference answers cannot be parsed, such as "
            f"{shortened(bad[0].answer)}: only the same text word for word is right{rows}",
            instead="answers as numbers, LaTeX or plain words; or drop these questions",
        )


def _overlaps(grid: Grid, notes: list[str]) -> Iterator[Finding]:
    """Benchmark questions that are trained on."""
    benchmarks: dict[str, tuple[int, dict[tuple[str, ...], str]]] = {}
    for index, benchmark in enumerate(grid.head.evaluate.benchmarks):
        try:
            benchmarks[benchmark.name] = (
                index,
                {compared(p.question): p.question for p in build_benchmark(benchmark)},
            )
        except SpecError:  # reported with the answers
            continue
    mixes: dict[str, tuple[DataSpec, Place]] = {}
    for cell in grid.cells:
        key, line = grid.where(cell, ("data", "sources"))
        mixes.setdefault(cell.recipe.data.model_dump_json(), (cell.recipe.data, Place(key=key, line=line)))
    for data, place in mixes.values():
        try:
            trained = {compared(problem.question) for problem in build_mix(data).problems}
        except SpecError:
            continue
        for name, (_, questions) in benchmarks.items():
            if common := trained & questions.keys():
                example = questions[min(common)]
                yield Finding(
                    rule="train-test-overlap",
                    severity="error",
                    file=grid.file,
                    place=place,
                    effect=f"{len(common)} of {len(questions)} questions of {name} are trained on, such as "
                    f"{shortened(example)}: its accuracy measures memory",
                    instead="another source or split, or questions that `python -m harness.curate` decontaminated",
                )
