"""Live progress: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.safe_text import visible
from harness.units import dollars, duration

LINE_SECONDS = 15.0
"""Seconds between the plain lines of a matrix in progress."""


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run at work.

    Attributes:
        label: for people.
        step: last finished step.
        steps: the step it goes to.
        reward: mean reward of that step.
        tokens_per_second: of that step.
    """

    label: str
    step: int
    steps: int
    reward: float | None
    tokens_per_second: float | None


@dataclass(frozen=True, kw_only=True)
class View:
    """The matrix at a moment.

    Attributes:
        done: finished jobs, those of earlier calls too.
        failed: jobs that failed in this call.
        total: all jobs.
        active: runs at work.
        seconds_left: estimate; None before there is one.
        spent_usd: money of all attempts so far.
    """

    done: int
    failed: int
    total: int
    active: Sequence[RunView]
    seconds_left: float | None
    spent_usd: float


class Progress(Protocol):
    """Shows how the matrix gets on."""

    def note(self, text: str) -> None:
        """A line that stays."""

    def update(self, view: View) -> None:
        """The state now; called several times a second."""

    def close(self) -> None:
        """The end."""


def headline(view: View) -> str:
    """`3/9 runs done · 1 failed · 2m10s left · $0.0120 spent`."""
    parts = [f"{view.done}/{view.total} runs done"]
    if view.failed:
        parts.append(f"{view.failed} failed")
    if view.done + view.failed < view.total:
        parts.append(f"{duration(view.seconds_left)} left (estimate)")
    return " · ".join([*parts, f"{dollars(view.spent_usd)} spent"])


def _run_text(run: RunView) -> str:
    if run.steps == 0:
        return f"[{run.label}] evaluating"
    text = f"[{run.label}] step {run.step}/{run.steps}"
    if run.reward is not None:
        text += f", reward {run.reward:.3f}"
    if run.tokens_per_second is not None:
        text += f", {run.tokens_per_second:.0f} tok/s"
    return text


class PlainProgress:
    """A line per event, and one every 15 seconds."""

    def __init__(self, stream: TextIO | None = None, every_seconds: float = LINE_SECONDS) -> None:
        self._stream = stream or sys.stdout
        self._every = every_seconds
        self._last = time.monotonic()

    def note(self, text: str) -> None:
        """Prints the line."""
        print(visible(text), file=self._stream, flush=True)

    def update(self, view: View) -> None:
        """Prints a line if the last one is old enough."""
        now = time.monotonic()
        if now - self._last < self._every:
            return
        self._last = now
        self.note("  ".join([headline(view), *map(_run_text, view.active)]))

    def close(self) -> None:
        """Nothing is left to do."""


class LiveProgress:
    """A table that is redrawn in place; notes scroll above it."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()

    def note(self, text: str) -> None:
        """Prints the line above the table."""
        self._console.print(visible(text), markup=False, highlight=False)

    def update(self, view: View) -> None:
        """Redraws the table."""
        table = Table(title=headline(view), title_justify="left", expand=False)
        table.add_column("run")
        for name in ("step", "reward", "tok/s"):
            table.add_column(name, justify="right")
        for run in view.active:
            table.add_row(
                Text(run.label),  # brackets in a level's name are no markup
                f"{run.step}/{run.steps}" if run.steps else "evaluating",
                "" if run.reward is None else f"{run.reward:.3f}",
                "" if run.tokens_per_second is None else f"{run.tokens_per_second:.0f}",
            )
        self._live.update(table, refresh=True)

    def close(self) -> None:
        """Removes the table."""
        self._live.stop()


def make_progress() -> Progress:
    """What fits where the output goes."""
    console = Console()
    return LiveProgress(console) if console.is_terminal and not console.is_dumb_terminal else PlainProgress()
