"""Which version of which record this harness writes, and how it reads the older ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from harness.store.errors import StoreError
from harness.store.records.form import JsonObject, located, parse, to_data

R = TypeVar("R")

Kind = Literal["run", "attempt", "end", "line", "evaluation", "checkpoint", "output"]

VERSIONS: dict[Kind, int] = {
    "run": 1,  # run.json
    "attempt": 3,  # attempt.json
    "end": 1,  # end.json
    "line": 1,  # lines of steps.jsonl and events.jsonl
    "evaluation": 1,  # evaluations/*.json
    "checkpoint": 1,  # checkpoints/*/state.json
    "output": 1,  # grid.resolved.json, plan.json, invocations, index, probes
}
"""The newest version of each kind of record: what is written, and the most that can be read."""


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


_MIGRATIONS: dict[tuple[Kind, int], Callable[[JsonObject], JsonObject]] = {
    ("attempt", 1): _attempt_from_1,
    ("attempt", 2): _attempt_from_2,
}


def current(record: Any, kind: Kind, path: Path, line: int | None = None) -> JsonObject:
    """The record as the newest version of its kind has it; older ones are migrated, the file stays as it is.

    Args:
        record: JSON data of the file, or of one of its lines.
        kind: of record.
        path: the file, for the message.
        line: 1-based line of the file, if it has several records.

    Raises:
        StoreError: it is no record, lacks what its version has, or a newer version wrote it.
    """
    version = record.get("schema") if isinstance(record, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise StoreError(located("is not a record of this harness: it has no schema number", line), path)
    newest = VERSIONS[kind]
    if version > newest:
        words = f"has schema {version}, this version reads up to {newest}: update the harness"
        raise StoreError(located(words, line), path)
    while version < newest:
        try:
            record = _MIGRATIONS[kind, version]({**record})
        except KeyError as error:
            raise StoreError(located(f"lacks {error}, which schema {version} has", line), path) from None
        version += 1
        record["schema"] = version
    return record


def read_record(kind: Kind, form: type[R], data: Any, path: Path, line: int | None = None, **known: Any) -> R:
    """The record that JSON data hold, whatever version wrote them.

    Args:
        kind: of record.
        form: its class.
        data: JSON data of the file, or of one of its lines.
        path: the file, for the message.
        line: 1-based line of the file, if it has several records.
        **known: fields that early records lack and their place tells.

    Raises:
        StoreError: it is no record, does not fit its class, or a newer version wrote it.
    """
    fields = {**known, **current(data, kind, path, line)}
    del fields["schema"]
    return parse(form, fields, path, line)


def written(kind: Kind, record: object) -> JsonObject:
    """JSON data of a record, with the schema's number first."""
    return {"schema": VERSIONS[kind], **to_data(record)}
