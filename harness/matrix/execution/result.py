"""How a call of the scheduler ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from harness.store.job import RunJob


@dataclass(frozen=True)
class Failure:
    """A run that failed as often as it may, and is left alone for the rest of this call.

    Attributes:
        job: the run.
        attempts: how often it was tried since this call began.
        message: its last words.
        log: where it says more.
    """

    job: RunJob
    attempts: int
    message: str
    log: Path


@dataclass
class ScheduleResult:
    """How a call of the scheduler ended."""

    finished: int = 0
    started: int = 0
    failures: list[Failure] = field(default_factory=list)
    left_out: list[RunJob] = field(default_factory=list)
    interrupted: bool = False
    halted: str = ""
    """Why runs were not started although nobody asked for it; empty where all were."""
    cancelled: list[RunJob] = field(default_factory=list)
    """Runs that are left alone until they are taken up again (`--resume`)."""
