"""What `build` prints: the answer, accuracy by cell, verdicts, cost, and where the files are."""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

from harness import units
from harness.reporting import formats
from harness.reporting.analysis.analysis import Analysis
from harness.reporting.analysis.cells import ordered_cells
from harness.reporting.analysis.responses import benchmarks
from harness.reporting.analysis.verdict_rows import ALL
from harness.reporting.frames import records
from harness.reporting.tables.base import Table
from harness.reporting.tables.runs import price_words
from harness.reporting.tables.verdicts import primary_rows
from harness.reporting.text.answer import Line
from harness.reporting.text.conclusions import Conclusions

_MOST_CELLS = 60
"""Beyond this many the terminal shows the best cells only; the files have all."""
_MOST_NOTES = 12


def summary(
    analysis: Analysis,
    conclusions: Conclusions,
    lines: Sequence[Line],
    tables: dict[str, Table],
    out: Path,
) -> str:
    """The whole text."""
    width = min(110, shutil.get_terminal_size((110, 24)).columns)
    blocks = [
        _answer_text(lines, width),
        _conclusions_text(conclusions, width),
        _accuracy_text(analysis),
        _verdict_text(analysis, tables["verdicts"]),
    ]
    if "cost" in tables:
        blocks.append(_cost_text(tables["cost"], price_words(analysis.study)))
    blocks.append(_notes_text(analysis, width))
    blocks.append(f"Report: {out / 'report.html'}  {out / 'report.md'}\nTables: {out / 'tables'}")
    return "\n\n".join(block for block in blocks if block)


def _answer_text(answered: Sequence[Line], width: int) -> str:
    lines: list[str] = []
    for line in answered:
        lines += textwrap.wrap(
            f"{line.label}: {line.text}", width, subsequent_indent="  ", break_on_hyphens=False,
            break_long_words=False,
        )  # fmt: skip
    return "\n".join(lines)


def _conclusions_text(conclusions: Conclusions, width: int) -> str:
    lines: list[str] = []
    for title, sentences in conclusions.parts():
        lines.append(f"{title}:")
        for sentence in sentences:
            lines += textwrap.wrap(sentence, width, initial_indent="  - ", subsequent_indent="    ")
    if conclusions.caution:
        lines += textwrap.wrap(conclusions.caution, width)
    return "\n".join(lines)


def _notes_text(analysis: Analysis, width: int) -> str:
    """How external files were read: of many sentences the first, the report has all."""
    lines: list[str] = []
    for title, sentences in analysis.study.notes:
        lines.append(f"{title}:")
        for sentence in sentences[:_MOST_NOTES]:
            lines += textwrap.wrap(
                sentence, width, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False,
                break_long_words=False,
            )  # fmt: skip
        if len(sentences) > _MOST_NOTES:
            lines.append(f"  and {len(sentences) - _MOST_NOTES} more, which report.md lists")
    return "\n".join(lines)


def _accuracy_text(analysis: Analysis) -> str:
    study = analysis.study
    names = benchmarks(study)
    shown = [*names, ALL] if len(names) > 1 else names

    def scores(run: str, step: int) -> list[str]:
        found = [analysis.accuracy.get((run, step, b)) for b in shown]
        return [formats.DASH if f is None else formats.points(f.estimate) for f in found]

    def gain(run: str, step: int) -> str:
        found = analysis.gain.get((run, step, ALL))
        if found is None:
            return formats.DASH
        low, high = formats.points(found.low, signed=True), formats.points(found.high, signed=True)
        return f"{formats.points(found.estimate, signed=True)} [{low}, {high}]"

    cells = ordered_cells(study)
    note = ""
    if len(cells) > _MOST_CELLS:

        def mean(cell: dict[str, object]) -> float:
            found = analysis.accuracy.get((str(cell["run"]), int(str(cell["step"])), ALL))
            return -math.inf if found is None else found.estimate

        cells = sorted(cells, key=mean, reverse=True)[:_MOST_CELLS]
        note = f"\nThe {_MOST_CELLS} best of {len(study.cells)} cells; tables/accuracy.csv has all."
    bases = [str(r["run"]) for r in records(study.runs) if r["kind"] == "base"]
    blank = [formats.DASH] * (len(study.axes) + 1)
    rows = [["untrained", *blank[1:], *scores(run, 0), ""] for run in bases]
    for cell in cells:
        run, step = str(cell["run"]), int(cell["step"])
        levels = [str(cell[a]) for a in study.axes]
        rows.append([*levels, str(cell["seed"]), *scores(run, step), gain(run, step)])
    header = [*study.axes, "seed", *shown, "gain over step 0"]
    return "Accuracy, %\n" + formats.text_table(header, rows, left=len(study.axes)) + note


def _verdict_text(analysis: Analysis, table: Table) -> str:
    keep = [i for i, title in enumerate(table.header) if title not in ("metric", "benchmark")]
    primary = primary_rows(analysis, table)
    if not primary:
        return ""
    rows = [[row[i] for i in keep] for row in primary]
    body = formats.text_table([table.header[i] for i in keep], rows, left=3)
    return f"Verdicts on mean accuracy, points (tables/verdicts.csv has the others)\n{body}"


def _cost_text(table: Table, price: str) -> str:
    total = records(table.frame)[-1]
    parts = [
        f"{name} {units.dollars(total[key])}"
        for name, key in (
            ("training", "training_usd"),
            ("evaluation", "evaluation_usd"),
            ("other", "other_usd"),
            ("failed attempts", "failed_usd"),
            ("idle", "idle_usd"),
        )
        if total[key]
    ]
    return f"Cost: {units.dollars(total['cost_usd'])} ({', '.join(parts)}); {price}"
