"""A row of a file as it stands, and what the readers of all kinds of files share."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, cast

from harness.data.errors import UnusableData

BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Unreadable:
    """Stands for a cell that cannot be read; says why."""

    reason: str


@dataclass(frozen=True)
class RawRow:
    """A row as it stands.

    Attributes:
        number: the line on which it begins, counted from 1; in Parquet files and JSON arrays the row.
        values: its cells by column; a column that the row lacks is missing.
        problem: why the row as a whole cannot be read; empty where it can.
    """

    number: int
    values: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked where it is compressed, whatever its name says."""
    with path.open("rb") as raw:
        head = raw.read(4)
        raw.seek(0)
        if head[:2] == b"\x1f\x8b":
            with gzip.open(raw) as unpacked:
                yield cast(BinaryIO, unpacked)
        elif head[:2] in _UTF16:
            raise UnusableData(f"{path}: is UTF-16", "save it as UTF-8")
        else:
            yield raw


def no_repeats(where: str, names: Sequence[str]) -> None:
    """Whether no two columns have one name.

    Raises:
        UnusableData: two have.
    """
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UnusableData(f"{where}: two columns are called {repeated!r}", "rename one of them")


def not_utf8(error: UnicodeDecodeError) -> str:
    """What is wrong with a row or cell whose bytes could not be decoded."""
    return f"holds a byte that is not UTF-8, 0x{error.object[error.start]:02x}"


def shown(value: object) -> str:
    """A cell's value for a message: `null`, `a list`, `NaN`, …"""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int | float | Decimal):
        return str(value)[:40]
    return "bytes" if isinstance(value, bytes) else f"a {type(value).__name__}"
