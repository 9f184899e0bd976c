"""One try at executing a run: its provenance, step records, events, log and end."""

from __future__ import annotations

import os
import socket
import time
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from harness.store.atomic import append_line, read_json, read_lines, utc_now, write_json
from harness.store.errors import StoreError

SCHEMA = 1
"""Version of `attempt.json`, `end.json`, and the lines of `steps.jsonl` and `events.jsonl`."""

ENDS = ("finished", "failed", "interrupted")


def checked(record: Any, path: Path, schema: int = SCHEMA) -> dict[str, Any]:
    """The record, if this version can read it.

    Raises:
        StoreError: it is no record, or a newer version wrote it.
    """
    version = record.get("schema") if isinstance(record, dict) else None
    if not isinstance(version, int):
        raise StoreError("is not a record of this harness: it has no schema number", path)
    if version > schema:
        raise StoreError(f"has schema {version}, this version reads up to {schema}: update the harness", path)
    return record  # type: ignore[no-any-return]


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

    def begin(self, provenance: dict[str, Any]) -> None:
        """Writes `attempt.json`: who executes this attempt, where, and with what."""
        process = psutil.Process()
        record = {
            "schema": SCHEMA,
            "run_id": self.run_id,
            "attempt": self.number,
            "started_at": utc_now(),
            "pid": process.pid,
            "process_started": process.create_time(),
            "host": socket.gethostname(),
            "provenance": provenance,
        }
        write_json(self.path / "attempt.json", record)

    def info(self) -> dict[str, Any] | None:
        """`attempt.json`; None if the process died before it began."""
        path = self.path / "attempt.json"
        return checked(read_json(path), path) if path.exists() else None

    def append_step(self, record: dict[str, Any]) -> None:
        """Appends a step record."""
        append_line(self.steps_file, {"schema": SCHEMA, **record})

    def steps(self) -> list[dict[str, Any]]:
        """The step records, without a torn last one."""
        return read_lines(self.steps_file)[0]

    def append_event(self, record: dict[str, Any]) -> None:
        """Appends an event: `kind`, `message` and whatever else; the time is added."""
        append_line(self.path / "events.jsonl", {"schema": SCHEMA, "time": utc_now(), **record})

    def events(self) -> list[dict[str, Any]]:
        """The events, without a torn last one."""
        return read_lines(self.path / "events.jsonl")[0]

    def finish(self, status: str, **figures: Any) -> None:
        """Writes `end.json`.

        Args:
            status: `finished`, `failed` or `interrupted`.
            **figures: `wall_seconds`, `error` and `seconds_by_phase`, where known.
        """
        if status not in ENDS:
            raise ValueError(f"`status` must be one of {', '.join(ENDS)}, got {status!r}")
        record = {
            "schema": SCHEMA,
            "status": status,
            "ended_at": utc_now(),
            "wall_seconds": self._wall_until(time.time()),
            "error": None,
            "seconds_by_phase": {},
        }
        write_json(self.path / "end.json", {**record, **figures})

    def end(self) -> dict[str, Any] | None:
        """`end.json`; None while the attempt runs, and when it was killed."""
        path = self.path / "end.json"
        return checked(read_json(path), path) if path.exists() else None

    @property
    def status(self) -> str:
        """`finished`, `failed`, `interrupted`, `running`, or, inferred, `killed`."""
        end = self.end()
        if end is not None:
            return str(end["status"])
        return "running" if self.alive() else "killed"

    def alive(self) -> bool:
        """Whether the attempt's process runs; one on another host, whether it left traces lately."""
        info = self.info()
        if info is None:
            return time.time() - self._last_trace() < 60
        if info["host"] != socket.gethostname():
            return time.time() - self._last_trace() < 600
        try:
            process = psutil.Process(info["pid"])
            same = abs(process.create_time() - info["process_started"]) < 2
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    @property
    def wall_seconds(self) -> float:
        """How long the attempt held its devices; of a killed one, until its last trace."""
        end = self.end()
        if end is not None:
            return float(end["wall_seconds"])
        return self._wall_until(time.time() if self.alive() else self._last_trace())

    @cached_property
    def _started(self) -> float:
        info = self.info()
        # The log is made just before the worker starts, which takes seconds of its devices to import.
        times = [datetime.fromisoformat(info["started_at"]).timestamp()] if info else []
        mark = self.path / "launched"
        if mark.exists():
            times.append(mark.stat().st_mtime)
        return min(times, default=self.path.stat().st_mtime)

    def _wall_until(self, moment: float) -> float:
        return max(0.0, moment - self._started)

    def _last_trace(self) -> float:
        return max(
            entry.stat().st_mtime for entry in [self.path, *self.path.iterdir()] if os.path.exists(entry)
        )
