"""Rows of JSON, CSV and Parquet files as they stand, with their place; what cannot be read is told row by row."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.data.arrow_rows import parquet_names, parquet_rows
from harness.data.csv_rows import csv_names, csv_rows
from harness.data.errors import UnusableData
from harness.data.json_rows import is_array, json_names, json_rows
from harness.data.rows import RawRow

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
"""Kinds of files; all but Parquet may be compressed, with `.gz` behind."""


def kind_of(path: Path) -> str:
    """The file's suffix in small letters, without `.gz`."""
    return (path.with_suffix("").suffix if _is_packed(path) else path.suffix).lower()


def stem_of(path: Path) -> str:
    """The file's name without its suffixes."""
    return path.with_suffix("").stem if _is_packed(path) else path.stem


def is_known(path: Path) -> bool:
    """Whether the suffix is one of those that can be read."""
    return kind_of(path) in SUFFIXES and not (_is_packed(path) and kind_of(path) == ".parquet")


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def unit_of(path: Path) -> str:
    """What the numbers of the file's rows count: `line`, or `row` in Parquet files and JSON arrays."""
    if kind_of(path) in (".parquet", ".csv"):
        return "row" if kind_of(path) == ".parquet" else "line"
    with _told(path):
        return "row" if is_array(path) else "line"


def column_names(path: Path) -> list[str]:
    """The file's columns; those of its first rows in a JSON file.

    Raises:
        UnusableData: it cannot be read, holds no row, or has a column twice.
    """
    with _told(path):
        names = {".parquet": parquet_names, ".csv": csv_names}.get(kind_of(path), json_names)(path)
    if names is None:
        raise UnusableData(f"{path}: holds no rows", "a row for each question")
    return names


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[RawRow]:
    """The rows of a file, in order; blank lines are none.

    Args:
        path: the file.
        columns: the columns that are wanted of a Parquet file; None for all. Others have all of them at hand.

    Raises:
        UnusableData: the file as a whole cannot be read, from the row on that the message names.
    """
    with _told(path):
        match kind_of(path):
            case ".parquet":
                yield from parquet_rows(path, columns)
            case ".csv":
                yield from csv_rows(path)
            case _:
                yield from json_rows(path)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tells with the file's name what the readers complain of."""
    try:
        yield
    except (OSError, EOFError, zlib.error, ValueError, MemoryError, NotImplementedError) as error:
        raise UnusableData(f"{path}: cannot be read: {str(error) or type(error).__name__}") from None
