"""Which runs, calls of the runner and requests to cancel an output folder must hold: `listing.jsonl`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.store.errors import StoreError
from harness.store.records.form import Flag, JsonObject, Record, parse
from harness.store.schema import append_record, read_line_records

Listed = Literal["run", "call", "request"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingRecord(Record):
    """A line of `listing.jsonl`.

    Attributes:
        kind: of what.
        name: its name in its folder.
        there: whether it came; else it was taken away on purpose.
    """

    kind: Listed
    name: str
    there: Flag


class Listing:
    """The listing of one output folder. It only tells what is gone: a folder is read without one too.

    Args:
        root: the output folder.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / "listing.jsonl"

    def add(self, kind: Listed, name: str) -> None:
        """Notes that something is there from now on.

        Raises:
            StoreError: the disk is full, or the folder cannot be written.
        """
        if name not in self.names(kind):
            append_record(ListingRecord(kind=kind, name=name, there=True), self._path, "listing")

    def remove(self, kind: Listed, name: str) -> None:
        """Notes that something was taken away.

        Raises:
            StoreError: the disk is full, or the folder cannot be written.
        """
        if name in self.names(kind):
            append_record(ListingRecord(kind=kind, name=name, there=False), self._path, "listing")

    def names(self, kind: Listed) -> frozenset[str]:
        """What must be there."""
        found: dict[str, bool] = {}

        def note(data: JsonObject, line: int) -> None:
            record = parse(ListingRecord, data, self._path, line)
            if record.kind == kind:
                found[record.name] = record.there

        with contextlib.suppress(StoreError):  # each line before the damaged one holds
            read_line_records(self._path, note, kind="listing")
        return frozenset(name for name, there in found.items() if there)
