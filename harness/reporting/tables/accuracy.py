"""Tables of what training achieved: accuracy by cell and benchmark, cells, verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pandas as pd

from harness.reporting import formats
from harness.reporting.analysis.analysis import Analysis
from harness.reporting.analysis.cells import ordered_cells
from harness.reporting.analysis.performance import RELATIVE_DELTA, checkpoint_metric
from harness.reporting.analysis.responses import benchmarks
from harness.reporting.analysis.verdict_rows import ALL, Row, is_share
from harness.reporting.frames import records
from harness.reporting.tables.base import Column, Table, as_text, as_whole, level_columns, make_table
from harness.reporting.tables.metrics import metric_column, metrics_of
from harness.stats.intervals import NOTHING, Interval
from harness.stats.power import NOTHING_BOUGHT
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

VERDICT_COLUMNS = (
    "metric",
    "benchmark",
    "axis",
    "level",
    "baseline",
    "effect",
    "ci_low",
    "ci_high",
    "p_adjusted",
    "verdict",
    "detectable_effect",
    "runs",
    "df",
)

_POINTS_SIGNED: Callable[[Any], str] = partial(formats.points, signed=True)

_ACCURACY_SHOWN: tuple[Column, ...] = (
    ("accuracy %", "accuracy", formats.points),
    ("low", "ci_low", formats.points),
    ("high", "ci_high", formats.points),
    ("gain over step 0", "gain", _POINTS_SIGNED),
    ("gain low", "gain_ci_low", _POINTS_SIGNED),
    ("gain high", "gain_ci_high", _POINTS_SIGNED),
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
                "run": cell["run"],
            }
        )
    shown: list[Column] = [
        *level_columns(study.axes),
        ("seed", "seed", as_text),
        *_ACCURACY_SHOWN,
        *map(metric_column, metrics),
    ]
    notes = ["Mean over benchmarks, each weighing the same. Training cost: steps up to the checkpoint."]
    return make_table("cells", "Cells", pd.DataFrame(rows), shown, left=len(study.axes) + 1, notes=notes)


def verdicts_table(analysis: Analysis) -> Table:
    """Every verdict; accuracy effects are fractions, the others ratios − 1."""
    rows = [verdict_record(row) for row in analysis.rows]
    frame = pd.DataFrame(rows, columns=[*VERDICT_COLUMNS, *_VERDICT_EXTRAS])
    frame = frame.astype(dict.fromkeys(_WHOLE, "Int64"))
    settings = analysis.settings
    note = (
        "Accuracy in points, other metrics in percent. Mean accuracy (all): Holm over axes, Dunnett within an "
        f"axis, family-wise error rate {settings.alpha:g}; single benchmarks and other metrics: "
        "Benjamini–Hochberg. Works / hurts: the adjusted interval excludes zero and the effect is at least "
        f"{formats.points(analysis.delta)} points (other metrics: {RELATIVE_DELTA:.0%}). No meaningful effect: the "
        f"{1 - 2 * settings.alpha:.0%} interval lies within that. Detectable: found with {settings.power:.0%} "
        "power; where no degree of freedom measures how runs vary, with the noise that plans assume. No verdict "
        "below 3 degrees of freedom. Trajectory rows: checkpoints after the steepest decline against those "
        "before it, one-sided, adjusted for the search and by Holm over the curves of a benchmark; those of one run "
        "speak of that run, not of what another seed would give. Training: the last checkpoint against step 0, "
        "a family of its own."
    )
    header = (
        *("metric", "benchmark", "axis", "level", "baseline", "effect", "low", "high", "p adjusted"),
        *("verdict", "detectable", "runs", "df"),
    )
    text = tuple(_verdict_text(row, record) for row, record in zip(analysis.rows, rows))
    return Table("verdicts", "Verdicts", frame, header, text, 5, (note,))


def effect_text(metric: str, value: float, *, signed: bool = True) -> str:
    """An effect for people: points of accuracy, percent of other metrics."""
    if formats.is_empty(value):
        return formats.DASH
    return formats.points(value, signed=signed) + ("" if is_share(metric) else " %")


def _verdict_text(row: Row, record: TableRow) -> tuple[str, ...]:
    return (
        row.metric,
        row.benchmark,
        "training" if row.family == "training" else row.judgement.axis,
        str(record["level"]),
        str(record["baseline"]),
        *(effect_text(row.metric, record[c]) for c in ("effect", "ci_low", "ci_high")),
        formats.p_text(record["p_adjusted"]),
        str(record["verdict"]),
        effect_text(row.metric, record["detectable_effect"], signed=False),
        str(record["runs"]),
        str(record["df"]),
    )


_WHOLE = ("questions", "seeds_needed", "questions_needed", "seeds_low", "seeds_high")
_VERDICT_EXTRAS = [
    "p_value",
    "standard_error",
    "equivalence_low",
    "equivalence_high",
    "delta",
    "questions",
    "seeds_needed",
    "questions_needed",
    "family",
    "assumed",
    "t_df",
    "corrected_effect",
    "noise",
    "unit",
    "seeds_low",
    "seeds_high",
    "with_one_more_seed",
    "with_twice_the_questions",
    "with_twice_the_samples",
]


def verdict_record(row: Row) -> TableRow:
    """A row of verdicts.csv."""
    j = row.judgement
    bought = j.purchases or NOTHING_BOUGHT
    same = is_share(row.metric)

    def scaled(value: float) -> float:
        return value if same or math.isnan(value) else math.expm1(min(value, 700.0))

    return {
        "metric": row.metric,
        "benchmark": row.benchmark,
        "axis": j.axis,
        "level": j.level,
        "baseline": j.baseline,
        "effect": scaled(j.effect),
        "ci_low": scaled(j.ci_low),
        "ci_high": scaled(j.ci_high),
        "p_adjusted": j.p_adjusted,
        "verdict": j.verdict,
        "detectable_effect": scaled(j.detectable_effect),
        "runs": j.runs,
        "df": j.df,
        "p_value": j.p_value,
        # Of the logarithm for other metrics than accuracy.
        "standard_error": j.standard_error,
        "equivalence_low": scaled(j.equivalence_low),
        "equivalence_high": scaled(j.equivalence_high),
        "delta": scaled(j.delta),
        "questions": j.questions or None,
        "seeds_needed": j.seeds_needed,
        "questions_needed": j.questions_needed,
        "family": row.family,
        "assumed": j.assumed,
        "t_df": j.t_df or None,
        "corrected_effect": scaled(j.corrected_effect),
        "noise": j.noise,
        "unit": j.unit,
        "seeds_low": j.seeds_low,
        "seeds_high": j.seeds_high,
        # What would be detectable then.
        "with_one_more_seed": scaled(bought.one_more_seed),
        "with_twice_the_questions": scaled(bought.twice_the_questions),
        "with_twice_the_samples": scaled(bought.twice_the_samples),
    }
