"""Why a cell would be rerun or reused, field by field."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

from harness.matrix.planning.planner import Plan, PlannedCell
from harness.rewards.code import CODE_FIELD, changed_parts
from harness.spec.errors import SpecError
from harness.store.folders import RunFolder, Store
from harness.store.job import RunJob

Difference = tuple[str, Any, Any]
"""A field of an identity, its value on file, and its value in the plan."""

ABSENT = "absent"
"""Stands for the value of a field that one of two identities lacks."""


def find_cell(plan: Plan, text: str) -> PlannedCell:
    """The cell that `text` names: `data=easy seed=0`, as many parts as single it out, or a run's id.

    Raises:
        SpecError: it names none, or several.
    """
    parts = text.replace(",", " ").split()
    known = {*plan.grid.axes, "seed"}
    for part in parts:
        axis = part.partition("=")[0]
        if "=" in part and axis not in known:
            close = difflib.get_close_matches(axis, known, n=1)
            hint = f'did you mean "{close[0]}"?' if close else f"axes: {', '.join(sorted(known))}"
            raise SpecError(f"--why {text}: no axis {axis!r}", hint=hint)
    matches = [c for c in plan.cells if all(p == c.run_id or p in c.cell.label.split() for p in parts)]
    distinct = {(c.run_id, c.step) for c in matches}
    if not matches:
        raise SpecError(f"--why {text}: no such cell", hint=f"such as {plan.cells[0].cell.label!r}")
    if len(distinct) > 1 and any("=" in p for p in parts):
        shown = "; ".join(c.cell.label for c in matches[:2])
        raise SpecError(f"--why {text}: {len(matches)} cells, such as {shown}", hint="name more axes")
    return matches[-1]


def explain(plan: Plan, cell: PlannedCell) -> list[str]:
    """Why the cell's run would be rerun, continued or reused, line by line."""
    store = Store(plan.out)
    job, folder = plan.job(cell.run_id), store.run(cell.run_id)
    lines = [f"[{cell.cell.label}] is step {cell.step} of run {cell.run_id}"]
    siblings = [c for c in plan.cells if c.run_id == cell.run_id and c is not cell]
    if siblings:
        lines.append(f"  which it shares with {len(siblings)} other cells: {siblings[0].cell.label}, …")
    diverged = folder.diverged_at()
    missing = [(step, name) for step, name in folder.missing(job) if step == cell.step]
    if not missing and diverged is not None and diverged <= cell.step:
        return [*lines, f"reused: the run diverged at step {diverged}, a result, and is not trained again"]
    if not missing:
        return [
            *lines,
            "reused: every identity field equals the run's on file, and all its evaluations are there",
        ]
    if not (folder.path / "run.json").exists():
        return [*lines, *_never_run(store, job)]
    lines.append(f"continued: the run is on file, but lacks {len(missing)} evaluations of step {cell.step}")
    if cell.step in (levels := folder.untrained(job)):
        start = max((step for step in folder.resumable_steps() if step < levels[0]), default=0)
        lines.append(f"  no checkpoint of step {cell.step} is on file: it is trained from step {start} on")
    return [*lines, *_evaluation_reasons(folder, job, missing)]


def _never_run(store: Store, job: RunJob) -> list[str]:
    """Compares with the nearest run on file."""
    nearest: tuple[list[Difference], RunJob] | None = None
    for folder in store.runs():
        if not (folder.path / "run.json").exists():
            continue
        other = folder.read_job()
        if other.kind == job.kind:
            changed = _differences(other.identity, job.identity)
            if nearest is None or len(changed) < len(nearest[0]):
                nearest = changed, other
    if nearest is None:
        return ["run: no run is on file yet"]
    changed, other = nearest
    lines = [f"run: no run on file has this identity; the nearest is {other.run_id} [{other.label}]"]
    if not changed:
        return [*lines, "  every field is equal: the version of the identity itself changed"]
    return [*lines, *(f"  {line}" for line in _reasons(changed, other, job))]


def _reasons(changed: list[Difference], other: RunJob, job: RunJob) -> list[str]:
    """The differences in words: of code and of a model's files by name, of everything else by value."""
    lines = []
    own = any(":" in function.name for function in other.recipe.reward.functions)
    unrecorded = own and not any(name.startswith(CODE_FIELD) for name in other.identity)
    if unrecorded:
        lines.append(
            "reward: this run was recorded without the reward's code: cannot tell whether it changed"
        )
    for name, old, new in changed:
        if name.startswith(CODE_FIELD):
            if not unrecorded:
                lines.append(_code_reason(name.removeprefix(CODE_FIELD), old, new))
        elif name == "model.content":
            lines.append(f"model.content: {_files_reason(other.model_files, job.model_files)}")
        else:
            lines.append(f"{name}: {_short(old)} there, {_short(new)} here")
    return lines


def _code_reason(module: str, old: Any, new: Any) -> str:
    if old == ABSENT or new == ABSENT:
        return f"reward: its module {module} is {'new' if old == ABSENT else 'no longer behind it'}"
    return f"reward: its module {module} was edited: {', '.join(changed_parts(old, new))}"


def _files_reason(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Which of a model's files changed."""
    if not old or not new:
        return "another model; this run was recorded without the model's files: cannot tell which of them changed"
    words = []
    for file in dict.fromkeys([*old, *new]):
        if old.get(file) != new.get(file):
            how = "is new" if file not in old else "is gone" if file not in new else "changed"
            words.append(f"{file} {how}")
    return ", ".join(words) or "the same files under another digest"


def _evaluation_reasons(folder: RunFolder, job: RunJob, missing: list[tuple[int, str]]) -> list[str]:
    before = folder.read_job()
    lines = []
    for step, name in missing:
        old = before.evaluation_identities.get(name)
        if old is None or before.evaluation_ids.get(name) == job.evaluation_ids[name]:
            lines.append(f"  {name}: not evaluated at step {step} yet")
            continue
        changed = _differences(old, job.evaluation_identities[name])
        text = "; ".join(f"{field}: {_short(a)} there, {_short(b)} here" for field, a, b in changed)
        lines.append(f"  {name}: evaluated under other settings: {text}")
    return lines


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    names = dict.fromkeys([*old, *new])
    return [
        (n, old.get(n, ABSENT), new.get(n, ABSENT)) for n in names if old.get(n, ABSENT) != new.get(n, ABSENT)
    ]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}…"
