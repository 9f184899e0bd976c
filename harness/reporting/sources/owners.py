"""Whose results a file holds: its model's, or whose the command line says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.reporting.sources.choices import Choices, RunChoice
from harness.reporting.sources.reading_notes import ReadingNotes, few
from harness.reporting.sources.result_file import ResultFile
from harness.spec.errors import SpecError


@dataclass(frozen=True)
class Owner:
    """Whose results a file holds: a run, the checkpoint of it, and which evaluation of that."""

    run: str
    seed: int | None
    step: int | None
    eval_seed: int | None
    levels: Mapping[str, str]


def owners_of(read: Sequence[ResultFile], choices: Choices, notes: ReadingNotes) -> list[Owner]:
    """The run of every file, in their order.

    A file that names no step is no checkpoint of a run whose other files do, for it may be of any: it is a model of
    its own, which is noted.

    Raises:
        SpecError: a file names no model, or no level of an axis that other files have.
    """
    said = [choices.run(file.path) for file in read]
    axes = list(dict.fromkeys(axis for choice in said if choice for axis in choice.levels))
    models = _model_names(read)
    owners: list[Owner] = []
    for file, choice, model in zip(read, said, models):
        levels = dict(choice.levels) if choice else {}
        missing = [axis for axis in axes if axis not in levels]
        if missing:
            raise SpecError(
                f"no level of `{missing[0]}`, which --run gives other files", file=file.path,
                hint=f"say it of every file: --run {file.path}=NAME,{missing[0]}=LEVEL",
            )  # fmt: skip
        name = choice.name if choice and choice.name else model
        if not name:
            raise SpecError("names no model", file=file.path, hint=f"say whose it is: --run {file.path}=NAME")
        said_so = choice or RunChoice("")
        owners.append(Owner(name, said_so.seed, said_so.step, said_so.eval_seed, levels or {"model": name}))
    with_step = [owner.step is not None or _has_step(file) for file, owner in zip(read, owners)]
    checkpoints = {owner.run for owner, known in zip(owners, with_step) if known}
    for i, (file, owner) in enumerate(zip(read, owners)):
        if owner.run in checkpoints and not with_step[i]:
            name = f"{owner.run} (no step)"
            levels = {axis: name if level == owner.run else level for axis, level in owner.levels.items()}
            owners[i] = replace(owner, run=name, levels=levels)
            notes.beware.append(
                f"{file.path} names no step, other files of {owner.run} do: it is read as a model of its own; "
                f"--run {file.path}={owner.run},step=N makes it a checkpoint"
            )
    return owners


def _has_step(file: ResultFile) -> bool:
    named = file.model is not None and file.model.step is not None
    return named or any(task.step is not None for task in file.tasks)


def _model_names(read: Sequence[ResultFile]) -> list[str]:
    """Names of the files' models. Weights of one name that were downloaded at two commits are two models."""
    shas: dict[tuple[str, int | None], set[str]] = {}
    for file in read:
        if file.model and file.model.sha:
            shas.setdefault((file.model.run, file.model.step), set()).add(file.model.sha)
    folders = [file.path.resolve().parent for file in read if file.model is None]
    names = []
    for file in read:
        model = file.model
        if model is None:
            # lm-eval and lighteval keep each model's results in a folder of its name.
            parent = file.path.resolve().parent
            names.append(parent.name if folders.count(parent) == 1 else "")
        elif model.sha and len(shas[model.run, model.step]) > 1:
            names.append(f"{model.run}@{model.sha[:7]}")
        else:
            names.append(model.run)
    return names


def owner_text(file: ResultFile, owner: Owner, steps: set[int]) -> str:
    """A file, and the run and checkpoints that it is read as."""
    said = [f"{axis}={level}" for axis, level in owner.levels.items() if level != owner.run]
    said += [f"seed {owner.seed}"] if owner.seed is not None else []
    said += [f"evaluation {owner.eval_seed}"] if owner.eval_seed is not None else []
    if steps != {1} or owner.step is not None:
        said.append(f"step {few(str(s) for s in sorted(steps))}")
    return f"{file.path} ({file.tool}): {', '.join([owner.run, *said])}"
