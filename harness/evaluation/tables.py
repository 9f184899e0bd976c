"""The table of evaluations: a row per model, checkpoint, benchmark and cap, with the settings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from harness.reporting import formats
from harness.reporting.tables.base import Column, Table, as_text, as_whole, make_table
from harness.spec.engines import FIRST_ENGINE
from harness.spec.errors import SpecError
from harness.store.atomic import make_folder, read_json, write_text
from harness.store.folders import RunFolder, Store
from harness.store.records import EvaluationRecord
from harness.store.records.form import TableRow

Located = tuple[RunFolder, EvaluationRecord]
"""An evaluation: its run's folder and its record."""

_NOTE = (
    "avg@k: mean over questions of the share of right samples; pass@k: unbiased (Chen et al. 2021); maj@k: the most "
    "frequent answer by the project's equality, over disjoint blocks of k samples. Brackets: 95 %, clustered by "
    "question. A completion cut at the cap is wrong unless it holds a whole answer. Unparsable: no boxed answer that "
    "can be read. Repeats: identical samples beyond chance."
)


def evaluations_in(out: Path) -> list[Located]:
    """Every evaluation in an output folder, in the order of the table.

    Raises:
        SpecError: one has no settings, as those of early versions.
    """
    found = [(run, record) for run in Store(out).runs() for record in run.evaluations()]
    for run, record in found:
        if record.settings is None:
            raise SpecError(
                f"{run.path}: the evaluation of {record.benchmark} at step {record.step} has no settings",
                hint="an early version made it: evaluate again, in another folder",
            )
    return sorted(found, key=lambda pair: _order(*pair))


def _order(run: RunFolder, record: EvaluationRecord) -> tuple[str, int, str, int, str]:
    cap = record.known_settings.max_completion_tokens
    return (model_name(run, record), record.step, record.benchmark, -cap, record.evaluation_id)


def model_name(run: RunFolder, record: EvaluationRecord) -> str:
    """The model's name: in the record of a single evaluation, else in the run's job."""
    if record.model is not None:
        return record.model
    path = run.path / "run.json"
    return str(read_json(path)["recipe"]["model"]["name"]) if path.exists() else run.run_id


def evaluations_table(found: Iterable[Located]) -> Table:
    """The table; nothing in it depends on time or place."""
    rows = [_row(run, record) for run, record in found]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    frame = pd.DataFrame(rows, columns=columns)
    tries = sorted(int(c[8:]) for c in columns if c.startswith("pass_at_") and c[8:].isdigit())
    most = max(tries, default=1)
    shown: list[Column] = [
        ("model", "model", as_text),
        ("step", "step", as_text),
        ("benchmark", "benchmark", as_text),
        ("cap", "max_completion_tokens", as_whole),
        ("questions", "questions", as_whole),
        ("K", "samples", as_whole),
        ("avg@K %", "accuracy_text", as_text),
        *((f"pass@{k} %", f"pass_at_{k}_text", as_text) for k in tries if k in (4, most) and k > 1),
        *((f"maj@{k} %", f"majority_at_{k}_text", as_text) for k in tries if k == most and k > 1),
        ("tokens", "mean_tokens_text", as_text),
        ("truncated %", "truncated_text", as_text),
        ("unparsable %", "unparsable_text", as_text),
        ("repeats", "repeats_text", as_text),
    ]
    kept = frame[[c for c in columns if not c.endswith("_text")]]
    made = make_table("evaluations", "Evaluations", frame, shown, left=3, notes=[_NOTE])
    return Table(made.name, made.title, kept, made.header, made.rows, made.left, made.notes)


def _row(run: RunFolder, record: EvaluationRecord) -> TableRow:
    settings, completion, repeats = record.known_settings, record.completion, record.repeats
    bounds = record.intervals or {}
    row: TableRow = {
        "model": model_name(run, record),
        "step": record.step,
        "benchmark": record.benchmark,
        "max_completion_tokens": settings.max_completion_tokens,
        "questions": record.questions,
        "samples": record.samples,
        **_figure("accuracy", record.accuracy, bounds.get("accuracy"), "ci"),
    }
    for kind, values in (("pass_at", record.pass_at_k), ("majority_at", record.majority_at_k)):
        for k, value in (values or {}).items():
            row |= _figure(f"{kind}_{k}", value, bounds.get(f"{kind}_k.{k}"))
    shares = {"truncated": completion.truncated_share, "unparsable": completion.unparsable_share}
    for name, value in shares.items():
        row |= _figure(name, value, bounds.get(f"completion.{name}_share"))
    mean = completion.mean_tokens
    low, high = bounds.get("completion.mean_tokens") or (math.nan, math.nan)
    row |= {"mean_tokens": mean, "mean_tokens_ci_low": low, "mean_tokens_ci_high": high}
    row["mean_tokens_text"] = f"{formats.number(mean)} [{formats.number(low)}, {formats.number(high)}]"
    longer = record.truncated_from
    row |= {
        "identical_pairs": repeats.identical_pairs if repeats else None,
        "expected_identical_pairs": repeats.expected_pairs if repeats else None,
        "repeats_flagged": repeats.flagged if repeats else None,
        "repeats_text": "" if repeats is None else "SEEDS IGNORED?" if repeats.flagged else "none",
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "seed": settings.seed,
        "engine": settings.engine or FIRST_ENGINE,
        "system": settings.prompt.system,
        "template": settings.prompt.template,
        "truncated_from": longer.max_completion_tokens if longer else None,
        "evaluation_id": record.evaluation_id,
        "run": run.run_id,
    }
    return row


def _figure(name: str, value: float, bounds: tuple[float, float] | None, ends: str | None = None) -> TableRow:
    low, high = bounds or (math.nan, math.nan)
    prefix = ends or f"{name}_ci"
    text = f"{formats.points(value)} [{formats.points(low)}, {formats.points(high)}]"
    return {name: value, f"{prefix}_low": low, f"{prefix}_high": high, f"{name}_text": text}


def write_tables(out: Path, table: Table) -> None:
    """Writes `tables/evaluations.{csv,md}` under `out`."""
    folder = out / "tables"
    make_folder(folder)
    write_text(folder / "evaluations.csv", formats.csv_text(table.frame))
    write_text(folder / "evaluations.md", table.markdown())
