"""Who runs a matrix in an output folder, and which grid: a file for each in `<out>/.runners/`.

Several runners of one grid share its runs. A runner of another grid would replace the plan under the hands of those
at work, and their reports would be of cells that they did not run.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from harness.store.atomic import make_folder
from harness.store.errors import StoreError
from harness.store.leases import Owner, machine_digest
from harness.store.records.form import Record
from harness.store.schema import read_record, write_record


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner(Record):
    """A process that runs a matrix.

    Attributes:
        owner: the process.
        grid_digest: sha256 of the resolved grid that it runs.
    """

    owner: Owner
    grid_digest: str


class Runners:
    """The runners at work in one output folder.

    Args:
        root: the output folder, which exists.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / ".runners"

    @contextmanager
    def one_of(self, grid_digest: str) -> Iterator[Owner | None]:
        """Joins the runners of a grid for as long as the context lasts.

        Args:
            grid_digest: sha256 of the resolved grid.

        Yields:
            A runner of another grid that is at work, in which case this one has not joined; else None.

        Raises:
            StoreError: the folder cannot be written.
        """
        make_folder(self._folder)
        own = self._folder / f"{machine_digest()}.{os.getpid()}.json"
        with FileLock(self._folder / ".lock"):
            other = self._another(grid_digest)
            if other is None:
                write_record("output", Runner(owner=Owner.here(), grid_digest=grid_digest), own)
        try:
            yield other
        finally:
            if other is None:
                own.unlink(missing_ok=True)

    def _another(self, grid_digest: str) -> Owner | None:
        """A runner of another grid; files of runners that are gone are removed."""
        for path in sorted(self._folder.glob("[!.]*.json")):
            try:
                runner = read_record("output", Runner, path)
            except StoreError:  # it has just ended, or its machine lost power
                continue
            if runner.owner.is_this_process:  # an earlier matrix of it
                continue
            # What cannot be seen from here counts as at work: it is not worth a wait of minutes.
            if runner.owner.alive() is False or runner.owner.rebooted:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            elif runner.grid_digest != grid_digest:
                return runner.owner
        return None
