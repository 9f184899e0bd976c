"""Tables of what training achieved: accuracy by cell and benchmark, cells."""

from __future__ import annotations

from functools import cache

import pandas as pd

from harness import units
from harness.reporting import formats
from harness.reporting.analysis.analysis import Analysis
from harness.reporting.analysis.cells import ordered_cells
from harness.reporting.analysis.performance import TRAINING_COST, checkpoint_metric
from harness.reporting.analysis.responses import benchmarks
from harness.reporting.analysis.verdict_rows import ALL
from harness.reporting.frames import records
from harness.reporting.tables.base import Column, Table, as_text, as_whole, level_columns, make_table
from harness.reporting.tables.metrics import metric_column, metrics_of
from harness.stats.intervals import NOTHING, Interval
from harness.store.records.form import TableRow
from harness.store.study import EVALUATION

_QUESTIONS = EVALUATION.name(lambda r: r.questions)
_SAMPLES = EVALUATION.name(lambda r: r.samples)
_CORRECT = EVALUATION.name(lambda r: r.correct)
_MAJORITY = EVALUATION.name(lambda r: r.majority_accuracy)
_REPEATS_FLAGGED = EVALUATION.name(lambda r: r.repeats and r.repeats.flagged)
_MEAN_TOKENS = EVALUATION.name(lambda r: r.completion.mean_tokens)
_TRUNCATED = EVALUATION.name(lambda r: r.completion.truncated_share)
_UNPARSABLE = EVALUATION.name(lambda r: r.completion.unparsable_share)

_ACCURACY_SHOWN: tuple[Column, ...] = (
    ("accuracy %", "accuracy", formats.points),
    ("low", "ci_low", formats.points),
    ("high", "ci_high", formats.points),
    ("gain over step 0", "gain", formats.signed_points),
    ("gain low", "gain_ci_low", formats.signed_points),
    ("gain high", "gain_ci_high", formats.signed_points),
)

_ACCURACY_NOTE = (
    "Accuracy: mean over questions of the share of right samples, with a 95 % Wilson interval on the effective "
    "number of samples (samples of a question are not independent). Gain: against step 0 on the same questions, "
    "95 %; it speaks of this checkpoint, not of what another seed would give."
)


def _interval_columns(accuracy: Interval, gain: Interval) -> tuple[dict[str, float], dict[str, float]]:
    return (
        {"accuracy": accuracy.estimate, "ci_low": accuracy.low, "ci_high": accuracy.high},
        {"gain": gain.estimate, "gain_ci_low": gain.low, "gain_ci_high": gain.high},
    )


def accuracy_table(analysis: Analysis) -> Table:
    """A row per cell and benchmark, those of untrained models first. Nothing in it depends on time or place."""
    study = analysis.study
    measured = {(str(e["run"]), int(e["step"]), str(e["benchmark"])): e for e in records(study.evaluations)}
    tries = sorted(
        int(k)
        for k in EVALUATION.keys(study.evaluations.columns, lambda r: r.pass_at_k)
        if study.evaluations[_pass_at(k)].notna().any()
    )
    bases = sorted(str(r) for r in study.runs.loc[study.runs["kind"] == "base", "run"])
    places: list[TableRow] = [{"run": run, "step": 0, "seed": None} for run in bases]
    rows = [
        _accuracy_row(analysis, place, benchmark, measured, tries)
        for place in [*places, *ordered_cells(study)]
        for benchmark in benchmarks(study)
    ]
    empty = [
        *study.axes,
        "seed",
        "step",
        "benchmark",
        "questions",
        "samples",
        "accuracy",
        "ci_low",
        "ci_high",
        "run",
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    frame = pd.DataFrame(rows, columns=columns or empty)
    if rows:
        frame = frame.astype(dict.fromkeys(("seed", "step", "questions", "samples", "correct"), "Int64"))
    shown: list[Column] = [
        *level_columns(study.axes),
        ("seed", "seed", as_text),
        ("step", "step", as_text),
        ("benchmark", "benchmark", as_text),
        *_ACCURACY_SHOWN,
        ("questions", "questions", as_whole),
        ("samples", "samples", as_whole),
        *((f"pass@{k} %", f"pass_at_{k}", formats.points) for k in tries if k > 1),
        ("maj@K %", "majority_accuracy", formats.points),
        ("tokens", "mean_completion_tokens", formats.number),
        ("truncated %", "truncated_share", formats.points),
        ("unparsable %", "unparsable_share", formats.points),
        ("run", "run", as_text),
    ]
    return make_table("accuracy", "Accuracy", frame, shown, left=len(study.axes) + 3, notes=[_ACCURACY_NOTE])


def _accuracy_row(
    analysis: Analysis,
    place: TableRow,
    benchmark: str,
    measured: dict[tuple[str, int, str], TableRow],
    tries: list[int],
) -> TableRow:
    key = (str(place["run"]), int(place["step"]), benchmark)
    record = measured.get(key, {})
    accuracy, gain = _interval_columns(
        analysis.accuracy.get(key, NOTHING), analysis.gain.get(key, NOTHING) if key[1] else NOTHING
    )
    return {
        **{axis: place.get(axis) for axis in analysis.study.axes},
        "seed": place["seed"],
        "step": place["step"],
        "benchmark": benchmark,
        "questions": record.get(_QUESTIONS),
        "samples": record.get(_SAMPLES),
        **accuracy,
        "run": place["run"],
        "correct": record.get(_CORRECT),
        **gain,
        **{f"pass_at_{k}": record.get(_pass_at(k)) for k in tries},
        "majority_accuracy": record.get(_MAJORITY),
        "mean_completion_tokens": record.get(_MEAN_TOKENS),
        "truncated_share": record.get(_TRUNCATED),
        "unparsable_share": record.get(_UNPARSABLE),
        **_more_intervals(record),
    }


_BOUNDED = {
    "majority": "majority_at_k",
    "mean_completion_tokens": _MEAN_TOKENS,
    "truncated": _TRUNCATED,
    "unparsable": _UNPARSABLE,
}
"""Columns with bounds of their own by prefix, and where the record has them."""


@cache
def _pass_at(k: int | str) -> str:
    return EVALUATION.name(lambda r: r.pass_at_k and r.pass_at_k[str(k)])


@cache
def _bounds(figure: str) -> str:
    return EVALUATION.name(lambda r: r.intervals and r.intervals[figure])


def _more_intervals(record: TableRow) -> TableRow:
    """Bounds of the figures beside accuracy, and whether samples repeat; nothing for records made before they were
    kept, so that tables of old folders stay what they are."""
    if not isinstance(record.get(_bounds("accuracy")), tuple):
        return {}
    columns: TableRow = {}
    for prefix, name in _BOUNDED.items():
        key = f"{name}.{int(record['samples'])}" if name == "majority_at_k" else name
        low, high = record[_bounds(key)]
        columns |= {f"{prefix}_ci_low": low, f"{prefix}_ci_high": high}
    return {**columns, "repeats_flagged": record.get(_REPEATS_FLAGGED)}


def _dollars_a_point(cost_usd: float | None, gain: dict[str, float]) -> float | None:
    """Dollars of training for a point of mean accuracy over step 0; None where a gain is not certain."""
    if cost_usd is None or not gain["gain_ci_low"] > 0:
        return None
    return cost_usd / (100 * gain["gain"])


def cells_table(analysis: Analysis) -> Table:
    """A row per cell: the mean over benchmarks, the gain over step 0, and the cost of getting there."""
    study = analysis.study
    metrics = metrics_of("cells")
    values = {metric.name: checkpoint_metric(study, metric) for metric in metrics}
    rows = []
    for cell in ordered_cells(study):
        key = (str(cell["run"]), int(cell["step"]))
        accuracy, gain = _interval_columns(
            analysis.accuracy.get((*key, ALL), NOTHING), analysis.gain.get((*key, ALL), NOTHING)
        )
        rows.append(
            {
                **{axis: cell[axis] for axis in study.axes},
                "seed": cell["seed"],
                "step": cell["step"],
                **accuracy,
                **gain,
                **{name: of_key.get(key) for name, of_key in values.items()},
                "usd_per_point": _dollars_a_point(values.get(TRAINING_COST.name, {}).get(key), gain),
                "run": cell["run"],
            }
        )
    gained = any(row["usd_per_point"] is not None for row in rows)
    shown: list[Column] = [
        *level_columns(study.axes),
        ("seed", "seed", as_text),
        *_ACCURACY_SHOWN,
        *map(metric_column, metrics),
        *([("cost a point gained", "usd_per_point", units.dollars)] if gained else []),
    ]
    notes = [
        "Mean over benchmarks, each weighing the same. Training cost: steps up to the checkpoint."
        + (" Cost a point gained: where the gain's interval lies above zero." if gained else "")
    ]
    return make_table("cells", "Cells", pd.DataFrame(rows), shown, left=len(study.axes) + 1, notes=notes)
