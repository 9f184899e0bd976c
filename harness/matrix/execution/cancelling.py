"""Cancelling a run from outside, and taking it up again."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path

from harness.spec.errors import SpecError
from harness.store.cancellations import Cancellations
from harness.store.folders import Store
from harness.store.job import RunJob


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run of the plan on file.

    Attributes:
        run_id: its id.
        label: for people.
        cells: how many cells are checkpoints of it.
    """

    run_id: str
    label: str
    cells: int


LOOK_SECONDS = 1.0
"""Between two looks for requests."""


class CancelledRuns:
    """The runs that a scheduler leaves alone.

    Args:
        store: the output folder, which holds the requests.
    """

    def __init__(self, store: Store) -> None:
        self._requests = Cancellations(store.root)
        self._looked: float | None = None
        self._jobs: dict[str, RunJob] = {}

    @property
    def jobs(self) -> list[RunJob]:
        """The runs left alone so far."""
        return list(self._jobs.values())

    def look(self) -> frozenset[str] | None:
        """The runs that are to be left alone; None where that was asked less than a second ago."""
        now = time.monotonic()
        if self._looked is not None and now - self._looked < LOOK_SECONDS:
            return None
        self._looked = now
        return self._requests.run_ids()

    def add(self, job: RunJob) -> None:
        """Leaves a run alone from now on."""
        self._jobs[job.run_id] = job

    def taken_up(self, run_ids: frozenset[str]) -> list[RunJob]:
        """Those that are no longer to be left alone, which are then no longer among `jobs`."""
        return [self._jobs.pop(run_id) for run_id in list(self._jobs) if run_id not in run_ids]


def find_run(out: Path, text: str, option: str) -> PlannedRun:
    """The run that `text` names in the plan on file: by its id, or by as many parts of a cell as single it out.

    The plan on file and not the grid counts, since it is what runs, whatever was edited since.

    Raises:
        SpecError: nothing has run in the folder, or `text` names no run, or several.
    """
    store = Store(out)
    if not store.plan_file.exists():
        raise SpecError(f"{option} {text}: nothing has run in {out} yet", hint="a folder of results by --out")
    plan = store.plan()
    jobs = {job.run: PlannedRun(job.run, job.label, 0) for job in plan.jobs}
    parts = text.replace(",", " ").split()
    named: dict[str, None] = dict.fromkeys(part for part in parts if part in jobs)
    cells = plan.cells
    if not named:
        named = dict.fromkeys(
            cell.run for cell in cells if parts and set(parts) <= _words(cell.levels, cell.seed)
        )
    if not named:
        hint = f"such as {jobs[cells[0].run].label!r}" if cells else None
        raise SpecError(f"{option} {text}: no such cell", hint=hint)
    if len(named) > 1:
        shown = "; ".join(f"[{jobs[run].label}]" for run in list(named)[:2])
        raise SpecError(f"{option} {text}: {len(named)} runs, such as {shown}", hint="name more axes")
    run = jobs[next(iter(named))]
    return dataclasses.replace(run, cells=sum(cell.run == run.run_id for cell in cells))


def _words(levels: Mapping[str, str], seed: int) -> set[str]:
    return {*(f"{axis}={level}" for axis, level in levels.items()), f"seed={seed}"}


def cancel(out: Path, text: str) -> str:
    """Asks for a run to be cancelled; what was asked for, in a sentence.

    Raises:
        SpecError: see `find_run`.
    """
    run = find_run(out, text, "--cancel")
    Cancellations(out).request(run.run_id, run.label)
    cells = f", with its {run.cells} cells" if run.cells > 1 else ""
    return (
        f"run {run.run_id} [{run.label}]{cells} is cancelled: whoever runs it has it save its work and end within "
        "seconds, and no later command starts it before `--resume`"
    )


def resume(out: Path, text: str) -> str:
    """Takes the request back; what follows, in a sentence.

    Raises:
        SpecError: see `find_run`; or the run was not cancelled.
    """
    run = find_run(out, text, "--resume")
    if not Cancellations(out).withdraw(run.run_id):
        raise SpecError(f"--resume {text}: run {run.run_id} [{run.label}] was not cancelled")
    return f"run {run.run_id} [{run.label}] is taken up again"
