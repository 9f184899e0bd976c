"""Everything an output folder holds, as tables: what reports, verdicts and later plans read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from harness.store.attempts import AttemptFolder
from harness.store.cancellations import Cancellations
from harness.store.contents import check_contents, is_sealed
from harness.store.errors import Damaged
from harness.store.folders import RunFolder, Store
from harness.store.records import (
    EvaluationRecord,
    InvocationRecord,
    JobEntry,
    LookRecord,
    PlanRecord,
    Provenance,
    StepRecord,
)
from harness.store.records.form import Columns, JsonObject, TableRow, to_row
from harness.store.schema import written

STEP = Columns(StepRecord)
"""Columns of `Study.steps`."""

EVALUATION = Columns(EvaluationRecord)
"""Columns of `Study.evaluations`."""

_RUN_COLUMNS = [
    "status",
    "attempts",
    "failed_attempts",
    "wall_seconds",
    "device_seconds",
    "usd_per_hour",
    "devices",
    "cost_usd",
    "device",
    "error",
]


@dataclass(frozen=True)
class Study:
    """One output folder.

    Attributes:
        out: the folder.
        grid: `grid.resolved.json`.
        plan: `plan.json`.
        axes: axis names, in the grid's order.
        steps_axes: those that vary nothing but training steps.
        cells: a row per cell: a column per axis, `seed`, `run`, `step`.
        runs: a row per planned run: `run`, `kind`, `label`, a column per axis but the steps axes (empty for base
            runs), `seed`, `status` (`finished`, `diverged`, `failed`, `running`, `interrupted`, `killed`,
            `pending`, `cancelled`, `damaged`), `attempts`, `failed_attempts`, `wall_seconds`, `device_seconds`,
            `usd_per_hour`, `devices`, `cost_usd`, `device`, `error`. All attempts count, failed ones too.
        steps: step records, `run`, `attempt`, `step` first, under the names of `STEP`; superseded ones dropped.
            `attempt` is 0 where another run made the step, named in `forked_from`: this one's attempts did not pay.
        evaluations: the evaluations that the plan asks for, `run` and `kind` first, under the names of `EVALUATION`.
        attempts: a row per attempt: `run`, `attempt`, `status`, `started_at`, `wall_seconds`,
            `seconds_by_phase` (mapping), `error` (text), `provenance` (`Provenance`).
        events: a row per event: `run`, `attempt`, `step`, `kind`, `message`, …
        invocations: a row per call of the runner: `started_at`, `wall_seconds`, `slots`, `devices_per_slot`,
            `usd_per_hour`, `device_seconds` (held), `busy_device_seconds`; the difference is idle time.
        damaged: damaged records, each of which keeps its run, or its call of the runner, out of all tables.
        unverified: whether it has records of versions that gave them no checksum.
        sources: files of external results or other folders that this was made from; empty for a folder of ours.
        notes: how external results were read: titles, each with its sentences.
        looks: reports that could give verdicts before now.
        known_questions: what `questions` gives, where there are no samples of ours to read it from.
    """

    out: Path
    grid: JsonObject
    plan: PlanRecord
    axes: list[str]
    steps_axes: list[str]
    cells: pd.DataFrame
    runs: pd.DataFrame
    steps: pd.DataFrame
    evaluations: pd.DataFrame
    attempts: pd.DataFrame
    events: pd.DataFrame
    invocations: pd.DataFrame
    damaged: tuple[Damaged, ...] = ()
    unverified: bool = False
    sources: tuple[str, ...] = ()
    notes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    looks: tuple[LookRecord, ...] = ()
    known_questions: pd.DataFrame | None = field(default=None, repr=False)

    def folder(self, run: str) -> RunFolder:
        """Where a run's records are."""
        return Store(self.out).run(run)

    def questions(self) -> pd.DataFrame:
        """A row per run, step, benchmark and question: `samples`, `correct`. Read from the samples once."""
        return self._questions

    @cached_property
    def _questions(self) -> pd.DataFrame:
        return _questions(self) if self.known_questions is None else self.known_questions


def load_study(out: Path | str) -> Study:
    """Reads an output folder.

    Raises:
        Damaged: it is none, or its grid, its plan or its looks are damaged. A run with a damaged record is left out.
        StoreError: a record in it cannot be read by this version.
    """
    store = Store(out)
    grid = store.grid()
    plan = store.plan()
    axes, steps_axes = list(grid["axes"]), list(grid["steps_axes"])
    cells = pd.DataFrame(
        [{**c.levels, "seed": c.seed, "run": c.run, "step": c.step} for c in plan.cells],
        columns=[*axes, "seed", "run", "step"],
    )
    begun = store.begun_runs()
    calls, not_called = store.invocation_records()
    cancelled = Cancellations(store.root).run_ids()
    free = [axis for axis in axes if axis not in steps_axes]
    tables: dict[str, list[TableRow]] = {
        k: [] for k in ("runs", "steps", "evaluations", "attempts", "events")
    }
    damaged = []
    for entry in plan.jobs:
        levels = {axis: entry.levels.get(axis) for axis in free}
        try:
            if entry.run in begun and not store.run(entry.run).path.exists():
                raise Damaged("is gone", store.run(entry.run).path)
            rows = _rows(store.run(entry.run), entry, levels, cancelled=entry.run in cancelled)
        except Damaged as error:
            damaged.append(error)
            rows = {"runs": [_damaged_row(entry, levels, error)]}
        for name, found in rows.items():
            tables[name] += found
    return Study(
        out=store.root,
        looks=store.looks(),
        damaged=(*damaged, *not_called),
        unverified=any(
            not is_sealed(a.path / "attempt.json") for e in plan.jobs for a in store.run(e.run).attempts()
        ),
        grid=grid,
        plan=plan,
        axes=axes,
        steps_axes=steps_axes,
        cells=cells,
        runs=pd.DataFrame(tables["runs"], columns=["run", "kind", "label", *free, "seed", *_RUN_COLUMNS]),
        steps=_frame(tables["steps"], ["run", "attempt", "step"]),
        evaluations=_frame(
            tables["evaluations"],
            ["run", "kind", "step", "benchmark", "questions", "samples", "correct", "accuracy"],
        ),
        attempts=_frame(
            tables["attempts"],
            [
                "run",
                "attempt",
                "status",
                "started_at",
                "wall_seconds",
                "seconds_by_phase",
                "error",
                "provenance",
            ],
        ),
        events=_frame(tables["events"], ["run", "attempt", "step", "kind", "message"]),
        invocations=_invocations(calls),
    )


def _rows(
    folder: RunFolder, entry: JobEntry, levels: Mapping[str, str | None], *, cancelled: bool
) -> dict[str, list[TableRow]]:
    """A run's rows of each table.

    Raises:
        Damaged: something that must be there is gone, or is not what was written.
    """
    if gone := check_contents(folder.path):
        raise gone[0]
    attempts = folder.attempts()
    ended = [_ended(a) for a in attempts]
    steps = folder.sound_steps()
    return {
        "attempts": [{"run": folder.run_id, **vars(a)} for a in ended],
        "evaluations": _evaluation_rows(folder, entry),
        "steps": [_step_row(folder.run_id, record) for record in steps],
        "events": [
            {"run": folder.run_id, "attempt": a.number, "step": None, **written("line", e.line())}
            for a in attempts
            for e in a.events()
        ],
        "runs": [_run_row(folder, entry, levels, ended, cancelled=cancelled)],
    }


def _frame(rows: Sequence[TableRow], first: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    return frame.reindex(columns=[*first, *(c for c in frame.columns if c not in first)])


@dataclass(frozen=True, kw_only=True)
class EndedAttempt:
    """An attempt, as a row of `Study.attempts` tells it; see there."""

    attempt: int
    status: str
    started_at: str | None
    wall_seconds: float
    seconds_by_phase: Mapping[str, float]
    error: str | None
    provenance: Provenance


def _ended(attempt: AttemptFolder) -> EndedAttempt:
    info, end = attempt.info(), attempt.end()
    return EndedAttempt(
        attempt=attempt.number,
        status=attempt.status,
        started_at=info.started_at if info else None,
        wall_seconds=attempt.wall_seconds,
        seconds_by_phase=end.seconds_by_phase if end else {},
        error=end.error.words if end and end.error else None,
        provenance=info.provenance if info else Provenance(),
    )


def _evaluation_rows(folder: RunFolder, entry: JobEntry) -> list[TableRow]:
    rows = []
    for step in entry.steps:
        for benchmark, identity in entry.evaluation_ids.items():
            record = folder.evaluation(step, benchmark, identity)
            if record is not None:
                folder.samples_content(step, benchmark, identity)  # verified, though they are read later
                rows.append({"run": folder.run_id, "kind": entry.kind, **to_row(record)})
    return rows


def _step_row(run_id: str, record: StepRecord) -> TableRow:
    row = {"run": run_id, **to_row(record)}
    del row["run_id"]
    if record.forked_from is not None:
        row["attempt"] = 0
    return row


def run_status(missing: bool, attempts: Sequence[EndedAttempt], *, diverged: bool = False) -> str:
    """A run's status from what is missing, whether it has diverged, and how its attempts ended."""
    last = attempts[-1].status if attempts else "pending"
    if not missing:
        return "diverged" if diverged else "finished"
    # An attempt that finished an earlier, smaller plan leaves the rest of this one to be done.
    return "pending" if last == "finished" else last


def _run_row(
    folder: RunFolder,
    entry: JobEntry,
    levels: Mapping[str, str | None],
    attempts: Sequence[EndedAttempt],
    *,
    cancelled: bool,
) -> TableRow:
    wall = sum(a.wall_seconds for a in attempts)
    job = folder.read_job() if (folder.path / "run.json").exists() else None
    devices = job.devices if job else entry.devices
    price = job.usd_per_hour if job else entry.usd_per_hour
    begun = (a.provenance for a in reversed(attempts) if a.provenance != Provenance())
    diverged = folder.diverged_at() is not None
    missing = bool(folder.missing(entry))
    status = "cancelled" if missing and cancelled else run_status(missing, attempts, diverged=diverged)
    return {
        "run": folder.run_id,
        "kind": entry.kind,
        "label": entry.label,
        **levels,
        "seed": entry.seed,
        "status": status,
        "attempts": len(attempts),
        "failed_attempts": sum(a.status in ("failed", "killed") for a in attempts),
        "wall_seconds": wall,
        "device_seconds": wall * devices,
        "usd_per_hour": price,
        "devices": devices,
        "cost_usd": wall * devices * price / 3600,
        "device": next(begun, Provenance()).device,
        "error": attempts[-1].error if attempts and status == "failed" else None,
    }


def _damaged_row(entry: JobEntry, levels: Mapping[str, str | None], error: Damaged) -> TableRow:
    """The row of a run that is left out: what the plan says of it, and nothing measured."""
    return {
        "run": entry.run,
        "kind": entry.kind,
        "label": entry.label,
        **levels,
        "seed": entry.seed,
        "status": "damaged",
        "attempts": 0,
        "failed_attempts": 0,
        "wall_seconds": 0.0,
        "device_seconds": 0.0,
        "usd_per_hour": entry.usd_per_hour,
        "devices": entry.devices,
        "cost_usd": 0.0,
        "device": None,
        "error": str(error),
    }


def _invocations(calls: Sequence[InvocationRecord]) -> pd.DataFrame:
    rows = [to_row(record) for record in calls]
    columns = ["started_at", "wall_seconds", "slots", "devices_per_slot", "usd_per_hour"]
    return _frame(rows, [*columns, "device_seconds", "busy_device_seconds"])


def _questions(study: Study) -> pd.DataFrame:
    keys = ["run", "step", "benchmark", "question_index", "question_id"]
    frames = []
    for row in study.evaluations.to_dict("records"):
        run, step, benchmark = str(row["run"]), int(row["step"]), str(row["benchmark"])
        samples = study.folder(run).samples(
            step, benchmark, str(row["evaluation_id"]), ["question_index", "question_id", "correct"]
        )
        # By hand: pandas takes as long to group one small file as to read it, and a large study has thousands.
        index, first, place = np.unique(samples["question_index"], return_index=True, return_inverse=True)
        right = samples["correct"].to_numpy(dtype=np.float64)
        frames.append(
            pd.DataFrame(
                {
                    "question_index": index,
                    "question_id": samples["question_id"].to_numpy()[first],
                    "samples": np.bincount(place),
                    "correct": np.bincount(place, weights=right).astype(np.int64),
                    "run": run,
                    "step": step,
                    "benchmark": benchmark,
                }
            )
        )
    if not frames:
        return pd.DataFrame(columns=[*keys, "samples", "correct"])
    return pd.concat(frames, ignore_index=True)[[*keys, "samples", "correct"]]
