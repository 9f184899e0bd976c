"""A run at work: its attempt, its worker, what its records say."""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import dataclass

from harness.matrix.execution.progress import RunView
from harness.matrix.executors.base import Executor, Handle, Slot
from harness.matrix.worker import seconds_by_phase
from harness.safe_text import redact_file
from harness.store.attempts import AttemptFolder
from harness.store.errors import StoreError
from harness.store.folders import RunFolder
from harness.store.job import RunJob
from harness.store.leases import BEAT_SECONDS
from harness.store.records import AttemptEnd, AttemptError, Ending
from harness.units import duration

STOP_SECONDS = 60.0
"""What a worker may take to save its work."""


@dataclass
class RunningAttempt:
    """A run at work.

    Attributes:
        job: what this attempt does.
        whole: what the plan asks of the run: more, where the budget reaches only some of its steps.
        run: its folder.
        attempt: its attempt.
        handle: its worker.
        slot: its devices.
        stopped: why it was asked to end before its work was done: `signal`, `budget`, `time`, `cancel`, `failures` of
            other runs; empty if it was not.
        kill_at: when a worker that was asked to end is ended by force.
        step: the last step that was recorded.
    """

    job: RunJob
    whole: RunJob
    run: RunFolder
    attempt: AttemptFolder
    handle: Handle
    slot: Slot
    stopped: str = ""
    kill_at: float | None = None
    step: int = 0
    _started: float | None = None
    _offset: int = 0
    _beat: float = 0.0
    _reward: float | None = None
    _tokens_per_second: float | None = None

    @property
    def seconds(self) -> float:
        """How long its worker has been seen to have its devices; 0 while it waits for them."""
        if self._started is None:
            if not self.attempt.has_devices:
                return 0.0
            self._started = time.monotonic()
        return time.monotonic() - self._started

    def beat(self) -> None:
        """Renews the lease while the worker waits in a cluster's queue, or is at a long step."""
        now = time.monotonic()
        if now - self._beat >= BEAT_SECONDS:
            self._beat = now
            self.attempt.beat(by_launcher=True)

    def follow(self) -> None:
        """Reads the step records that came since."""
        records, self._offset = self.attempt.step_lines(self._offset)
        if records:
            last = records[-1]
            self.step = last.step
            self._reward = last.reward.mean
            self._tokens_per_second = last.timing.tokens_per_second

    def view(self) -> RunView:
        """For the progress display."""
        return RunView(
            label=self.job.label,
            step=self.step,
            steps=max(self.job.steps),
            reward=self._reward,
            tokens_per_second=self._tokens_per_second,
        )

    def check_time(self, executor: Executor) -> None:
        """Stops a run that goes beyond its time limit, and kills what does not stop."""
        limit, now = self.slot.time_limit_seconds, time.monotonic()
        if limit is not None and self.seconds > limit and not self.stopped:
            self.ask_to_stop(executor, "time")
        if self.kill_at is not None and now > self.kill_at:
            self.kill_at = None
            executor.kill(self.handle)

    def ask_to_stop(self, executor: Executor, why: str) -> None:
        """Has the worker save its work and end, by force if it takes too long.

        Args:
            executor: runs it.
            why: see `stopped`.
        """
        self.stopped = why
        if not self.attempt.has_devices:
            # It has nothing to save, and may wait in a cluster's queue for days.
            executor.kill(self.handle)
            return
        if why != "signal":  # whoever pressed Ctrl-C decides how long to wait
            self.kill_at = time.monotonic() + STOP_SECONDS
        executor.stop(self.handle)

    @property
    def superseded(self) -> bool:
        """Whether a later attempt has taken the run over: that this one ended is no failure then."""
        return self.run.attempts()[-1].number > self.attempt.number

    def error(self, end: AttemptEnd | None, missing: tuple[int, str]) -> AttemptError:
        """What its end says went wrong; or that it ran out of time, or ended without what it was to make."""
        if self.stopped == "time":
            limit = duration(self.slot.time_limit_seconds)
            return AttemptError(
                type="Timeout", message=f"ran longer than {limit} (hardware.run_timeout_hours)"
            )
        if end is not None and end.error is not None:
            return end.error
        how, (step, benchmark) = end.status if end else None, missing
        lacks = f"the evaluation of step {step} on {benchmark}"
        return AttemptError(type="Incomplete", message=f"the worker ended ({how}) without {lacks}")

    def close(self, code: int, status: Ending, error: AttemptError | None = None) -> None:
        """Writes the end that a worker could not write itself.

        Args:
            code: its exit code, negative for a signal.
            status: how the attempt ended.
            error: why; what the exit code and the log's tail say, unless given.
        """
        with contextlib.suppress(OSError):
            redact_file(self.attempt.log)
        if status == "failed" and error is None:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            tail = ""
            with contextlib.suppress(OSError):
                tail = self.attempt.log.read_bytes()[-4000:].decode(errors="replace")
            error = AttemptError(type="WorkerDied", message=f"the worker {how}", traceback_tail=tail)
        phases: dict[str, float] = {}
        with contextlib.suppress(StoreError):
            phases = seconds_by_phase(self.run, self.attempt)
        self.attempt.finish(status, error=error, seconds_by_phase=phases)
