"""What the plan said beforehand, against what then happened."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from harness import units
from harness.reporting import formats
from harness.reporting.frames import column, records
from harness.reporting.tables.base import Column, Table, as_text, make_table
from harness.reporting.tables.runs import memory_table
from harness.store.records import JobEntry, JobEstimate
from harness.store.records.form import TableRow
from harness.store.study import Study


def plan_table(study: Study) -> Table | None:
    """A row per run and their total; None unless the plan was made when nothing had run and all has run since.

    Hours are of wall clock, attempts that failed included; memory is the largest peak that was recorded, on the
    device where it has memory of its own. A ratio is measured over planned.
    """
    plan, done = study.plan, {str(r["run"]): r for r in records(study.runs)}
    totals = plan.totals
    if totals is None or totals.runs_to_do != totals.runs + totals.base_models:
        return None
    if any(done.get(job.run, {}).get("status") != "finished" for job in plan.jobs):
        return None
    memory = memory_table(study).frame
    rows = [_row(job, job.estimate, done[job.run], memory) for job in plan.jobs if job.estimate]
    if not rows:
        return None
    total = {k: sum(r[k] for r in rows) for k in ("planned_hours", "hours", "planned_usd", "usd")}
    most = {k: max((r[k] for r in rows if r[k] is not None), default=None) for k in ("planned_gib", "gib")}
    frame = pd.DataFrame(
        [_with_ratios(r) for r in [*rows, {"run": "total", "job": "all runs", **total, **most}]]
    )
    shown: list[Column] = [
        ("run", "job", as_text),
        ("planned", "planned_hours", _hours),
        ("took", "hours", _hours),
        ("ratio", "hours_ratio", formats.number),
        ("planned GiB", "planned_gib", formats.number),
        ("peak GiB", "gib", formats.number),
        ("ratio", "gib_ratio", formats.number),
    ]
    notes = [
        "Ratios are measured over planned. The plan assumed: " + "; ".join(plan.assumptions or ()) + ".",
        "Time is of one run, from the start of its worker to its end; runs beside each other slow each other.",
    ]
    return make_table("plan", "Planned and measured", frame, shown, left=1, notes=notes)


def _row(job: JobEntry, estimate: JobEstimate, run: TableRow, memory: pd.DataFrame) -> TableRow:
    own = memory[memory["run"] == job.run] if len(memory) else memory
    trained = job.kind == "train"  # the plan's memory is that of training
    kind = "device_gib" if len(own) and column(own, "device_gib").notna().any() else "resident_gib"
    peak = float(column(own, kind).max()) if trained and len(own) else math.nan
    return {
        "run": job.run,
        "job": job.label,
        "planned_hours": estimate.seconds / 3600,
        "hours": float(run["wall_seconds"]) / 3600,
        "planned_usd": estimate.usd,
        "usd": float(run["cost_usd"]),
        "planned_gib": estimate.gib if trained else None,
        "gib": None if math.isnan(peak) else peak,
    }


def _with_ratios(row: TableRow) -> TableRow:
    def ratio(name: str) -> float | None:
        planned, measured = row[f"planned_{name}"], row[name]
        return measured / planned if planned and measured is not None else None

    return {**row, "hours_ratio": ratio("hours"), "usd_ratio": ratio("usd"), "gib_ratio": ratio("gib")}


def _hours(value: Any) -> str:
    return units.duration(3600 * float(value))
