"""Sources that hold a fixed list of questions: from their rows to problems, and to rows that cannot be used."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from harness.data.columns import Columns, find_columns
from harness.data.errors import SourceNotFound, UnusableData
from harness.data.files import SUFFIXES, column_names, is_known, kind_of, read_rows, stem_of, unit_of
from harness.data.problem import Problem
from harness.data.references import find_reference, listed_rows, not_found
from harness.data.rows import RawRow, Unreadable, shown
from harness.spec.data import FileSource, HubSource
from harness.spec.source import nearest

MAX_CELL_CHARACTERS = 131_072
"""Longest question or answer; beyond it a quote was left open, or something else than a question was read."""
MAX_DIGITS = 1000
"""Digits that a number written out may have."""
_MOST_REASONS = 3


@dataclass(frozen=True)
class InvalidRow:
    """A row that cannot be used.

    Attributes:
        row: the line on which it begins, else the row's number.
        reason: why: the column and what is wrong with it.
        id: the name that its problem would have.
    """

    row: int
    reason: str
    id: str


@dataclass(frozen=True)
class Stored:
    """What a stored source holds.

    Attributes:
        where: the source's name in messages: its path or hub id.
        unit: what places count: `line` or `row`.
        columns: the columns that were read.
        problems: the rows that can be used, in order.
        invalid: those that cannot, in order.
    """

    where: str
    unit: str
    columns: Columns
    problems: list[Problem]
    invalid: list[InvalidRow]

    def check_usable(self, spec: FileSource | HubSource) -> None:
        """Whether every row can be used, or those that cannot are to be dropped and others are left.

        Raises:
            UnusableData: otherwise.
        """
        if self.invalid and (not self.problems or not spec.drop_invalid):
            hint = "mend what is wrong there, or drop and count such rows: `drop_invalid: true`"
            if not self.problems:
                hint = "mend them, or set another `question:`, `answer:` or `answer_pattern:`"
            raise UnusableData(
                f"{self.place(self.invalid[0])}: {self.invalid[0].reason}{self._further()}", hint
            )

    def dropped(self) -> str | None:
        """How many rows are dropped, why, and where they stand, in a sentence; None where none are."""
        if not self.invalid:
            return None
        return f"{self.where}: {len(self.invalid):,} of {self.rows:,} rows are dropped: {self._reasons()}"

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.problems) + len(self.invalid)

    def _reasons(self) -> str:
        counted = Counter(invalid.reason for invalid in self.invalid).most_common(_MOST_REASONS)
        rest = len(self.invalid) - sum(number for _, number in counted)
        parts = [f"{number:,} × {reason}" for reason, number in counted] + (
            [f"{rest:,} × others"] if rest else []
        )
        return f"{'; '.join(parts)} ({listed_rows(self.unit, [invalid.row for invalid in self.invalid])})"

    def place(self, invalid: InvalidRow) -> str:
        """Where a row stands: `data.csv:12`."""
        return f"{self.where}:{invalid.row}" if self.unit == "line" else f"{self.where}: row {invalid.row}"

    def _further(self) -> str:
        if len(self.invalid) == 1:
            return ""
        if not self.problems:
            return f"; none of the {self.rows:,} rows can be used"
        others = listed_rows(self.unit, [invalid.row for invalid in self.invalid[1:]])
        return f"; {len(self.invalid):,} of {self.rows:,} rows cannot be used, also {others}"


def load_file(spec: FileSource, *, extra: bool = False) -> Stored:
    """All rows of a file.

    Args:
        spec: the source.
        extra: also keep the columns that it is not read for.

    Raises:
        SourceNotFound: there is no such file.
        UnusableData: it cannot be read, or a column is missing.
    """
    columns = check_file(spec)
    path = Path(spec.path)
    rows = read_rows(path, None if extra else columns.wanted())
    return judged(rows, spec, columns, where=spec.path, unit=unit_of(path), name=stem_of(path), extra=extra)


def check_file(spec: FileSource) -> Columns:
    """The file's columns, from its head.

    Raises:
        SourceNotFound: there is no such file, or of no known kind.
        UnusableData: it cannot be read, has no row, or a column is missing.
    """
    path = Path(spec.path)
    if not is_known(path):
        raise SourceNotFound(
            f"{spec.path}: unknown suffix {kind_of(path) or path.suffix!r}",
            f"one of {', '.join(SUFFIXES)}, or .gz",
        )
    if not path.is_file():
        siblings = sorted(p.name for p in path.parent.glob("*") if is_known(p))
        hint = nearest(path.name, siblings) if siblings else f"current folder: {Path.cwd()}"
        raise SourceNotFound(f"{spec.path}: no such file", hint if hint.startswith("did") else None)
    return find_columns(spec, column_names(path), spec.path)


def file_fingerprint(spec: FileSource) -> str:
    """Hash of the file's bytes.

    Raises:
        SourceNotFound: as `check_file`.
    """
    check_file(spec)
    digest = hashlib.sha256()
    with open(spec.path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return f"file:{digest.hexdigest()}"


def judged(
    rows: Iterable[RawRow],
    spec: FileSource | HubSource,
    columns: Columns,
    *,
    where: str,
    unit: str,
    name: str,
    extra: bool,
) -> Stored:
    """Rows as problems, and those that cannot be used with the reason."""
    problems: list[Problem] = []
    invalid: list[InvalidRow] = []
    for index, row in enumerate(rows):
        row_id = f"{name}:{index}"
        try:
            question, answer = _question_and_answer(row, spec, columns)
        except _Unusable as error:
            invalid.append(InvalidRow(row.number, str(error), row_id))
            continue
        difficulty = None if columns.difficulty is None else row.values.get(columns.difficulty)
        label = "" if difficulty is None or isinstance(difficulty, Unreadable) else str(difficulty).strip()
        others = _others(row.values, spec, columns) if extra else {}
        problems.append(Problem(row_id, question, answer, name, label, row.number, others))
    return Stored(where, unit, columns, problems, invalid)


class _Unusable(Exception):
    """Why a row cannot be used."""


def _question_and_answer(row: RawRow, spec: FileSource | HubSource, columns: Columns) -> tuple[str, str]:
    if row.problem:
        raise _Unusable(row.problem)
    question, answer = (_text(row.values, column) for column in (columns.question, columns.answer))
    if spec.answer_pattern is None:
        return question, answer
    reference = find_reference(spec.answer_pattern, answer)
    if reference is None:
        raise _Unusable(f"{columns.answer!r} holds {not_found(spec.answer_pattern)} (answer_pattern)")
    return question, reference


def _text(values: Mapping[str, Any], column: str) -> str:
    """A cell as text; a number as all its digits."""
    if column not in values:
        raise _Unusable(f"has no {column!r}")
    match values[column]:
        case Unreadable(reason):
            raise _Unusable(f"{column!r} {reason}")
        case str(value):
            text = value.strip()
        case bool() as value:
            raise _Unusable(f"{column!r} must be text or a number, got {shown(value)}")
        case int() | float() | Decimal() as value:
            text = _digits(value, column)
        case value:
            raise _Unusable(f"{column!r} must be text or a number, got {shown(value)}")
    if not text:
        raise _Unusable(f"{column!r} is empty")
    if text.casefold() == "nan":
        raise _Unusable(f"{column!r} must be text or a number, got NaN")
    if len(text) > MAX_CELL_CHARACTERS:
        raise _Unusable(f"{column!r} holds more than {MAX_CELL_CHARACTERS:,} characters")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise _Unusable(f"{column!r} holds half a surrogate pair")
    return text


def _digits(value: float | Decimal, column: str) -> str:
    """Digits alone: `1e-05`, as Python writes it, is no number to the answer checker."""
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not exact.is_finite():
        raise _Unusable(f"{column!r} must be a finite number, got {shown(value)}")
    exponent = exact.as_tuple().exponent
    if abs(exact.adjusted()) > MAX_DIGITS or (isinstance(exponent, int) and -exponent > MAX_DIGITS):
        raise _Unusable(f"{column!r} is a number of more than {MAX_DIGITS:,} digits")
    return format(exact, "f")


def _others(values: Mapping[str, Any], spec: FileSource | HubSource, columns: Columns) -> dict[str, Any]:
    """What else the row says. A solution in which the reference was found is more than the reference."""
    known = {columns.question, *([columns.answer] if spec.answer_pattern is None else [])}
    others = {name: value for name, value in values.items() if name not in known}
    # JSON has one kind of number.
    plain = {name: float(value) if isinstance(value, Decimal) else value for name, value in others.items()}
    return {name: value for name, value in plain.items() if is_json(value)}


def is_json(value: Any) -> bool:
    """Whether JSON can hold a value."""
    if isinstance(value, float):
        return math.isfinite(value)
    if value is None or isinstance(value, str | int | bool):
        return True
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
