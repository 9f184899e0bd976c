"""What a table is: a frame for CSV, and rows of text for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.reporting import formats
from harness.reporting.frames import records


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: file name without suffix.
        title: for people.
        frame: every column; what the CSV holds.
        header: column titles of the view for people.
        rows: its rows of text.
        left: number of leading columns that are names, not figures.
        notes: footnotes.
    """

    name: str
    title: str
    frame: pd.DataFrame
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int
    notes: tuple[str, ...]

    def markdown(self, depth: int = 1) -> str:
        """The table as Markdown under a heading of that depth, with its footnotes."""
        body = formats.markdown_table(self.header, self.rows, self.left)
        notes = "".join(f"\n{formats.markdown_cell(note)}\n" for note in self.notes)
        return f"{'#' * depth} {self.title}\n\n{body}{notes}"


Column = tuple[str, str, Callable[[Any], str]]
"""A column of the view: title, key in the frame, formatter."""


def make_table(
    name: str,
    title: str,
    frame: pd.DataFrame,
    shown: Sequence[Column],
    *,
    left: int,
    notes: Sequence[str] = (),
    missing: str = "",
) -> Table:
    """A table whose view for people has the columns `shown`: title, column, formatter.

    Columns without any value are left out of the view and named in a footnote.
    """
    # A training length of external results is an axis and the step at once.
    shown = [s for i, s in enumerate(shown) if s[1] not in {t[1] for t in shown[:i]}]
    there = [s for s in shown if s[1] in frame.columns and not all(map(formats.is_empty, frame[s[1]]))]
    absent = [title for title, key, _ in shown if (title, key) not in {(t, k) for t, k, _ in there}]
    rows = tuple(tuple(write(row[key]) for _, key, write in there) for row in records(frame))
    if absent and len(frame):
        notes = [*notes, f"Not measured in these runs: {', '.join(absent)}{missing}."]
    kept = sum(1 for s in shown[:left] if s in there)
    return Table(name, title, frame, tuple(t for t, _, _ in there), rows, kept, tuple(notes))


def as_text(value: Any) -> str:
    return "" if formats.is_empty(value) else str(value)


def as_whole(value: Any) -> str:
    return formats.DASH if formats.is_empty(value) else f"{int(value):,}"


def level_columns(axes: list[str]) -> list[Column]:
    """The view's columns for axes."""
    return [(axis, axis, as_text) for axis in axes]
