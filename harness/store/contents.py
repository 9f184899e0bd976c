"""What must be in a run's folder: `contents.json`, written whenever an attempt ends.

A record's seal tells whether it is what was written; this file tells whether it is there at all, and whether lines
were cut off at the end of one that had been ended. An attempt that runs, or that died together with its runner, is
not in it yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.store.errors import Damaged
from harness.store.records.form import Record
from harness.store.schema import read_record, write_record
from harness.store.sealing import file_seal, line_seal

CONTENTS = "contents.json"
"""Its name."""

_OF_ATTEMPT = ("attempt.json", "steps.jsonl", "events.jsonl", "end.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentsRecord(Record):
    """`contents.json`.

    Attributes:
        files: the seal of each file, of its last line where it has lines, by its path in the run's folder; None where
            it has none, and for evaluations, which may be scored again.
    """

    files: Mapping[str, str | None]


def write_contents(run: Path) -> None:
    """Writes what is in a run's folder now, its ended attempts alone.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    write_record("contents", ContentsRecord(files=dict(_files(run))), run / CONTENTS)


def check_contents(run: Path) -> list[Damaged]:
    """The files that are gone or were cut since an attempt last ended."""
    path = run / CONTENTS
    if not path.exists():
        return []
    try:
        files = read_record("contents", ContentsRecord, path).files
    except Damaged as error:
        return [error]
    found = []
    for name, seal in files.items():
        file = run / name
        if not file.exists():
            found.append(Damaged("is gone", file))
        elif seal is not None and _last_seal(file) != seal:
            found.append(Damaged("is not as its attempt left it: lines were cut off or added", file))
    return found


def is_sealed(record: Path) -> bool:
    """Whether a record's file ends with a seal, or is not there."""
    return not record.exists() or _last_seal(record) is not None


def _files(run: Path) -> Iterator[tuple[str, str | None]]:
    for attempt in sorted(run.glob("attempt-*")):
        if (attempt / "end.json").exists():
            for name in _OF_ATTEMPT:
                if (attempt / name).exists():
                    yield f"{attempt.name}/{name}", _last_seal(attempt / name)
    for evaluation in sorted((run / "evaluations").glob("step-*.json")):
        yield f"evaluations/{evaluation.name}", None
        if evaluation.with_suffix(".parquet").exists():
            yield f"evaluations/{evaluation.with_suffix('.parquet').name}", None


def _last_seal(path: Path) -> str | None:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 64))
        tail = file.read()
    if path.suffix == ".jsonl":
        return line_seal(tail.removesuffix(b"\n"))
    return file_seal(tail)
