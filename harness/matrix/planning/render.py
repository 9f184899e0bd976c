"""The plan with its estimates: as data for `plan.json`, and for people."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness.matrix.planning.disk_model import disk_need, disk_warnings
from harness.matrix.planning.estimator import Estimate, Estimator
from harness.matrix.planning.gate import memory_shortages
from harness.matrix.planning.planner import Plan
from harness.safe_text import visible
from harness.store.folders import Store
from harness.store.records import (
    DetectableEntry,
    DiskEstimate,
    JobEstimate,
    PlanRecord,
    PlanTotals,
    TotalEstimate,
)
from harness.units import dollars, duration

_LEAST_DISK_GIB = 0.5
_MOST_ROWS = 40
_MOST_WARNINGS = 10


def plan_record(plan: Plan, estimator: Estimator, slots: int) -> PlanRecord:
    """`plan.json`."""
    # Imported here: scipy takes most of a second, which a finished matrix does without.
    from harness.matrix.planning.detectable_effects import detectable_effects, noise_text

    estimates = {job.run_id: estimator.remaining(job) for job in plan.jobs}
    bare = plan.record()
    return replace(
        bare,
        jobs=tuple(replace(job, estimate=_of_job(estimates[job.run])) for job in bare.jobs),
        totals=_totals(plan, estimates, slots),
        assumptions=(*estimator.assumptions(), noise_text()),
        notes=tuple(plan.hardware.notes),
        memory_warnings=tuple(memory_shortages(plan, estimator)),
        detectable=tuple(
            DetectableEntry(
                axis=d.axis,
                levels=d.levels,
                df=d.df,
                effect=None if math.isnan(d.effect) else d.effect,
                one_more_seed=None if math.isnan(d.one_more_seed) else d.one_more_seed,
            )
            for d in detectable_effects(plan)
        ),
    )


def _of_job(estimate: Estimate) -> JobEstimate:
    return JobEstimate(seconds=estimate.seconds, usd=estimate.usd, gib=estimate.gib)


def _totals(plan: Plan, estimates: Mapping[str, Estimate], slots: int) -> PlanTotals:
    every = estimates.values()
    to_do = ((job, plan.models[job.run_id]) for job in plan.jobs if estimates[job.run_id].evaluations)
    disk = disk_need(to_do, slots, Store(plan.out))
    return PlanTotals(
        cells=len(plan.cells),
        runs=sum(job.kind == "train" for job in plan.jobs),
        base_models=sum(job.kind == "base" for job in plan.jobs),
        evaluations=sum(len(job.steps) * len(job.evaluation_ids) for job in plan.jobs),
        runs_to_do=sum(e.evaluations > 0 for e in every),
        evaluations_to_do=sum(e.evaluations for e in every),
        estimate=TotalEstimate(
            wall_hours=_wall_seconds([e.seconds for e in every], slots) / 3600,
            device_hours=sum(e.seconds for e in every) * plan.hardware.devices / 3600,
            usd=sum(e.usd for e in every),
            gib_per_device=max((e.gib for e in every), default=0.0),
            disk_gib=DiskEstimate(kept=disk.kept, peak=disk.peak),
        ),
        slots=slots,
    )


def _wall_seconds(seconds: Sequence[float], slots: int) -> float:
    return float(max([sum(seconds) / slots, *seconds], default=0.0)) if seconds else 0.0


def print_plan(plan: Plan, record: PlanRecord, console: Console | None = None) -> None:
    """Prints what `plan_record` made."""
    assert record.totals is not None
    console = console or Console()
    if not console.is_terminal:
        console = Console(width=140, highlight=False)
    head, totals = plan.grid.head, record.totals
    console.print(
        f"[bold]{escape(head.name)}[/bold]: {escape(head.question.strip())}", highlight=False, soft_wrap=True
    )
    to_do = Counter(job.kind for job in record.jobs if job.estimate and job.estimate.seconds)
    console.print(
        f"{totals.cells} cells from {_runs(totals.runs, totals.base_models)}; "
        f"{totals.evaluations} evaluations; to do: {_runs(to_do['train'], to_do['base'])}, "
        f"{totals.evaluations_to_do} evaluations",
        highlight=False,
    )
    for sentence in plan.sharing:
        console.print(visible(f"  {sentence}"), markup=False, highlight=False, soft_wrap=True)
    console.print(_run_table(plan, record))
    estimate = totals.estimate
    console.print(
        f"estimate: {duration(estimate.wall_hours * 3600)} ({estimate.wall_hours:.2f} h) with "
        f"{totals.slots} at a time, {estimate.device_hours:.2f} device-hours, {dollars(estimate.usd)}, "
        f"{estimate.gib_per_device:.1f} GiB per device",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    disk = estimate.disk_gib
    if disk is not None and disk.peak >= _LEAST_DISK_GIB:
        console.print(
            f"checkpoints: up to {disk.peak:.1f} GiB more on disk while runs are at work, {disk.kept:.1f} GiB "
            "more when all are done (training.keep)",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    for line in record.assumptions or ():
        console.print(visible(f"  assumes: {line}"), markup=False, highlight=False, soft_wrap=True)
    if record.detectable:
        console.print(_detectable_table(record.detectable, head.verdict.delta))
    _print_warnings(plan, record, console)


def _runs(trained: int, untrained: int) -> str:
    return f"{trained} runs, {untrained} untrained model" + ("s" if untrained != 1 else "")


def _run_table(plan: Plan, record: PlanRecord) -> Table:
    table = Table(title="runs (estimates of what is left to do)", title_justify="left")
    for name in ("run", "id", "steps", "evaluations", "time", "cost", "GiB"):
        table.add_column(name, justify="left" if name in ("run", "id") else "right")
    for job, entry in list(zip(plan.jobs, record.jobs))[:_MOST_ROWS]:
        estimate = entry.estimate
        assert estimate is not None
        done = estimate.seconds == 0
        table.add_row(
            Text(job.label),
            job.run_id,
            ", ".join(map(str, job.steps)),
            str(len(job.steps) * len(job.evaluation_ids)),
            "done" if done else duration(estimate.seconds),
            "" if done else dollars(estimate.usd),
            f"{estimate.gib:.1f}",
        )
    if len(plan.jobs) > _MOST_ROWS:
        table.add_row(f"… and {len(plan.jobs) - _MOST_ROWS} more", *[""] * 6)
    return table


def _detectable_table(effects: Sequence[DetectableEntry], delta: float) -> Table:
    table = Table(title=f"detectable effect (estimate; δ = {delta:.1%})", title_justify="left")
    for name in ("axis", "levels", "df", "effect", "with one more seed"):
        table.add_column(name, justify="left" if name == "axis" else "right")
    for d in effects:
        figures = (_percent(d.effect), _percent(d.one_more_seed))
        table.add_row(Text(d.axis), str(d.levels), str(d.df), *figures)
    return table


def _percent(value: float | None) -> str:
    return "no verdict" if value is None else f"{value:.1%}"


def _print_warnings(plan: Plan, record: PlanRecord, console: Console) -> None:
    assert record.totals is not None
    warnings = [*plan.warnings, *(record.notes or ())]
    for d in record.detectable or ():
        if d.effect is None:
            warnings.append(f"axis {d.axis}: {d.df} degrees of freedom allow no verdict; add seeds")
        elif d.effect > plan.grid.head.verdict.delta:
            warnings.append(
                f"axis {d.axis}: effects below about {d.effect:.1%} will be inconclusive, "
                f"yet {plan.grid.head.verdict.delta:.1%} is declared to matter"
            )
    warnings = [*(record.memory_warnings or ()), *warnings, *limit_warnings(plan, record.totals.estimate)]
    for warning in warnings[:_MOST_WARNINGS]:
        console.print(
            visible(f"warning: {warning}"), markup=False, highlight=False, soft_wrap=True, style="yellow"
        )
    if len(warnings) > _MOST_WARNINGS:
        console.print(f"warning: and {len(warnings) - _MOST_WARNINGS} more", highlight=False, style="yellow")


def limit_warnings(plan: Plan, estimate: TotalEstimate) -> list[str]:
    """Where the estimate goes beyond the grid's budget, or the disk."""
    budget, warnings = plan.grid.head.budget, []
    if budget.usd is not None and estimate.usd > budget.usd:
        warnings.append(f"the budget of {dollars(budget.usd)} will not do: about {dollars(estimate.usd)}")
    if budget.hours is not None and estimate.wall_hours > budget.hours:
        warnings.append(f"the budget of {budget.hours:g} h will not do: about {estimate.wall_hours:.2f} h")
    peak = estimate.disk_gib.peak if estimate.disk_gib else 0.0
    return [*warnings, *disk_warnings(peak, plan.out)]
