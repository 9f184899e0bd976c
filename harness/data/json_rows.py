"""Rows of JSON files: an object on each line, or an array of objects."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from harness.data.errors import UnusableData
from harness.data.rows import BOM, RawRow, not_utf8, opened, shown

HEAD_ROWS = 1000
"""Rows whose keys are the file's columns: rows may lack some."""
_LONGEST_INT = 4300
"""Digits that Python reads as a whole number."""


def json_names(path: Path) -> list[str] | None:
    """The keys of the first rows; None where there is no row.

    Raises:
        UnusableData: the file or each of its first rows cannot be read.
    """
    head = list(itertools.islice(json_rows(path), HEAD_ROWS))
    names = list(dict.fromkeys(name for row in head for name in row.values))
    if head and not names:
        raise UnusableData(f"{path}:{head[0].number}: {head[0].problem or 'holds no columns'}")
    return names if head else None


def is_array(path: Path) -> bool:
    """Whether the file is an array of objects rather than lines."""
    with opened(path) as stream:
        return _first_character(stream) == b"["


class _Object(dict[str, Any]):
    """A JSON object that remembers a key it holds twice."""

    repeated: str | None = None


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    made = _Object(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        made.repeated = next(key for key in keys if keys.count(key) > 1)
    return made


def _whole(text: str) -> int | Decimal:
    return int(text) if len(text) <= _LONGEST_INT else Decimal(text)


def _fraction(text: str) -> float | Decimal:
    """A float where it is the number that is written, else all its digits."""
    number = float(text)
    try:
        exact = Decimal(text)
    except ArithmeticError:
        return number
    return number if exact == Decimal(repr(number)) else exact


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole, parse_float=_fraction)


def json_rows(path: Path) -> Iterator[RawRow]:
    """The rows of a JSON file; a line or an element that is no object is a row that cannot be read.

    Raises:
        UnusableData: the file is one object, or an array that is not closed.
    """
    with opened(path) as stream:
        if _first_character(stream) == b"[":
            stream.seek(0)
            yield from _array_rows(path, stream)
        elif ".json" in path.suffixes[-2:] and (keys := _single_object(stream)) is not None:
            raise UnusableData(
                f"{path}: holds one JSON object, with the keys {', '.join(map(repr, keys))}",
                "an array of objects, or an object on each line",
            )
        else:
            stream.seek(0)
            yield from _line_rows(stream)


def _single_object(stream: BinaryIO) -> list[str] | None:
    """The keys of a file that is one object over several lines; None where it is something else."""
    stream.seek(0)
    data = stream.read().removeprefix(BOM).strip()
    if b"\n" not in data:
        return None
    try:
        return list(_DECODER.decode(data.decode("utf-8")))[:8]
    except (ValueError, RecursionError):
        return None


def _line_rows(stream: BinaryIO) -> Iterator[RawRow]:
    for number, line in enumerate(_lines(stream), start=1):
        if line.strip():
            yield _line_row(number, line)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines without their ends, which are LF, CR LF or CR. U+2028 and its like end none."""
    for block in stream:
        yield from block.removesuffix(b"\n").removesuffix(b"\r").split(b"\r")


def _line_row(number: int, line: bytes) -> RawRow:
    try:
        value = _DECODER.decode(line.removeprefix(BOM).decode("utf-8"))
    except UnicodeDecodeError as error:
        return RawRow(number, problem=not_utf8(error))
    except json.JSONDecodeError as error:
        return RawRow(number, problem=f"not valid JSON: {error.msg}, at character {error.pos + 1}")
    except (ValueError, RecursionError) as error:
        return RawRow(number, problem=f"not valid JSON: {error}")
    return _object_row(number, value)


def _object_row(number: int, value: Any) -> RawRow:
    if not isinstance(value, _Object):
        return RawRow(number, problem=f"must be a JSON object, got {shown(value)}")
    if value.repeated is not None:
        return RawRow(number, problem=f"holds the key {value.repeated!r} twice")
    return RawRow(number, value)


def _array_rows(path: Path, stream: BinaryIO) -> Iterator[RawRow]:
    data = stream.read().removeprefix(BOM)
    try:
        rows = _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnusableData(f"{path}:{line}: {not_utf8(error)}", "save it as UTF-8") from None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # lines, the first of which is no object
            yield from _line_rows(io.BytesIO(data))
            return
        raise UnusableData(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise UnusableData(f"{path}:1: not valid JSON: {error}") from None
    for number, value in enumerate(rows, start=1):
        yield _object_row(number, value)


def _first_character(stream: BinaryIO) -> bytes:
    for line in stream:
        if text := line.removeprefix(BOM).strip():
            return text[:1]
    return b""
