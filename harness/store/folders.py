"""One output folder: its runs, its plan, and what is known of the study as a whole."""

from __future__ import annotations

import os
from pathlib import Path

from harness.store.atomic import make_folder, set_aside
from harness.store.errors import Damaged
from harness.store.listing import Listing
from harness.store.records import InvocationRecord, LookRecord, LooksRecord, PlanRecord
from harness.store.records.form import JsonObject
from harness.store.run_folder import SAMPLE_COLUMNS, RunFolder
from harness.store.schema import (
    load,
    read_record,
    write_record,
)

__all__ = ["SAMPLE_COLUMNS", "RunFolder", "Store"]


class Store:
    """One output folder.

    Args:
        root: the folder, which need not exist yet.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    @property
    def grid_file(self) -> Path:
        """The resolved grid."""
        return self.root / "grid.resolved.json"

    @property
    def plan_file(self) -> Path:
        """The plan as it was when runs were first started."""
        return self.root / "plan.json"

    @property
    def looks_file(self) -> Path:
        """The looks at the study; there is none before its first."""
        return self.root / "looks.json"

    @property
    def looks_copy(self) -> Path:
        """The same once more: nothing else tells how often a study was judged."""
        return self.root / ".looks.json"

    def looks(self) -> tuple[LookRecord, ...]:
        """Looks at the study so far.

        Raises:
            StoreError: neither of the two files can be read by this version.
        """
        found: list[tuple[LookRecord, ...]] = []
        damaged: list[Damaged] = []
        for file in (self.looks_file, self.looks_copy):
            if file.exists():
                try:
                    found.append(read_record("output", LooksRecord, file).looks)
                except Damaged as error:
                    damaged.append(error)
        if damaged and not found:
            hint = f"put back a copy; or remove it and {self.looks_copy.name}: earlier looks are then not counted"
            raise Damaged(f"{damaged[0].message}\n  {hint}", damaged[0].path)
        return max(found, key=len, default=())

    def add_look(self, look: LookRecord) -> None:
        """Records a look at the study."""
        looks = LooksRecord(looks=(*self.looks(), look))
        for file in (self.looks_copy, self.looks_file):
            write_record("output", looks, file)

    def mend_looks(self) -> list[Path]:
        """Writes what one of the two files of looks tells to the other; returns those that were damaged or cut."""
        mended = []
        looks = LooksRecord(looks=self.looks())
        for file in (self.looks_copy, self.looks_file):
            if not looks.looks or self._tells(file, looks):
                continue
            if file.exists():
                set_aside(file)
                mended.append(file)
            write_record("output", looks, file)
        return mended

    def _tells(self, file: Path, looks: LooksRecord) -> bool:
        try:
            return read_record("output", LooksRecord, file) == looks
        except Damaged:
            return False

    @property
    def _listing(self) -> Listing:
        return Listing(self.root)

    def invocation_records(self) -> tuple[list[InvocationRecord], list[Damaged]]:
        """The calls of the runner, the earliest first, and what is wrong with the files of others."""
        names = {path.name for path in self.invocations.glob("*.json")} | self._listing.names("call")
        records, damaged = [], []
        for path in (self.invocations / name for name in sorted(names)):
            try:
                records.append(read_record("output", InvocationRecord, path))
            except Damaged as error:
                damaged.append(error)
        return records, damaged

    def write_invocation(self, name: str, record: InvocationRecord) -> None:
        """Writes the record of a call of the runner, anew each time that it is given.

        Raises:
            StoreError: the disk is full, or the folder cannot be written.
        """
        path = self.invocations / name
        make_folder(self.invocations)
        first = not path.exists()
        write_record("output", record, path)
        if first:
            self._listing.add("call", name)

    def mend_invocations(self) -> list[Path]:
        """Sets aside the records of calls that are damaged, and forgets those that are gone; returns which."""
        damaged = [error.path for error in self.invocation_records()[1]]
        for path in damaged:
            if path.exists():
                set_aside(path)
            self._listing.remove("call", path.name)
        return damaged

    def note_run(self, run_id: str) -> None:
        """Notes that a run has been begun."""
        self._listing.add("run", run_id)

    def begun_runs(self) -> frozenset[str]:
        """The runs that have been begun, as far as that was noted."""
        return self._listing.names("run")

    def plan(self) -> PlanRecord:
        """What `plan.json` holds.

        Raises:
            StoreError: there is none, or it is not one that this version can read.
        """
        return read_record("output", PlanRecord, self.plan_file)

    def grid(self) -> JsonObject:
        """What `grid.resolved.json` holds.

        Raises:
            StoreError: there is none, or it is not one that this version can read.
        """
        return load("output", self.grid_file)

    @property
    def invocations(self) -> Path:
        """A record per call of the runner, for idle time."""
        return self.root / "invocations"

    def run(self, run_id: str) -> RunFolder:
        """The folder of a run, which need not exist yet."""
        return RunFolder(self.root / "runs" / run_id)

    def runs(self) -> list[RunFolder]:
        """All runs on file."""
        folder = self.root / "runs"
        if not folder.exists():
            return []
        return [RunFolder(Path(entry.path)) for entry in sorted(os.scandir(folder), key=lambda e: e.name)]
