"""Tables of what training took: throughput, memory, money."""

from __future__ import annotations

import math

import pandas as pd

from harness import units
from harness.reporting import formats
from harness.reporting.analysis.cells import free_axes, ordered_cells
from harness.reporting.analysis.performance import (
    EVALUATION_SECONDS,
    EVALUATION_TOKENS,
    MEMORY_KINDS,
    SECONDS,
    Price,
    Spending,
    memory_column,
    memory_phases,
    phase_seconds,
    phases,
    price_of,
    spending,
)
from harness.reporting.frames import column, records
from harness.reporting.tables.base import Column, Table, as_text, as_whole, level_columns, make_table
from harness.reporting.tables.metrics import metric_column, metrics_of
from harness.store.records.form import TableRow
from harness.store.study import STEP, Study


def _levels(study: Study, run: TableRow) -> TableRow:
    return {a: run.get(a) for a in free_axes(study)}


def _runs(study: Study) -> list[TableRow]:
    """Runs in the order of their cells, untrained models first."""
    known = {str(r["run"]): r for r in records(study.runs)}
    bases = [run for run, record in known.items() if record["kind"] == "base"]
    ordered = [*bases, *dict.fromkeys(str(c["run"]) for c in ordered_cells(study))]
    return [known[run] for run in dict.fromkeys([*ordered, *known]) if run in known]


def _label(study: Study, run: TableRow) -> TableRow:
    return {**_levels(study, run), "seed": None if run["kind"] == "base" else run["seed"]}


def throughput_table(study: Study) -> Table:
    """A row per trained run."""
    names = step_phases(study.steps)
    rows = []
    for run in _runs(study):
        steps = study.steps[study.steps["run"] == run["run"]]
        made = study.evaluations[study.evaluations["run"] == run["run"]]
        if run["kind"] != "base" and len(steps):
            took = _throughput(steps, made, names, price_of(run))
            rows.append({**_label(study, run), "run": run["run"], **took})
    frame = pd.DataFrame(rows)
    shown: list[Column] = [
        *level_columns(free_axes(study)),
        ("seed", "seed", as_text),
        ("steps", "steps", as_whole),
        *map(metric_column, metrics_of("throughput")),
        *((f"{p} s", f"{p}_seconds", formats.number) for p in names),
        ("MFU", "mfu", formats.percent),
        ("evaluation tok/s", "evaluation_tokens_per_second", formats.number),
    ]
    notes = [
        "Tokens are completion tokens (training: the tokens trained on, padding not counted); seconds are means "
        "over steps. MFU: model FLOPs over what the device could do at its peak in the same time."
    ]
    unknown = bool(rows) and bool(frame["mfu"].isna().all())
    if unknown:
        notes.append("MFU needs the peak of the device, which is not known of this one.")
    return make_table("throughput", "Throughput", frame, shown, left=len(free_axes(study)) + 1, notes=notes)


def step_phases(steps: pd.DataFrame) -> list[str]:
    """Phases that step records time, in order."""
    return phases(STEP.keys(steps.columns, lambda r: r.timing.seconds))


def _throughput(steps: pd.DataFrame, made: pd.DataFrame, names: list[str], price: Price | None) -> TableRow:
    seconds = column(steps, SECONDS)
    total, judged = float(seconds.sum()), float(column(made, EVALUATION_SECONDS).sum())
    flops = column(steps, STEP.name(lambda r: r.timing.flops))
    utilisation = column(steps, STEP.name(lambda r: r.timing.mfu))
    return {
        "steps": len(steps),
        **{metric.name: metric.compute(steps, price) for metric in metrics_of("throughput")},
        "step_seconds_median": seconds.median(),
        **{f"{p}_seconds": column(steps, phase_seconds(p)).mean() for p in names},
        "mfu": (utilisation * seconds).sum() / total if total > 0 and utilisation.notna().all() else None,
        "teraflops_per_second": flops.sum() / total / 1e12 if total > 0 and flops.notna().all() else None,
        "evaluation_tokens_per_second": column(made, EVALUATION_TOKENS).sum() / judged
        if judged > 0
        else None,
        "evaluation_seconds": judged,
    }


def memory_table(study: Study) -> Table:
    """A row per run and phase: peaks."""
    rows = []
    for run in _runs(study):
        sources = [f[f["run"] == run["run"]] for f in (study.steps, study.evaluations)]
        for phase in memory_phases(*sources):
            peaks = {kind: _peak(sources, memory_column(phase, kind)) for kind in MEMORY_KINDS}
            if any(v is not None for v in peaks.values()):
                rows.append({**_label(study, run), "run": run["run"], "phase": phase, **peaks})
    frame = pd.DataFrame(rows)
    if rows:
        frame = frame.astype({"seed": "Int64"})
    shown: list[Column] = [
        *level_columns(free_axes(study)),
        ("seed", "seed", as_text),
        ("phase", "phase", as_text),
        ("resident GiB", "resident_gib", formats.number),
        ("allocated GiB", "allocated_gib", formats.number),
        ("reserved GiB", "reserved_gib", formats.number),
        ("device GiB", "device_gib", formats.number),
    ]
    notes = [
        "Peaks; the rows without levels are the untrained model. Resident: the process in main memory. Allocated, "
        "reserved: by torch on the GPU; device: all that is in use on it."
    ]
    if rows and frame["allocated_gib"].isna().all():
        notes.append("No GPU was used, so the GPU columns are empty.")
    return make_table("memory", "Memory", frame, shown, left=len(free_axes(study)) + 2, notes=notes)


def _peak(sources: list[pd.DataFrame], name: str) -> float | None:
    values = [float(column(source, name).max()) for source in sources if len(source)]
    return max((v for v in values if not math.isnan(v)), default=None)


def idle(study: Study) -> tuple[float, float]:
    """Device-seconds that were held while no run used them, and what they cost."""
    calls = study.invocations
    if calls.empty:
        return 0.0, 0.0
    wasted = (column(calls, "device_seconds") - column(calls, "busy_device_seconds")).clip(lower=0).fillna(0)
    return float(wasted.sum()), float((wasted * column(calls, "usd_per_hour").fillna(0)).sum()) / 3600


def cost_table(study: Study) -> Table:
    """A row per run, one for idle devices, and the total."""
    rows = [_cost(study, run) for run in _runs(study)]
    if len(study.invocations):
        seconds, money = idle(study)
        nothing = dict.fromkeys(("training_usd", "evaluation_usd", "other_usd", "failed_usd"), 0.0)
        held = {"device_seconds": seconds, **nothing, "idle_usd": money, "cost_usd": money}
        rows.append({"run": "idle", "kind": "idle", **held})
    frame = pd.DataFrame(rows)
    names = [str(c) for c in frame.columns]
    summed = ["attempts", "failed_attempts", "device_seconds", *(c for c in names if c.endswith("_usd"))]
    total = {c: frame[c].sum() for c in summed if c in names}
    frame = pd.DataFrame([*rows, {"run": "total", "kind": "total", **total}])
    whole = [c for c in ("seed", "attempts", "failed_attempts", "devices") if c in names]
    frame = frame.astype(dict.fromkeys(whole, "Int64"))
    shown: list[Column] = [
        ("kind", "kind", as_text),
        *level_columns(free_axes(study)),
        ("seed", "seed", as_text),
        ("status", "status", as_text),
        ("attempts", "attempts", as_whole),
        ("device time", "device_seconds", units.duration),
        ("training", "training_usd", units.dollars),
        ("evaluation", "evaluation_usd", units.dollars),
        ("other", "other_usd", units.dollars),
        ("failed", "failed_usd", units.dollars),
        ("idle", "idle_usd", units.dollars),
        ("cost", "cost_usd", units.dollars),
    ]
    notes = [
        f"Device-seconds × price: {price_words(study)}. Other: starting, loading, saving, steps done twice. Failed: "
        "what attempts that failed or were killed left nothing of. Idle: devices held while no run used them."
    ]
    return make_table("cost", "Cost", frame, shown, left=len(free_axes(study)) + 3, notes=notes)


def _cost(study: Study, run: TableRow) -> TableRow:
    spent: Spending = spending(study, str(run["run"]))
    price = float(run["devices"]) * float(run["usd_per_hour"]) / 3600
    same = ("kind", "status", "attempts", "failed_attempts", "devices", "usd_per_hour", "wall_seconds")
    return {
        **_label(study, run),
        "run": run["run"],
        **{name: run[name] for name in same},
        "device_seconds": run["device_seconds"],
        "training_usd": spent.training * price,
        "evaluation_usd": spent.evaluation * price,
        "other_usd": spent.other * price,
        "failed_usd": spent.failed * price,
        "idle_usd": 0.0,
        "cost_usd": run["cost_usd"],
    }


def price_words(study: Study) -> str:
    """What a device was taken to cost, and where that comes from."""
    prices = sorted({float(p) for p in study.runs["usd_per_hour"].dropna()})
    return " and ".join(f"${p:g} per device-hour" for p in prices) + " (an assumption unless you set it)"
