"""Several output folders as one study, in which the folder is an axis."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from harness.reporting.analysis.families import family_names
from harness.reporting.formats import DASH
from harness.spec.errors import SpecError
from harness.store.folders import RunFolder
from harness.store.records import PlanRecord
from harness.store.study import Study, load_study

_RUN_TABLES = ("cells", "runs", "steps", "evaluations", "attempts", "events")


@dataclass(frozen=True)
class MergedStudy(Study):
    """A study of several folders. Runs are called `folder/run`."""

    parts: dict[str, Study] = field(default_factory=dict, repr=False)

    def folder(self, run: str) -> RunFolder:
        """Where a run's records are."""
        name, own = run.rsplit("/", 1)
        return self.parts[name].folder(own)


def merged_study(folders: Sequence[Path], out: Path) -> Study:
    """One study of two or more output folders.

    Cells are matched by levels and seed; the first folder is the baseline of the axis `folder`. An axis that a folder
    does not vary has the level – there. Questions are matched by their identity, not by their place.

    Args:
        folders: output folders.
        out: where the report will go.

    Raises:
        StoreError: one of them is no output folder.
        SpecError: the same folder twice, or an axis called `folder`.
    """
    names = _names(folders)
    parts = {name: load_study(path) for name, path in zip(names, folders)}
    first = next(iter(parts.values()))
    axes = list(dict.fromkeys(a for s in parts.values() for a in s.axes))
    if "folder" in axes:
        raise SpecError("folders whose grid has an axis `folder` cannot be compared", file=folders[0])
    steps_axes = [a for a in axes if any(a in s.steps_axes for s in parts.values())]
    frames = {t: _stacked(parts, t) for t in _RUN_TABLES}
    for name in ("cells", "runs"):
        free = [a for a in axes if name == "cells" or a not in steps_axes]
        frames[name] = _with_axes(frames[name], free, parts)
    levels: dict[str, list[Any]] = {}
    for axis in axes:
        known = [str(v) for s in parts.values() for v in s.grid["axes"].get(axis, [])]
        missing = [DASH] if any(axis not in s.axes for s in parts.values()) else []
        levels[axis] = list(dict.fromkeys([*known, *missing]))
    order = {"folder": list(parts), **levels}
    benchmarks = {
        b["name"]: b for s in parts.values() for b in s.grid.get("evaluate", {}).get("benchmarks", [])
    }
    baselines = {k: v for s in reversed(parts.values()) for k, v in s.grid.get("baselines", {}).items()}
    grid = {
        **first.grid,
        "name": " against ".join(parts),
        "question": "What differs between these result folders, on what both have measured?",
        "axes": order,
        "steps_axes": steps_axes,
        "baselines": {**baselines, "folder": next(iter(parts))},
        "seeds": sorted({int(x) for s in parts.values() for x in s.grid.get("seeds", [])}),
        "evaluate": {**first.grid.get("evaluate", {}), "benchmarks": list(benchmarks.values())},
    }
    invocations = pd.concat([s.invocations for s in parts.values()], ignore_index=True)
    return MergedStudy(
        out=out,
        grid=grid,
        plan=PlanRecord(cells=(), jobs=()),
        axes=list(order),
        steps_axes=steps_axes,
        invocations=invocations,
        sources=tuple(str(f) for f in folders),
        parts=parts,
        known_questions=questions_of_parts(parts),
        damaged=tuple(error for s in parts.values() for error in s.damaged),
        unverified=any(s.unverified for s in parts.values()),
        **frames,
    )


def _names(folders: Sequence[Path]) -> list[str]:
    paths = [Path(os.path.abspath(f)) for f in folders]
    if len(set(paths)) < len(paths):
        raise SpecError("given twice", file=next(p for p in paths if paths.count(p) > 1))
    names = [p.name for p in paths]
    if len(set(names)) == len(names):
        return names
    common = os.path.commonpath([p.parent for p in paths])
    return [p.relative_to(common).as_posix() for p in paths]


def _stacked(parts: dict[str, Study], table: str) -> pd.DataFrame:
    frames = []
    for name, study in parts.items():
        frame: pd.DataFrame = getattr(study, table)
        frame = frame.assign(run=[f"{name}/{r}" for r in frame["run"]])
        if table in ("cells", "runs"):
            frame = frame.assign(folder=name)
        if table == "runs":
            families = family_names(study)
            frame = frame.assign(
                label=[f"{name}: {v}" for v in frame["label"]],
                family=[f"{name}/{families[str(r)]}" for r in study.runs["run"]],
            )
        frames.append(frame)
    return pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)


def _with_axes(frame: pd.DataFrame, axes: Sequence[str], parts: dict[str, Study]) -> pd.DataFrame:
    """A folder that does not vary an axis has no level of it."""
    frame = frame.copy()
    for axis in axes:
        values = frame[axis] if axis in frame.columns else pd.Series([None] * len(frame))
        without = {name for name, s in parts.items() if axis not in s.axes}
        frame[axis] = [DASH if f in without else v for f, v in zip(frame["folder"], values)]
    return frame


def questions_of_parts(parts: dict[str, Study]) -> pd.DataFrame:
    """`Study.questions` of all parts together: the same question has the same index in each."""
    frames = [s.questions().assign(run=[f"{n}/{r}" for r in s.questions()["run"]]) for n, s in parts.items()]
    frame = pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)
    if len(frame):
        place = frame.groupby("benchmark")["question_id"].transform(lambda q: pd.factorize(q)[0])
        frame = frame.assign(question_index=place.astype(int))
    return frame
