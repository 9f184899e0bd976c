"""Which version of which record this harness writes, how it reads the older ones, and how it knows them to be whole.

A record names its schema and its place: the run, the attempt and the file that it was written for. It ends with a
seal (`harness.store.sealing`). Whoever reads a record verifies both; those of versions before the seal are read as
they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from harness.store.atomic import append_line, read_lines, to_json, write_atomic
from harness.store.errors import Damaged, StoreError, unreadable
from harness.store.records.form import JsonObject, located, parse, to_data
from harness.store.sealing import file_holds, file_seal, seal_file

R = TypeVar("R")

Kind = Literal["run", "attempt", "end", "line", "evaluation", "checkpoint", "contents", "listing", "output"]

VERSIONS: dict[Kind, int] = {
    "run": 2,  # run.json
    "attempt": 4,  # attempt.json
    "end": 2,  # end.json
    "line": 2,  # lines of steps.jsonl and events.jsonl
    "evaluation": 2,  # evaluations/*.json
    "checkpoint": 2,  # checkpoints/*/state.json
    "contents": 1,  # contents.json
    "listing": 1,  # lines of listing.jsonl
    "output": 2,  # grid.resolved.json, plan.json, lint.json, looks.json, invocations, requests to cancel
}
"""The newest version of each kind of record: what is written, and the most that can be read."""

_SEALED: dict[Kind, int] = {**VERSIONS}
"""The first version of each kind that has a seal."""

_DEPTH: dict[Kind, int] = {
    "run": 2,
    "attempt": 3,
    "end": 3,
    "line": 3,
    "evaluation": 3,
    "checkpoint": 4,
    "contents": 2,
    "listing": 1,
    "output": 1,
}
"""How many parts of a file's path are its place: from the run's folder down, or from the output folder down."""


def _attempt_from_1(record: JsonObject) -> JsonObject:
    """Version 2 tells the worker by machine, boot and process namespace, where version 1 had the host's name."""
    worker = {
        "machine": None,
        "host": record.pop("host"),
        "pid": record.pop("pid"),
        "process_started": record.pop("process_started"),
    }
    return {**record, "worker": worker}


def _attempt_from_2(record: JsonObject) -> JsonObject:
    """Version 3 has the ticks at which the worker's process started."""
    return {**record, "worker": {**record["worker"], "started_ticks": None}}


def _sealed(record: JsonObject) -> JsonObject:
    """This version brought the place and the seal, and fields that older records may lack."""
    return record


_MIGRATIONS: dict[tuple[Kind, int], Callable[[JsonObject], JsonObject]] = {
    ("run", 1): _sealed,
    ("attempt", 1): _attempt_from_1,
    ("attempt", 2): _attempt_from_2,
    ("attempt", 3): _sealed,
    ("end", 1): _sealed,
    ("line", 1): _sealed,
    ("evaluation", 1): _sealed,
    ("checkpoint", 1): _sealed,
    ("output", 1): _sealed,
}


def place_of(kind: Kind, path: Path) -> str:
    """Where a record belongs, such as `3f2a…/attempt-001/end.json`: the same wherever the output folder is."""
    return "/".join(path.parts[-_DEPTH[kind] :])


def current(record: Any, kind: Kind, path: Path, line: int | None = None) -> JsonObject:
    """The record as the newest version of its kind has it; older ones are migrated, the file stays as it is.

    Args:
        record: JSON data of the file, or of one of its lines.
        kind: of record.
        path: the file, for the message.
        line: 1-based line of the file, if it has several records.

    Raises:
        Damaged: it is no record, or lacks what its version has.
        StoreError: a newer version wrote it.
    """
    version = record.get("schema") if isinstance(record, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise Damaged(located("is not a record of this harness: it has no schema number", line), path)
    newest = VERSIONS[kind]
    if version > newest:
        words = f"has schema {version}, this version reads up to {newest}: update the harness"
        raise StoreError(located(words, line), path)
    while version < newest:
        try:
            record = _MIGRATIONS[kind, version]({**record})
        except KeyError as error:
            raise Damaged(located(f"lacks {error}, which schema {version} has", line), path) from None
        version += 1
        record["schema"] = version
    return record


def load(kind: Kind, path: Path) -> JsonObject:
    """JSON data of a record's file in its newest version, verified, without schema, place and seal.

    Raises:
        Damaged: it is missing, is not what was written, or belongs elsewhere.
        StoreError: a newer version wrote it, or it cannot be read at the moment.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(error, path) from error
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"cannot be read: {error}", path) from None
    seal = file_seal(content)
    if seal is not None and not file_holds(content, seal):
        raise Damaged("was changed since it was written: its checksum differs", path)
    return _bare(data, kind, path, sealed=seal is not None)


def _bare(data: Any, kind: Kind, path: Path, line: int | None = None, *, sealed: bool) -> JsonObject:
    """The newest version of a record whose seal holds, or that has none, without schema, place and seal."""
    record = {**current(data, kind, path, line)}
    version: int = data["schema"]
    if not sealed and ("seal" in data or "place" in data or version >= _SEALED[kind]):
        raise Damaged(located("was changed since it was written: it has no checksum", line), path)
    place = record.pop("place", None)
    if place is not None and place != place_of(kind, path):
        raise Damaged(f"belongs elsewhere: it is {place}", path)
    for key in ("schema", "seal"):
        record.pop(key, None)
    return record


def read_record(kind: Kind, form: type[R], path: Path) -> R:
    """The record that a file holds, whatever version wrote it.

    Raises:
        Damaged: it is missing, is not what was written, belongs elsewhere, or does not fit its class.
        StoreError: a newer version wrote it.
    """
    return parse(form, load(kind, path), path)


def read_line_records(
    path: Path, make: Callable[[JsonObject, int], R], offset: int = 0, kind: Kind = "line"
) -> tuple[list[R], int]:
    """The records of a file's lines from byte `offset` on, and the offset after the last whole one.

    Args:
        path: the file; none is an empty one.
        make: a record from the newest version's JSON data and the line's 1-based number.
        offset: of a line's first byte.
        kind: of record.

    Raises:
        Damaged: a line is not what was written, does not follow the one before it, or is no record.
        StoreError: a newer version wrote one.
    """

    def read(data: Any, number: int, sealed: bool) -> R:
        return make(_bare(data, kind, path, number, sealed=sealed), number)

    return read_lines(path, read, offset, place=place_of(kind, path))


def written(kind: Kind, record: object) -> JsonObject:
    """JSON data of a record, with the schema's number first."""
    return {"schema": VERSIONS[kind], **to_data(record)}


def sealed_text(kind: Kind, record: object, place: str) -> bytes:
    """A record's file, byte by byte; equal records have equal bytes."""
    data = {"schema": VERSIONS[kind], "place": place, **to_data(record)}
    return seal_file(to_json(data, indent=1))


def write_record(
    kind: Kind,
    record: object,
    path: Path,
    write: Callable[[Path, Callable[[IO[bytes]], object]], None] = write_atomic,
) -> None:
    """Writes a record's file atomically.

    Args:
        kind: of record.
        record: a record, or a mapping that holds one.
        path: the file.
        write: writes the file, given its path and what gives it its content.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    content = sealed_text(kind, record, place_of(kind, path))
    write(path, lambda file: file.write(content))


def append_record(record: object, path: Path, kind: Kind = "line") -> None:
    """Appends a record as a line.

    Raises:
        StoreError: the disk is full, or the file cannot be written.
    """
    append_line(path, written(kind, record), place_of(kind, path))
