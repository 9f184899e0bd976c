"""The report for other programs: LaTeX tables and one JSON file."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import asdict
from typing import Any

from harness.reporting.analysis.analysis import Analysis
from harness.reporting.frames import records
from harness.reporting.tables.base import Table
from harness.reporting.text.conclusions import Conclusions
from harness.store.records.form import JsonObject

SCHEMA = 1
_HIGHER_IS_BETTER = (
    "accuracy %",
    "gain over step 0",
    "maj@K %",
    "overall tok/s",
    "rollout tok/s",
    "training tok/s",
)

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "−": "$-$", "×": r"$\times$", "–": "--", "±": r"$\pm$", "…": r"\dots{}", "≥": r"$\ge$", "≤": r"$\le$",
}  # fmt: skip


def latex_cell(text: Any) -> str:
    """Text that LaTeX sets as it is."""
    return " ".join("".join(_LATEX.get(c, c) for c in str(text)).split())


def _best_cells(table: Table) -> set[tuple[int, int]]:
    """Row and column of the highest figures of columns where higher is better, those of one benchmark each."""
    places: set[tuple[int, int]] = set()
    apart = table.header.index("benchmark") if "benchmark" in table.header else None
    for k in (k for k, title in enumerate(table.header) if title in _HIGHER_IS_BETTER):
        groups: dict[str, dict[int, float]] = {}
        for i, row in enumerate(table.rows):
            with contextlib.suppress(ValueError):
                own = groups.setdefault("" if apart is None else row[apart], {})
                own[i] = float(row[k].replace("−", "-").replace(",", "").rstrip("%"))
        for own in groups.values():
            if len(own) > 1:
                places |= {(i, k) for i, value in own.items() if value == max(own.values())}
    return places


def latex_text(table: Table) -> str:
    """A `tabular` to be included with \\input; needs the package booktabs."""
    columns = "l" * table.left + "r" * (len(table.header) - table.left)
    best = _best_cells(table)
    cells = [
        [rf"\textbf{{{latex_cell(c)}}}" if (i, k) in best else latex_cell(c) for k, c in enumerate(row)]
        for i, row in enumerate(table.rows)
    ]
    lines = [" & ".join(row) + r" \\" for row in (map(latex_cell, table.header), *cells)]
    notes = [f"% {' '.join(note.split())}" for note in table.notes]
    body = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        lines[0],
        r"\midrule",
        *lines[1:],
        r"\bottomrule",
    ]
    return "\n".join([f"% {table.title}", *notes, *body, r"\end{tabular}", ""])


def json_text(
    analysis: Analysis, conclusions: Conclusions, tables: dict[str, Table], filled: JsonObject
) -> str:
    """The answer, every table and the provenance; what was not measured is null."""
    data = {
        "schema": SCHEMA,
        "name": filled["title"],
        "question": filled["question"],
        "answer": {
            "training": conclusions.training or None,
            "incomplete": conclusions.incomplete or None,
            "caution": conclusions.caution or None,
            "lines": [asdict(line) for line in filled["answer"]],
            "depends": list(conclusions.depends),
            "length": list(conclusions.length),
            "works": list(conclusions.works),
            "hurts": list(conclusions.hurts),
            "no_meaningful_effect": list(conclusions.same),
            "inconclusive": list(conclusions.unknown or conclusions.nothing),
            "costs": list(conclusions.costs),
        },
        "best_cell": _plain(asdict(analysis.best) | {"text": filled["best_cell"]}) if analysis.best else None,
        "settings": {
            "alpha": analysis.settings.alpha,
            "power": analysis.settings.power,
            "delta": analysis.delta,
        },
        "tables": {
            name: [{k: _plain(v) for k, v in row.items()} for row in records(table.frame)]
            for name, table in tables.items()
        },
        "provenance": dict(filled["provenance"]),
        "lint": filled["lint"],
        "events": [{k: _plain(v) for k, v in e.items()} for e in filled["events"]],
    }
    if filled["notes"]:
        data["reading"] = {title: list(sentences) for title, sentences in filled["notes"]}
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    text = str(value)
    return None if text in ("<NA>", "NaT") else text
