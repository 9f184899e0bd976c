"""Tables of the two claims that are made most: that longer training hurts, and that a checkpoint is the best."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.reporting import formats
from harness.reporting.analysis.analysis import Analysis
from harness.reporting.analysis.trajectories import AccuracyCurve
from harness.reporting.tables.base import Column, Table, as_text, as_whole, make_table
from harness.store.records.form import TableRow

WITHIN_CHANCE = "within what chance gives"
ABOVE_CHANCE = "above what chance gives"


def _span(low: Any, high: Any) -> str:
    return f"{low}" if low == high else f"{low}–{high}"


_TRAJECTORIES_SHOWN: list[Column] = [
    ("benchmark", "benchmark", as_text),
    ("curve", "scope", as_text),
    ("peak at step", "peaks", as_text),
    ("peak %", "peak_accuracy", formats.points),
    ("last %", "last_accuracy", formats.points),
    ("degrades", "degrades", as_text),
    ("last step before", "changes", as_text),
    ("change", "decline", formats.signed_points),
    ("low", "ci_low", formats.signed_points),
    ("high", "ci_high", formats.signed_points),
    ("p adjusted", "p_adjusted", formats.p_text),
    ("detectable", "detectable_decline", formats.points),
    ("runs", "runs", as_whole),
    ("df", "df", as_whole),
]

_TRAJECTORIES_NOTE = (
    "Peak: the highest checkpoint, and in brackets those that the data cannot tell from it. Change: mean of the "
    "checkpoints after the steepest decline minus that of those before it (in brackets the 95 % set of the last "
    "step before it); chosen as the steepest, it overstates a small decline. p: one-sided, adjusted for the "
    "search and by Holm over the curves of a benchmark. Checkpoints before a significant rise are left out. One "
    "run: what this run did, from questions or, where they are not known, from binomial sampling noise; several: "
    "what such runs do."
)


def trajectories_table(analysis: Analysis) -> Table:
    """A row per curve and benchmark."""
    rows = [_trajectory_record(curve) for curve in analysis.trajectories]
    frame = pd.DataFrame(rows)
    if rows:
        frame = frame.astype({"questions": "Int64"})
    title = "Decline along training: peak, and what came after"
    return make_table("trajectories", title, frame, _TRAJECTORIES_SHOWN, left=2, notes=[_TRAJECTORIES_NOTE])


def _trajectory_record(curve: AccuracyCurve) -> TableRow:
    f = curve.trajectory
    return {
        "benchmark": curve.benchmark,
        "kind": curve.kind,
        "scope": curve.scope,
        "runs": curve.runs,
        "questions": curve.questions or None,
        "first_step": f.steps[0],
        "last_step": f.steps[-1],
        "peak_step": f.peak,
        "peak_accuracy": dict(zip(f.steps, f.means))[f.peak],
        "last_accuracy": f.means[-1],
        "peak_low_step": f.peak_low,
        "peak_high_step": f.peak_high,
        "peaks": f"{f.peak} ({_span(f.peak_low, f.peak_high)})",
        "rise_to_step": f.rise_to,
        "change_step": f.change,
        "change_low_step": f.change_low,
        "change_high_step": f.change_high,
        "changes": f"{f.change} ({_span(f.change_low, f.change_high)})",
        "decline": f.effect,
        "ci_low": f.ci_low,
        "ci_high": f.ci_high,
        "p_value": f.p_value,
        "p_adjusted": f.p_adjusted,
        "degrades": {"hurts": "yes", "no meaningful effect": "no"}.get(f.verdict, "inconclusive"),
        "detectable_decline": f.detectable_effect,
        "df": f.df,
    }


def best_table(analysis: Analysis) -> Table:
    """A row per benchmark: the best checkpoint beside the best of as many identical ones."""
    rows = []
    labels = dict(zip(analysis.study.runs["run"].astype(str), analysis.study.runs["label"].astype(str)))
    for g in analysis.best_of_checks:
        f = g.result
        rows.append(
            {
                "benchmark": g.benchmark,
                "checkpoint": f"{labels.get(g.run, g.run)}, step {g.step}",
                "run": g.run,
                "step": g.step,
                "checkpoints": f.checkpoints,
                "mean_accuracy": f.mean,
                "best_accuracy": f.best,
                "expected_best": f.expected,
                "upper_95": f.upper,
                "p_value": f.p_value,
                "reading": WITHIN_CHANCE if f.chance else ABOVE_CHANCE,
            }
        )
    shown: list[Column] = [
        ("benchmark", "benchmark", as_text),
        ("best checkpoint", "checkpoint", as_text),
        ("of", "checkpoints", as_whole),
        ("scores %", "best_accuracy", formats.points),
        ("best of identical ones %", "expected_best", formats.points),
        ("95 % of the time at most", "upper_95", formats.points),
        ("p", "p_value", formats.p_text),
        ("the headline is", "reading", as_text),
    ]
    notes = [
        "Best of identical ones: what the best of as many checkpoints is expected to score if all of them are the "
        "same model with the pooled accuracy and each answer is drawn anew."
    ]
    return make_table("best", "Best checkpoint and luck", pd.DataFrame(rows), shown, left=2, notes=notes)
