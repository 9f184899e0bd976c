"""What an attempt leaves on disk besides its steps: its begin, its end and its events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.store.leases import Owner
from harness.store.records.form import Count, Flag, GiB, JsonObject, Record, Seconds, absent, parse

Ending = Literal["finished", "failed", "interrupted", "diverged"]
"""How an attempt ends. One that diverged has a result: its training cannot go on, and need not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance(Record):
    """What a figure comes from.

    Attributes:
        commit: of this project; `release <version>` where it is installed without git.
        dirty: whether the checkout has uncommitted changes.
        versions: of Python and packages, by name.
        platform: operating system and C library.
        cpu: model of the processor.
        cores: logical ones.
        memory_gib: of the machine.
        device: GPUs, or the processor where there are none.
        command: the process's arguments.
    """

    commit: str | None = absent()
    dirty: Flag | None = absent()
    versions: Mapping[str, str] | None = absent()
    platform: str | None = absent()
    cpu: str | None = absent()
    cores: Count | None = absent()
    memory_gib: GiB | None = absent()
    device: str | None = absent()
    command: tuple[str, ...] | None = absent()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptBegin(Record):
    """`attempt.json`: who executes an attempt, where, and with what.

    Attributes:
        run_id: the run.
        attempt: number of the attempt, from 1.
        started_at: when its worker began, ISO 8601.
        worker: the process.
        provenance: code, packages and machine.
    """

    run_id: str
    attempt: Count
    started_at: str
    worker: Owner
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptError(Record):
    """Why an attempt failed.

    Attributes:
        type: name of the exception's class.
        message: the exception's text.
        traceback_tail: end of its traceback, or of the log.
        final: whether another attempt would meet it again.
        kind: the same for the same failure of any run; None where the machine failed, not the run.
    """

    type: str
    message: str
    traceback_tail: str | None = absent()
    final: Flag | None = absent()
    kind: str | None = absent()

    @property
    def words(self) -> str:
        """Type and message."""
        return f"{self.type}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnd(Record):
    """`end.json`: how an attempt ended.

    Attributes:
        status: how.
        ended_at: when, ISO 8601.
        wall_seconds: for how long it held its devices.
        error: why it failed or diverged.
        diverged_at: the step that could not be made.
        seconds_by_phase: of its steps and evaluations, by phase.
    """

    status: Ending
    ended_at: str
    wall_seconds: Seconds
    error: AttemptError | None
    diverged_at: Count | None = None
    seconds_by_phase: Mapping[str, Seconds]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord(Record):
    """A line of `events.jsonl`: something that happened besides steps.

    Attributes:
        time: when, ISO 8601.
        kind: what, such as `resumed`.
        message: in words.
        figures: whatever else the kind tells, such as `step`; each kind has its own keys, so all are taken.
    """

    time: str
    kind: str
    message: str
    figures: Mapping[str, Any]

    @classmethod
    def from_line(cls, data: Mapping[str, Any], path: Path, line: int) -> EventRecord:
        """The event of a line of `path`.

        Raises:
            StoreError: it lacks its time, kind or message.
        """
        head = {key: data[key] for key in ("time", "kind", "message") if key in data}
        figures = {key: value for key, value in data.items() if key not in ("schema", *head)}
        return parse(cls, {**head, "figures": figures}, path, line)

    def line(self) -> JsonObject:
        """JSON data of the line: the figures stand beside the other fields."""
        return {"time": self.time, "kind": self.kind, "message": self.message, **self.figures}

    @property
    def step(self) -> int | None:
        """The training step that it belongs to."""
        step = self.figures.get("step")
        return step if isinstance(step, int) else None
