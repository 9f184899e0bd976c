"""One try at executing a run: its provenance, step records, events, log and end."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any, get_args

from harness.safe_text import redacted
from harness.store.atomic import make_folder, read_json, utc_now, write_atomic
from harness.store.contents import write_contents
from harness.store.errors import Fenced, StoreError
from harness.store.leases import Owner
from harness.store.moments import Moment
from harness.store.records import (
    AttemptBegin,
    AttemptEnd,
    AttemptError,
    Ending,
    EventRecord,
    Provenance,
    StepRecord,
)
from harness.store.records.form import JsonObject, parse
from harness.store.schema import append_record, read_line_records, read_record, write_record

STARTED = "started"
"""Name of the file in an attempt's folder that says since when its worker has its devices: it may first wait for them
in a cluster's queue."""
_BEATS = ("beat", "beat-of-launcher")
"""Files that change while the worker, and what launched it, are at work."""


def note_start(attempt: Path) -> None:
    """Notes in an attempt's folder that its worker has its devices from now on; called on the worker's machine."""
    (attempt / STARTED).write_text(f"{Moment.now()}\n")


def abandoned(record: StepRecord, last: StepRecord) -> bool:
    """Whether a step's record lies beyond the step to which a rollback took the run whose latest record is `last`."""
    return record.step > last.step and record.rollbacks < last.rollbacks


class AttemptFolder:
    """The folder `attempt-NNN` of a run.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = int(path.name.removeprefix("attempt-"))
        self.run_id = path.parent.name

    @property
    def log(self) -> Path:
        """What the worker wrote to stdout and stderr."""
        return self.path / "log.txt"

    @property
    def steps_file(self) -> Path:
        """The step records."""
        return self.path / "steps.jsonl"

    @property
    def events_file(self) -> Path:
        """The events."""
        return self.path / "events.jsonl"

    def begin(self, provenance: Provenance) -> None:
        """Writes `attempt.json`: who executes this attempt, where, and with what."""
        record = AttemptBegin(
            run_id=self.run_id,
            attempt=self.number,
            started_at=utc_now(),
            worker=Owner.here(),
            provenance=provenance,
        )
        if not (self.path / STARTED).exists():  # nothing launched it: it is the caller's own
            note_start(self.path)
        write_record("attempt", record, self.path / "attempt.json")

    def info(self) -> AttemptBegin | None:
        """`attempt.json`; None if the process died before it began."""
        path = self.path / "attempt.json"
        return read_record("attempt", AttemptBegin, path) if path.exists() else None

    def append_step(self, record: StepRecord) -> None:
        """Appends a step record.

        Raises:
            Fenced: a later attempt has taken the run over.
            StoreError: the disk is full.
        """
        self.check()
        append_record(record, self.steps_file)

    def step_lines(self, offset: int = 0) -> tuple[list[StepRecord], int]:
        """Every line of the step records from byte `offset` on, and the offset after the last whole one."""
        return read_line_records(self.steps_file, self._step, offset)

    def _step(self, data: JsonObject, line: int) -> StepRecord:
        # Early records lack whose they are, which their place tells.
        known = {"run_id": self.run_id, "attempt": self.number, **data}
        return parse(StepRecord, known, self.steps_file, line)

    def steps(self) -> list[StepRecord]:
        """The latest record of every step, in the order written, without a torn last line.

        A step with a checkpoint has two lines. Steps that a rollback left behind and training has not reached again
        are no part of the run.

        Raises:
            StoreError: a line is no record of this harness, or a newer version wrote it.
        """
        latest: dict[int, StepRecord] = {}
        for record in self.step_lines()[0]:
            latest.pop(record.step, None)
            latest[record.step] = record
        records = list(latest.values())
        return [record for record in records if not abandoned(record, records[-1])]

    def trained(self) -> list[StepRecord]:
        """`steps()` without those that were taken over from the run that this one forked from."""
        return [record for record in self.steps() if record.forked_from is None]

    def append_event(self, kind: str, message: str, **figures: Any) -> None:
        """Appends an event with the time.

        Args:
            kind: what happened, such as `resumed`.
            message: in words.
            **figures: whatever else is to be known of it, such as `step`.
        """
        record = EventRecord(time=utc_now(), kind=kind, message=redacted(message), figures=figures)
        append_record(record.line(), self.events_file)

    def events(self) -> list[EventRecord]:
        """The events, without a torn last one."""

        def event(data: JsonObject, line: int) -> EventRecord:
            return EventRecord.from_line(data, self.events_file, line)

        return read_line_records(self.events_file, event)[0]

    def finish(
        self,
        status: Ending,
        *,
        wall_seconds: float | None = None,
        error: AttemptError | None = None,
        diverged_at: int | None = None,
        seconds_by_phase: Mapping[str, float] | None = None,
    ) -> None:
        """Writes `end.json`; see `AttemptEnd`. The devices were held until now, unless it is said for how long."""
        if status not in get_args(Ending):
            raise ValueError(f"`status` must be one of {', '.join(get_args(Ending))}, got {status!r}")
        record = AttemptEnd(
            status=status,
            ended_at=utc_now(),
            wall_seconds=self.held_seconds(at_work=True) if wall_seconds is None else wall_seconds,
            error=error,
            diverged_at=diverged_at,
            seconds_by_phase=seconds_by_phase or {},
        )
        write_record("end", record, self.path / "end.json")
        write_contents(self.path.parent)
        shutil.rmtree(self.stage, ignore_errors=True)

    def end(self) -> AttemptEnd | None:
        """`end.json`; None while the attempt runs, and when it was killed."""
        path = self.path / "end.json"
        return read_record("end", AttemptEnd, path) if path.exists() else None

    @property
    def ended(self) -> bool:
        """Whether the attempt has written its end."""
        return (self.path / "end.json").exists()

    @property
    def status(self) -> str:
        """How the attempt ended; `running`; or, inferred, `killed`."""
        end = self.end()
        if end is not None:
            return end.status
        return "running" if self.alive() else "killed"

    @property
    def stage(self) -> Path:
        """Where files are written that are then renamed into the run's folder; gone once the attempt is fenced."""
        return self.path / "stage"

    def fence(self) -> None:
        """Takes from this attempt the means to publish: a later one has the run."""
        moved = self.path / "fenced"
        try:
            shutil.rmtree(moved, ignore_errors=True)
            os.rename(self.stage, moved)
        except FileNotFoundError:
            return
        shutil.rmtree(moved, ignore_errors=True)

    def check(self) -> None:
        """Whether this attempt still holds its run.

        Raises:
            Fenced: it does not.
        """
        if not self.stage.is_dir():
            raise Fenced(f"{self.run_id}: attempt {self.number} has lost the run to a later attempt")

    def publish(self, target: Path, write: Callable[[IO[bytes]], object]) -> None:
        """Writes a file of the run, atomically, as long as this attempt holds the run.

        Raises:
            Fenced: it does not any more; the run's file stays as it is.
            StoreError: the disk is full.
        """
        make_folder(target.parent)
        try:
            write_atomic(target, write, self.stage)
        except FileNotFoundError:
            self.check()
            raise

    def beat(self, *, by_launcher: bool = False) -> None:
        """Renews the lease: shows other machines that the attempt is at work.

        Args:
            by_launcher: it is what launched the worker that renews it, which may be another machine.
        """
        with contextlib.suppress(OSError):  # a failed renewal counts as a missed one
            (self.path / _BEATS[by_launcher]).write_text(f"{os.getpid()} {Moment.now()}")

    def last_beat(self) -> str:
        """Changes with every beat."""
        return "\n".join(self._text(name) for name in _BEATS)

    def _text(self, name: str) -> str:
        try:
            return (self.path / name).read_text()
        except OSError:
            return ""

    def owners(self) -> list[Owner]:
        """The processes that hold this attempt: what launched it, and its worker once that has begun."""
        owners, launched = [], self.path / "launched"
        if launched.exists() and launched.stat().st_size:
            with contextlib.suppress(StoreError):  # damaged: its other owner, and its beats, tell
                owners.append(parse(Owner, read_json(launched), launched))
        with contextlib.suppress(StoreError):
            if (info := self.info()) is not None:
                owners.append(info.worker)
        return owners

    def process_alive(self) -> bool | None:
        """Whether a process of this attempt, other than this one, runs; None where that cannot be seen from here."""
        seen = [owner.alive() for owner in self.owners() if not owner.is_this_process]
        if any(seen):
            return True
        return None if None in seen else False

    def alive(self) -> bool:
        """Whether the attempt is at work; of one on another machine, whether it left traces lately."""
        seen = [owner.alive() for owner in self.owners()]
        if any(seen) or (seen and None not in seen):
            return any(seen)
        if seen and not self.stage.is_dir() and (self.path / "launched").stat().st_size:
            return False  # a later attempt took the run over
        return time.time() - self._last_trace() < (600 if seen else 60)

    @property
    def wall_seconds(self) -> float:
        """How long the attempt held its devices; of a killed one, until its last trace."""
        end = self.end()
        if end is not None:
            return end.wall_seconds
        return self.held_seconds(at_work=self.alive())

    @property
    def has_devices(self) -> bool:
        """Whether the worker has had its devices; it may first wait for them."""
        return (self.path / STARTED).exists() or self.info() is not None

    def held_seconds(self, *, at_work: bool) -> float:
        """Seconds since the worker got its devices: until now where it is at work, else until its last beat."""
        started = Moment.parse(self._text(STARTED))
        if started is None:
            return self._held_seconds_by_files(at_work=at_work)
        beats = [moment for name in _BEATS if (moment := Moment.parse(self._text(name))) is not None]
        since = [s for moment in beats if (s := moment.since(started)) is not None]
        if at_work and (now := Moment.now().since(started)) is not None:
            since.append(now)
        return max([0.0, *since])

    def _held_seconds_by_files(self, *, at_work: bool) -> float:
        """The same of attempts of early versions, by the times of their files, which a step of the clock moves."""
        path = self.path / STARTED
        if path.exists():
            started = path.stat().st_mtime
        elif (info := self.info()) is not None:
            # The time of the claim is nearest: a worker holds its devices for seconds of imports.
            started = datetime.fromisoformat(info.started_at).timestamp()
            with contextlib.suppress(FileNotFoundError):
                started = min(started, (self.path / "launched").stat().st_mtime)
        else:
            return 0.0
        return max(0.0, (time.time() if at_work else self._last_trace()) - started)

    def _last_trace(self) -> float:
        return max(
            entry.stat().st_mtime for entry in [self.path, *self.path.iterdir()] if os.path.exists(entry)
        )
