"""Requests to cancel runs: a file for each in `<out>/cancelled/`, which whoever runs the matrix looks for."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from harness.store.atomic import make_folder, read_json, utc_now, write_json
from harness.store.records.form import Record
from harness.store.schema import read_record, written


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation(Record):
    """A request that a run be left alone until the request is withdrawn.

    Attributes:
        run_id: the run.
        label: the run's, for people.
        requested_at: when, ISO 8601 in UTC.
        host: the machine on which it was asked for.
    """

    run_id: str
    label: str
    requested_at: str
    host: str


class Cancellations:
    """The requests in one output folder.

    Args:
        root: the output folder.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / "cancelled"

    def request(self, run_id: str, label: str) -> None:
        """Asks for a run to be cancelled.

        Raises:
            StoreError: the folder cannot be written.
        """
        record = Cancellation(run_id=run_id, label=label, requested_at=utc_now(), host=socket.gethostname())
        make_folder(self._folder)
        write_json(self._file(run_id), written("output", record))

    def withdraw(self, run_id: str) -> bool:
        """Takes a request back; False if there was none."""
        try:
            self._file(run_id).unlink()
        except FileNotFoundError:
            return False
        return True

    def run_ids(self) -> frozenset[str]:
        """The runs that are to be left alone."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return frozenset()
        return frozenset(
            name.removesuffix(".json") for name in names if name.endswith(".json") and name[0] != "."
        )

    def read(self, run_id: str) -> Cancellation:
        """A request; raises `StoreError` where it cannot be read."""
        path = self._file(run_id)
        return read_record("output", Cancellation, read_json(path), path)

    def _file(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.json"
