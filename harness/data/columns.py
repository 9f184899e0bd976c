"""The columns that a source is read from: given, or found by their usual names; the same for files and the hub."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from harness.data.errors import UnusableData
from harness.spec.data import FileSource, HubSource
from harness.spec.source import nearest

QUESTION_COLUMNS = ("question", "problem", "prompt")
"""Usual names of the question's column, capitals aside."""
ANSWER_COLUMNS = ("answer", "final_answer", "ground_truth", "target", "solution")
"""Usual names of the reference's column, capitals aside; the first that is there is taken, since a solution may
stand beside its answer."""
_MOST_SHOWN = 20


class Columns(NamedTuple):
    """The columns that a source is read from."""

    question: str
    answer: str
    difficulty: str | None

    def wanted(self) -> list[str]:
        """All of them."""
        return [column for column in dict.fromkeys(self) if column is not None]


def find_columns(spec: FileSource | HubSource, there: Sequence[str], where: str) -> Columns:
    """The columns of a source among those that are there.

    Args:
        spec: the source.
        there: the names of all columns.
        where: the source's name in messages.

    Raises:
        UnusableData: a column that is given is not there; none has a usual name, or both `question` and `problem`
            have.
    """
    for field in ("question", "answer", "difficulty_column"):
        name = getattr(spec, field)
        if name is not None and name not in there:
            raise UnusableData(
                f"{where}: no column {name!r} for `{field}`; its columns: {_listed(there)}",
                _guess(field, name, there),
            )
    question = spec.question or _found("question", QUESTION_COLUMNS, there, where)
    answer = spec.answer or _found("answer", ANSWER_COLUMNS, there, where)
    return Columns(question, answer, spec.difficulty_column)


def _found(field: str, usual: Sequence[str], there: Sequence[str], where: str) -> str:
    named = {name: _called(name, there) for name in usual}
    present = [column for columns in named.values() for column in columns]
    if not present:
        raise UnusableData(
            f"{where}: no column is called {', '.join(usual[:-1])} or {usual[-1]}; its columns: {_listed(there)}",
            _separated(there) or f"name the column with the {field}: `{field}: {_likely(usual, there)}`",
        )
    first = next(columns for columns in named.values() if columns)
    # Either of these was once the default of some kind of source, and neither says more than the other.
    both = field == "question" and named["question"] and named["problem"]
    if both or len(first) > 1:
        several = [*named["question"], *named["problem"]] if both else first
        raise UnusableData(
            f"{where}: {' and '.join(map(repr, several))} may both be the {field}",
            f"say which: `{field}: {several[0]}`",
        )
    return first[0]


def _called(name: str, there: Sequence[str]) -> list[str]:
    """The columns of this name: the one that is written so, else those that differ in capitals or spaces alone."""
    if name in there:
        return [name]
    return [column for column in there if column.strip().casefold() == name]


def _likely(usual: Sequence[str], there: Sequence[str]) -> str:
    close = (match for name in usual for match in difflib.get_close_matches(name, there, n=1))
    return next(close, "…")


def _guess(field: str, name: str, there: Sequence[str]) -> str:
    close = nearest(name, there)
    return close if close.startswith("did you mean") else f"write one of them after `{field}:`"


def _separated(there: Sequence[str]) -> str | None:
    """What to do about a header that other marks than commas divide."""
    for mark, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(there) == 1 and mark in there[0]:
            return f"commas must part the columns, not {name}"
    return None


def _listed(there: Sequence[str]) -> str:
    shown = ", ".join(repr(column) for column in there[:_MOST_SHOWN]) or "none"
    return shown + (f" and {len(there) - _MOST_SHOWN} more" if len(there) > _MOST_SHOWN else "")
