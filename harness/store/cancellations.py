"""Requests to cancel runs: a file for each in `<out>/cancelled/`, which whoever runs the matrix looks for."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from harness.store.atomic import make_folder, utc_now
from harness.store.listing import Listing
from harness.store.records.form import Record
from harness.store.schema import read_record, write_record


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
        self._listing = Listing(root)

    def request(self, run_id: str, label: str) -> None:
        """Asks for a run to be cancelled.

        Raises:
            StoreError: the folder cannot be written.
        """
        record = Cancellation(run_id=run_id, label=label, requested_at=utc_now(), host=socket.gethostname())
        make_folder(self._folder)
        write_record("output", record, self._file(run_id))
        self._withdrawn(run_id).unlink(missing_ok=True)
        self._listing.add("request", run_id)

    def withdraw(self, run_id: str) -> bool:
        """Takes a request back; False if there was none."""
        there = run_id in self.run_ids()
        if there:
            make_folder(self._folder)
            self._withdrawn(run_id).touch()
            self._file(run_id).unlink(missing_ok=True)
        return there

    def run_ids(self) -> frozenset[str]:
        """The runs that are to be left alone."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            names = []
        files = (name.removesuffix(".json") for name in names if name.endswith(".json") and name[0] != ".")
        # A request whose file is gone holds until it is withdrawn.
        listed = self._listing.names("request")
        return frozenset(files).union(run for run in listed if not self._withdrawn(run).exists())

    def read(self, run_id: str) -> Cancellation:
        """A request; raises `StoreError` where it cannot be read."""
        return read_record("output", Cancellation, self._file(run_id))

    def _file(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.json"

    def _withdrawn(self, run_id: str) -> Path:
        """A file that says that a request was taken back, which is more than that its file is gone."""
        return self._folder / f"{run_id}.withdrawn"
