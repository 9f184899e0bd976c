"""Rows of CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.data.errors import UnusableData
from harness.data.rows import RawRow, Unreadable, no_repeats, opened


def csv_names(path: Path) -> list[str] | None:
    """The header; None where there is no row.

    Raises:
        UnusableData: the file cannot be read, or the header holds a name twice.
    """
    with _reader(path) as (header, rows):
        return header if header and next(rows, None) is not None else None


@contextmanager
def _any_length() -> Iterator[None]:
    """Cells of any length: what is too long is told with its row, where the reader would give up."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


@contextmanager
def _reader(path: Path) -> Iterator[tuple[list[str], Iterator[tuple[int, list[str]]]]]:
    """The header, and the rows below it with the line on which each begins; an empty header where there is none."""
    with opened(path) as stream, _any_length():
        # Bytes that are not UTF-8 become half surrogates, which no UTF-8 file can hold: their cell is told.
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        rows = _numbered(path, text)
        try:
            number, header = next(rows, (1, []))
            no_repeats(f"{path}:{number}", [name for name in header if name.strip()])
            yield header, rows
        finally:
            rows.close()
            text.detach()


def _numbered(path: Path, text: Iterable[str]) -> Generator[tuple[int, list[str]], None, None]:
    reader = csv.reader(text, strict=True)
    number = 1
    try:
        for cells in reader:
            if cells:
                yield number, cells
            number = reader.line_num + 1
    except csv.Error as error:
        raise UnusableData(
            f"{path}:{number}: not valid CSV: {error}",
            'the row that begins there: quote cells that hold quotes, and double the quotes within: "a ""b"""',
        ) from None


def csv_rows(path: Path) -> Iterator[RawRow]:
    """The rows below the header; one with more cells than columns cannot be read.

    Raises:
        UnusableData: a row from which on the file cannot be read, or the header holds a name twice.
    """
    with _reader(path) as (header, rows):
        for number, cells in rows:
            yield _csv_row(number, header, cells)


def _csv_row(number: int, header: Sequence[str], cells: list[str]) -> RawRow:
    if any(cells[len(header) :]):
        return RawRow(number, problem="more cells than columns: cells with commas must be quoted")
    values: dict[str, str | Unreadable] = {
        name: Unreadable("holds a byte that is not UTF-8") if _escaped(cell) else cell
        for name, cell in zip(header, cells)
        if name.strip()
    }
    return RawRow(number, values)


def _escaped(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text)
