"""Files that are whole or absent: writes by rename, appends by line, reads that forgive a torn last line."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic_core import from_json

from harness.store.errors import Damaged, unreadable, unwritable
from harness.store.sealing import line_holds, line_seal, seal_line

T = TypeVar("T")


def _file_mode() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


_FILE_MODE = _file_mode()


def utc_now() -> str:
    """The time, ISO 8601 in UTC with microseconds."""
    return datetime.now(UTC).isoformat()


def _plain(value: Any) -> Any:
    """JSON form of what the standard encoder does not know: scalars of numpy and torch, paths."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")


def to_json(data: Any, *, indent: int | None = None) -> str:
    """JSON text of a record. A NaN stays a NaN, as Python's and pandas' readers take it."""
    return json.dumps(data, indent=indent, ensure_ascii=False, default=_plain)


def write_atomic(path: Path, write: Callable[[IO[bytes]], object], stage: Path | None = None) -> None:
    """Writes `path` through a temporary file, fsync and rename.

    A reader sees the old content or the new one, never a part; so does whoever comes after a crash.

    Args:
        path: the file.
        write: gives it its content.
        stage: folder of the temporary file, on the same file system; the file's own unless given.

    Raises:
        FileNotFoundError: the folder is not there, or no longer.
        StoreError: the disk is full, or the folder cannot be written; nothing is left behind.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=stage or path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes private files; records are for whoever may read the folder.
            os.chmod(name, _FILE_MODE)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_path(path.parent)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unwritable(error, path) from error


def make_folder(path: Path) -> None:
    """Makes a folder and those above it.

    Raises:
        StoreError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(error, path) from error


def sync_path(path: Path) -> None:
    """Makes a file's content, or a folder's renames and new entries, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def set_aside(path: Path) -> Path:
    """Renames a damaged file or folder to `….damaged-N`; returns its new path.

    Raises:
        StoreError: the folder cannot be written.
    """
    number = 1
    while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    try:
        path.rename(target)
        sync_path(path.parent)
    except OSError as error:
        raise unwritable(error, path) from error
    return target


def write_json(path: Path, data: Any) -> None:
    """Writes a JSON file atomically."""
    text = to_json(data, indent=1) + "\n"
    write_atomic(path, lambda file: file.write(text.encode()))


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    write_atomic(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        Damaged: it is missing or not JSON.
        StoreError: it cannot be read at the moment.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise unreadable(error, path) from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"cannot be read: {error}", path) from None


def append_line(path: Path, data: Any, place: str) -> None:
    """Appends one sealed JSON line, so that it is on file whole as soon as this returns.

    A last line that a crash tore is cut off first. A line that does not fit on the disk is taken back.

    Args:
        path: the file.
        data: what the line holds.
        place: of the file, which the first line's seal covers.

    Raises:
        StoreError: the disk is full, or the file cannot be written.
    """
    text = to_json(data)
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            with contextlib.suppress(
                OSError
            ):  # not every file system has locks; ranks of one run share its events
                fcntl.flock(handle, fcntl.LOCK_EX)
            end = _truncate_torn_line(handle)
            line = seal_line(text, _last_seal(handle, end, place)) + b"\n"
            try:
                written = os.write(handle, line)
                while written < len(line):  # a nearly full disk writes in parts, then raises
                    written += os.write(handle, line[written:])
            except OSError:
                os.ftruncate(handle, end)
                raise
        finally:
            os.close(handle)
    except OSError as error:
        raise unwritable(error, path) from error


def _truncate_torn_line(handle: int) -> int:
    """Truncates the file after its last whole line; returns its length then."""
    end = start = os.fstat(handle).st_size
    if end == 0 or os.pread(handle, 1, end - 1) == b"\n":
        return end
    block = 1 << 16
    while start > 0:
        start = max(0, start - block)
        cut = os.pread(handle, block, start).rfind(b"\n")
        if cut >= 0:
            start += cut + 1
            break
    os.ftruncate(handle, start)
    return start


def _last_seal(handle: int, end: int, place: str) -> str:
    """The seal that the next line's covers: of the last line, if it has one; the place in an empty file."""
    if end == 0:
        return place
    tail = os.pread(handle, min(end, 64), max(0, end - 64))
    return line_seal(tail.removesuffix(b"\n")) or ""


def read_lines(
    path: Path, read: Callable[[Any, int, bool], T], offset: int = 0, *, place: str
) -> tuple[list[T], int]:
    """The JSON lines of `path` from byte `offset` on, and the offset after the last whole one.

    A last line without its newline is still being written, or was torn by a crash: it is left for later.

    Args:
        path: the file; none is an empty one.
        read: makes a record of a line's JSON data, its 1-based number, and whether it has a seal.
        offset: of a line's first byte.
        place: of the file, which the first line's seal covers.

    Raises:
        Damaged: a line that is not the last one is not JSON, is not what was written, or does not follow the one
            before it.
        StoreError: `read` refuses a line.
    """
    try:
        with path.open("rb") as file:
            earlier = file.read(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    except OSError as error:
        raise unreadable(error, path) from error
    before = (line_seal(earlier[-64:].removesuffix(b"\n")) or "") if earlier else place
    whole = data[: data.rfind(b"\n") + 1]
    records = []
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1 + earlier.count(b"\n")):
        try:
            known = from_json(line)  # takes two thirds of the time of json.loads
        except ValueError as error:
            raise Damaged(f"line {number}: not JSON: {error}", path) from None
        seal = line_seal(line)
        if seal is not None and not line_holds(line, seal, before):
            words = (
                "was changed since it was written, is of another run, or does not follow the line before it"
            )
            raise Damaged(f"line {number}: {words}", path)
        before = seal or ""
        records.append(read(known, number, seal is not None))
    return records, offset + len(whole)
