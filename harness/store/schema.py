"""Which version of which record this harness writes, and how it reads the older ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from harness.store.errors import StoreError

Kind = Literal["run", "attempt", "end", "line", "evaluation", "checkpoint", "output"]

VERSIONS: dict[Kind, int] = {
    "run": 1,  # run.json
    "attempt": 2,  # attempt.json
    "end": 1,  # end.json
    "line": 1,  # lines of steps.jsonl and events.jsonl
    "evaluation": 1,  # evaluations/*.json
    "checkpoint": 1,  # checkpoints/*/state.json
    "output": 1,  # grid.resolved.json, plan.json, invocations, index, probes
}
"""The newest version of each kind of record: what is written, and the most that can be read."""

Record = dict[str, Any]


def _attempt_from_1(record: Record) -> Record:
    """Version 2 tells the worker by machine, boot and process namespace, where version 1 had the host's name."""
    worker = {
        "machine": None,
        "host": record.pop("host"),
        "pid": record.pop("pid"),
        "process_started": record.pop("process_started"),
    }
    return {**record, "worker": worker}


_MIGRATIONS: dict[tuple[Kind, int], Callable[[Record], Record]] = {
    ("attempt", 1): _attempt_from_1,
}


def current(record: Any, kind: Kind, path: Path) -> Record:
    """The record as the newest version of its kind has it; older ones are migrated, the file stays as it is.

    Raises:
        StoreError: it is no record, lacks what its version has, or a newer version wrote it.
    """
    version = record.get("schema") if isinstance(record, dict) else None
    if not isinstance(version, int) or version < 1:
        raise StoreError("is not a record of this harness: it has no schema number", path)
    newest = VERSIONS[kind]
    if version > newest:
        raise StoreError(f"has schema {version}, this version reads up to {newest}: update the harness", path)
    while version < newest:
        try:
            record = _MIGRATIONS[kind, version]({**record})
        except KeyError as error:
            raise StoreError(f"lacks {error}, which schema {version} has", path) from None
        version += 1
        record["schema"] = version
    return record
