"""One way to write numbers, CSV and Markdown, so that equal experiments give equal bytes."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from harness.safe_text import visible

DASH = "–"
"""Stands in tables for people where nothing was measured."""


def is_empty(value: Any) -> bool:
    """Whether a cell has nothing to say: None, NaN, NA or an empty text."""
    return value is None or value is pd.NA or value == "" or (isinstance(value, float) and math.isnan(value))


def level_name(value: Any) -> str:
    """A level's name: 48.0 of a column that a missing value made floating is 48; what has no level is –."""
    if is_empty(value):
        return DASH
    return str(int(value)) if isinstance(value, float) and value.is_integer() else visible(str(value))


def plain(value: Any) -> str:
    """A CSV cell: six significant digits, `true`/`false`, empty for what was not measured."""
    value = value.item() if hasattr(value, "item") else value
    if is_empty(value):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = f"{value:.6g}"
        return "0" if text == "-0" else text
    return no_formula(str(value))


_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How a text begins that a spreadsheet takes for a formula (OWASP, CSV injection), quoted before or not."""


_QUANTITY = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?( (%|[a-z]+))*")
"""A number, with a unit in plain words or none: `-0.5`, `+3.1 points`."""


def no_formula(text: str) -> str:
    """A text that a spreadsheet shows and does not compute: an apostrophe before what would be a formula."""
    return f"'{text}" if _FORMULA.match(text) and not _QUANTITY.fullmatch(text) else text


def with_formula(text: str) -> str:
    """What `no_formula` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def csv_text(frame: pd.DataFrame) -> str:
    """The frame as CSV with a header row and \\n line ends; see `with_formula` for what to undo on reading."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([no_formula(str(column)) for column in frame.columns])
    writer.writerows([plain(v) for v in row] for row in frame.itertuples(index=False, name=None))
    return buffer.getvalue()


def points(fraction: float, *, signed: bool = False) -> str:
    """A fraction as percentage points with one digit: `+3.1`."""
    if is_empty(fraction):
        return DASH
    text = f"{100 * fraction:{'+' if signed else ''}.1f}"
    return text.replace("-", "−")


def signed_points(fraction: float) -> str:
    """A difference as points: `+3.1`."""
    return points(fraction, signed=True)


def percent(fraction: float, *, signed: bool = False) -> str:
    """A fraction as a percentage: `62.5 %`."""
    return DASH if is_empty(fraction) else f"{points(fraction, signed=signed)} %"


def number(value: Any, digits: int = 3) -> str:
    """A figure with that many significant digits, never in scientific notation between 1e-4 and 1e7."""
    value = value.item() if hasattr(value, "item") else value
    if is_empty(value):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if value == 0:
            return "0"
        magnitude = math.floor(math.log10(abs(value)))
        if not -5 < magnitude < 7:
            return f"{value:.{digits - 1}e}"
        return f"{value:,.{max(0, digits - 1 - magnitude)}f}".replace("-", "−")
    return str(value)


def p_text(p: float) -> str:
    """A p-value: `< 0.001` where it is."""
    if is_empty(p):
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def markdown_cell(text: Any) -> str:
    """Text that cannot break out of a Markdown table cell, nor be taken for markup or HTML."""
    escaped = str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An underscore inside a word is no emphasis, and axis names are full of them.
    marked = re.sub(r"[\\|`*\[\]]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", escaped)
    return " ".join(marked.split())


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1) -> str:
    """A Markdown table; the first `left` columns are aligned left, the others right."""
    aligned = [":--" if i < left else "--:" for i in range(len(header))]
    lines = [header, aligned, *rows]
    cells = [[markdown_cell(c) if i != 1 else str(c) for c in line] for i, line in enumerate(lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


def text_table(header: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1) -> str:
    """A table for a terminal."""
    cells = [[str(c) for c in line] for line in [header, *rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    lines = [
        "  ".join(
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))
        ).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
