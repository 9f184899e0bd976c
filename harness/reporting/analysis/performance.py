"""What runs cost: throughput, time and memory from step records, money from attempts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import Literal

import pandas as pd

from harness.reporting.frames import column, records
from harness.store.records import MemoryPeaks
from harness.store.records.form import TableRow
from harness.store.study import EVALUATION, STEP, Study

SECONDS = STEP.name(lambda r: r.timing.total_seconds)
COMPLETION_TOKENS = STEP.name(lambda r: r.tokens.completion)
TRAINED_TOKENS = STEP.name(lambda r: r.tokens.trained)
TRAIN_RATE = STEP.name(lambda r: r.timing.train_tokens_per_second)
"""Columns of `Study.steps`."""

EVALUATION_SECONDS = EVALUATION.name(lambda r: r.timing.total_seconds)
EVALUATION_TOKENS = EVALUATION.name(lambda r: r.tokens.completion)
"""Columns of `Study.evaluations`."""

COMPETING = STEP.name(lambda r: r.load and r.load.competing_share)

RELATIVE_DELTA = 0.05
"""Smallest ratio − 1 of throughput, memory or cost that counts as a difference in verdicts."""

PHASE_ORDER = (
    "rollout",
    "reward",
    "logprob",
    "reference",
    "update",
    "optimizer",
    "sync",
    "checkpoint",
    "evaluation",
    "other",
)
"""The order in which phases are listed; ones not named here follow alphabetically."""

MEMORY_KINDS = tuple(field.name for field in fields(MemoryPeaks))
"""Kinds of memory that records tell."""


@dataclass(frozen=True)
class Price:
    """What the devices of a run cost.

    Attributes:
        devices: that it holds.
        usd_per_hour: of one device.
    """

    devices: float
    usd_per_hour: float


Unit = Literal["tok/s", "s", "GiB", "USD"]
"""Units of performance metrics."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A performance metric. Verdicts, tables, the page's tiles and the conclusions follow from its entry.

    Attributes:
        name: in verdicts, and its column in `table`.
        words: for people.
        header: above its column.
        unit: of its values; decides how they are written.
        better: +1 where more is better, −1 where less is.
        compute: its value over some steps of one run, in `unit`; None where they do not tell it. The price of the
            run is None where it is not known.
        table: with its column: `throughput` has a row per run, `cells` one per checkpoint.
        of_time: whether it depends on how much of the machine other programs leave.
        grows_with_steps: whether a longer training changes it, so that training length has an effect on it.
        in_conclusions: whether the conclusions in words mention it; the others are parts of one that is.
        tile: note of its tile on the page, which shows it over all runs together; empty for none.
    """

    name: str
    words: str
    header: str
    unit: Unit
    better: Literal[1, -1]
    compute: Callable[[pd.DataFrame, Price | None], float | None]
    table: Literal["throughput", "cells"]
    of_time: bool = True
    grows_with_steps: bool = False
    in_conclusions: bool = True
    tile: str = ""


def phases(names: list[str]) -> list[str]:
    """Phases in the order in which a step goes through them."""
    known = [p for p in PHASE_ORDER if p in names]
    return [*known, *sorted(set(names) - set(known))]


def checkpoint_metric(study: Study, metric: Metric) -> dict[tuple[str, int], float]:
    """The metric by (run, step): over the steps up to a checkpoint for costs, over the whole run otherwise."""
    prices = {str(run["run"]): price_of(run) for run in records(study.runs)}
    asked = {str(run): sorted({int(s) for s in part}) for run, part in study.cells.groupby("run")["step"]}
    figures: dict[tuple[str, int], float] = {}
    for run, steps in study.steps.groupby("run", sort=False):
        price = prices.get(str(run))
        reached = [s for s in asked.get(str(run), []) if s <= int(steps["step"].max())]
        of_run = None if metric.grows_with_steps or not reached else metric.compute(steps, price)
        for step in reached:
            value = metric.compute(steps[steps["step"] <= step], price) if metric.grows_with_steps else of_run
            if value is not None and math.isfinite(value):
                figures[str(run), step] = value
    return figures


def price_of(run: TableRow) -> Price | None:
    """The price of a row of `Study.runs`; None where it is not known."""
    if pd.isna(run["devices"]) or pd.isna(run["usd_per_hour"]):
        return None
    return Price(float(run["devices"]), float(run["usd_per_hour"]))


def _mean_seconds(steps: pd.DataFrame) -> float | None:
    seconds = column(steps, SECONDS)
    return float(seconds.mean()) if seconds.notna().any() else None


def _training_cost(steps: pd.DataFrame, price: Price | None) -> float | None:
    seconds = column(steps, SECONDS)
    if price is None or seconds.isna().all():
        return None
    return float(seconds.sum()) * price.devices * price.usd_per_hour / 3600


def tokens(steps: pd.DataFrame) -> float:
    """Completion tokens of the steps, what `tokens_per_second` counts."""
    return float(column(steps, COMPLETION_TOKENS).sum())


def rate(steps: pd.DataFrame, counted: str, phase: str, recorded: str | None = None) -> float | None:
    """Tokens over the seconds of a phase, of all steps together.

    Where steps record their own rate for a stretch that is not one phase, their time-weighted mean: Σ tokens
    over Σ tokens/rate.
    """
    number = column(steps, counted)
    if recorded is None or recorded not in steps.columns:
        return _ratio(float(number.sum()), float(column(steps, phase_seconds(phase)).sum()))
    rates = column(steps, recorded)
    valid = (rates > 0) & (number > 0)
    return _ratio(float(number[valid].sum()), float((number[valid] / rates[valid]).sum()))


@cache
def phase_seconds(phase: str) -> str:
    """The column of the seconds of a phase."""
    return STEP.name(lambda r: r.timing.seconds[phase])


@cache
def memory_column(phase: str, kind: str) -> str:
    """The column of a phase's peak, in step records and evaluations alike; `kind` is one of `MEMORY_KINDS`."""
    return STEP.name(lambda r: getattr(r.memory[phase], kind))


def memory_phases(*tables: pd.DataFrame) -> list[str]:
    """Phases whose memory step records or evaluations tell, in order."""
    return phases(sorted({p for t in tables for p in STEP.keys(t.columns, lambda r: r.memory)}))


def peak(steps: pd.DataFrame) -> float | None:
    """Highest memory of any phase: on the device where there is one, otherwise of the process."""
    for kind in ("reserved_gib", "resident_gib"):
        names = [memory_column(phase, kind) for phase in memory_phases(steps)]
        values = [float(column(steps, c).max()) for c in names if column(steps, c).notna().any()]
        if values:
            return max(values)
    return None


def _ratio(above: float, below: float) -> float | None:
    return above / below if below > 0 and above > 0 else None


def slowdown(steps: pd.DataFrame, price: Price | None) -> float | None:
    """What other programs may have slowed the steps by, at most: 1/(1 − c) for a share c of the processors that they
    had, the mean weighted by time. None where any step's share is not known."""
    seconds, share = column(steps, SECONDS), column(steps, COMPETING)
    if steps.empty or (share.isna() & seconds.notna()).any() or seconds.sum() <= 0:
        return None
    return 1 / (1 - min(_MOST_SHARE, float((share * seconds).sum() / seconds.sum())))


_MOST_SHARE = 0.95

LOAD = Metric(
    name="load",
    words="what other programs may have slowed it by",
    header="load",
    unit="s",
    better=-1,
    compute=slowdown,
    table="throughput",
)
"""Judged by nobody: what metrics of time are held against."""

PEAK_MEMORY = Metric(
    name="peak_memory_gib",
    words="peak memory",
    header="peak GiB",
    unit="GiB",
    better=-1,
    compute=lambda steps, price: peak(steps),
    table="cells",
    of_time=False,
    tile="of a run in training",
)
TRAINING_COST = Metric(
    name="training_cost_usd",
    words="training cost",
    header="training cost",
    unit="USD",
    better=-1,
    compute=_training_cost,
    table="cells",
    grows_with_steps=True,
)

PERFORMANCE = (
    Metric(
        name="tokens_per_second",
        words="training throughput",
        header="overall tok/s",
        unit="tok/s",
        better=1,
        compute=lambda steps, price: _ratio(tokens(steps), float(column(steps, SECONDS).sum())),
        table="throughput",
        tile="all phases of a step, a run",
    ),
    Metric(
        name="rollout_tokens_per_second",
        words="rollout throughput",
        header="rollout tok/s",
        unit="tok/s",
        better=1,
        compute=lambda steps, price: rate(steps, COMPLETION_TOKENS, "rollout"),
        table="throughput",
        in_conclusions=False,
    ),
    Metric(
        name="train_tokens_per_second",
        words="update throughput",
        header="training tok/s",
        unit="tok/s",
        better=1,
        compute=lambda steps, price: rate(steps, TRAINED_TOKENS, "update", TRAIN_RATE),
        table="throughput",
        in_conclusions=False,
    ),
    Metric(
        name="step_seconds",
        words="time per step",
        header="s a step",
        unit="s",
        better=-1,
        compute=lambda steps, price: _mean_seconds(steps),
        table="throughput",
    ),
    PEAK_MEMORY,
    TRAINING_COST,
)
"""Every performance metric, in the order of the verdicts."""


@dataclass(frozen=True)
class Spending:
    """Where the wall-clock seconds of a run's attempts went.

    Attributes:
        training: steps that count.
        evaluation: of checkpoints.
        failed: what attempts that failed or were killed left nothing of.
        other: starting, loading, saving, and steps done twice.
    """

    training: float
    evaluation: float
    failed: float
    other: float


def spending(study: Study, run: str) -> Spending:
    """Splits a run's time. The four parts add up to the wall-clock time of its attempts."""
    attempts = study.attempts[study.attempts["run"] == run]
    steps = study.steps[study.steps["run"] == run]
    made = study.evaluations[study.evaluations["run"] == run]
    totals = dict.fromkeys(("training", "evaluation", "failed", "other"), 0.0)
    for attempt in records(attempts):
        number, wall = attempt["attempt"], float(attempt["wall_seconds"])
        trained = float(column(steps[steps["attempt"] == number], SECONDS).sum())
        ours = made[made["attempt"] == number] if "attempt" in made.columns else made.iloc[:0]
        evaluated = float(column(ours, EVALUATION_SECONDS).sum())
        # Clocks are read at different moments: what is left can come out a trifle below zero.
        trained, evaluated = min(trained, wall), min(evaluated, max(0.0, wall - trained))
        rest = wall - trained - evaluated
        totals["training"] += trained
        totals["evaluation"] += evaluated
        totals["failed" if attempt["status"] in ("failed", "killed") else "other"] += rest
    return Spending(**totals)
