"""Runs the jobs of a plan: base jobs first, then seed by seed, within the budget, whatever crashes."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from harness.matrix.estimate import Estimator
from harness.matrix.executors.base import Executor, Handle, Slot
from harness.matrix.invocation import Invocation
from harness.matrix.progress import Progress, RunView, View, dollars, duration
from harness.matrix.worker import seconds_by_phase
from harness.store.atomic import read_lines
from harness.store.attempts import AttemptFolder
from harness.store.folders import RunFolder, Store
from harness.store.job import RunJob

WORKER = (sys.executable, "-m", "harness.matrix.worker")
"""The command of a worker, the same on every executor."""

_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",  # forks of a tokenizer that has threads warn, and may hang
    "PYTHONHASHSEED": "0",  # set order is part of "same inputs, same outputs"
    "PYTHONUNBUFFERED": "1",
}
_POLL_SECONDS = 0.1
_SHOW_SECONDS = 1.0
_REFRESH_SECONDS = 5.0


@dataclass(frozen=True)
class Budget:
    """Upper bounds.

    Attributes:
        usd: money of the whole folder, earlier calls included.
        hours: wall-clock time of this call.
    """

    usd: float | None = None
    hours: float | None = None


@dataclass(frozen=True)
class Failure:
    """A run that failed as often as it may.

    Attributes:
        job: the run.
        attempts: how often it was tried in this call.
        message: its last words.
        log: where it says more.
    """

    job: RunJob
    attempts: int
    message: str
    log: Path


@dataclass
class Outcome:
    """How a call of the scheduler ended."""

    finished: int = 0
    started: int = 0
    failures: list[Failure] = field(default_factory=list)
    left_out: list[RunJob] = field(default_factory=list)
    interrupted: bool = False


@dataclass
class _Active:
    job: RunJob
    run: RunFolder
    attempt: AttemptFolder
    handle: Handle
    slot: Slot
    started: float = field(default_factory=time.monotonic)
    offset: int = 0
    step: int = 0
    reward: float | None = None
    tokens_per_second: float | None = None

    def follow(self) -> None:
        """Reads the step records that came since."""
        records, self.offset = read_lines(self.attempt.steps_file, self.offset)
        if records:
            last = records[-1]
            self.step = last["step"]
            self.reward = last.get("reward", {}).get("mean")
            self.tokens_per_second = last.get("timing", {}).get("tokens_per_second")

    def view(self) -> RunView:
        return RunView(
            label=self.job.label,
            step=self.step,
            steps=max(self.job.steps),
            reward=self.reward,
            tokens_per_second=self.tokens_per_second,
        )


class Scheduler:
    """Executes what is missing of some jobs.

    Args:
        store: the output folder.
        jobs: all jobs, in the order in which they are to start.
        executor: runs the workers.
        slots: as many as run at a time.
        estimator: what jobs take.
        progress: where it is shown.
        budget: upper bounds.
        worker: command of a worker, before the run's folder.
        retries: further attempts in this call after a run has failed.
    """

    def __init__(
        self,
        store: Store,
        jobs: Sequence[RunJob],
        executor: Executor,
        slots: Sequence[Slot],
        estimator: Estimator,
        progress: Progress,
        *,
        budget: Budget | None = None,
        worker: Sequence[str] = WORKER,
        retries: int = 1,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._executor = executor
        self._free = deque(slots)
        self._slots = len(slots)
        self._estimator = estimator
        self._progress = progress
        self._budget = budget or Budget()
        self._worker = worker
        self._retries = retries
        self._queue: deque[RunJob] = deque()
        self._active: list[_Active] = []
        self._tries: Counter[str] = Counter()
        self._signals = 0
        self._outcome = Outcome()
        self._began = self._refreshed = time.monotonic()
        self._shown = self._denied_until = 0.0
        self._waiting_seconds = 0.0
        self._invocation = Invocation(store, slots, jobs[0].usd_per_hour if jobs else 0.0)

    def run(self) -> Outcome:
        """Runs until nothing is left, the budget is used up, or a signal says to stop."""
        for job in self._jobs:
            if self._store.run(job.run_id).finished(job):
                self._outcome.finished += 1
            else:
                self._queue.append(job)
        try:
            with self._signal_handlers():
                self._loop()
        finally:
            for active in self._active:
                self._executor.kill(active.handle)
            self._executor.close()
            self._progress.close()
            self._invocation.write()
        return self._outcome

    def _loop(self) -> None:
        stopped = 0
        while self._active or self._queue:
            if self._signals > stopped:
                stopped = self._signals
                self._stop(force=stopped > 1)
            self._fill()
            if not self._active:
                self._outcome.left_out = list(self._queue)
                return
            time.sleep(_POLL_SECONDS)
            for active in list(self._active):
                code = self._executor.poll(active.handle)
                if code is not None:
                    self._ended(active, code)
            self._show()

    def _fill(self) -> None:
        """Starts runs while there are slots and money; the first one that is too dear waits for better figures."""
        now = time.monotonic()
        if now < self._denied_until and self._active:
            return
        while self._free and self._queue:
            if not self._affordable(self._queue[0]):
                self._denied_until = now + _REFRESH_SECONDS
                return
            self._start(self._queue.popleft())
            self._waiting_seconds = self._waiting()

    def _start(self, job: RunJob) -> None:
        folder = self._store.run(job.run_id)
        folder.write_job(job)
        attempt = folder.reserve_attempt()
        command = [*self._worker, str(folder.path), "--attempt", str(attempt.number)]
        slot = self._free.popleft()
        handle = self._executor.submit(command, _ENVIRONMENT, slot, attempt.log)
        self._active.append(_Active(job, folder, attempt, handle, slot))
        self._tries[job.run_id] += 1
        self._outcome.started += 1
        self._invocation.begin()
        again = f" (attempt {attempt.number})" if attempt.number > 1 else ""
        self._progress.note(f"start   [{job.label}] {job.run_id}{again}")

    def _ended(self, active: _Active, code: int) -> None:
        """Takes in an ended worker: what it leaves, and whether its run is tried again."""
        self._active.remove(active)
        self._free.append(active.slot)
        job, attempt = active.job, active.attempt
        seconds = time.monotonic() - active.started
        self._invocation.add(seconds * active.slot.devices)
        if attempt.end() is None:
            self._close_attempt(active, code)
        self._estimator.refresh(job)
        missing = active.run.missing(job)
        if not missing:
            self._outcome.finished += 1
            cost = dollars(seconds * job.device_usd_per_second)
            self._progress.note(f"done    [{job.label}] in {duration(seconds)}, {cost}")
            return
        end = attempt.end() or {}
        if self._outcome.interrupted:
            self._progress.note(f"stopped [{job.label}]")
            return
        error = end.get("error") or {
            "type": "Incomplete",
            "message": f"the worker ended ({end.get('status')}) without the evaluation of step {missing[0][0]} on "
            f"{missing[0][1]}",
        }
        self._failed(active, f"{error['type']}: {error['message']}")

    def _failed(self, active: _Active, message: str) -> None:
        job, log = active.job, active.attempt.log
        words = message.splitlines()[0][:300]
        if self._tries[job.run_id] <= self._retries:
            self._progress.note(f"retry   [{job.label}] failed: {words}; trying once more")
            self._queue.appendleft(job)
            return
        self._progress.note(f"FAILED  [{job.label}] {words}; see {log}")
        self._outcome.failures.append(Failure(job, self._tries[job.run_id], words, log))

    def _close_attempt(self, active: _Active, code: int) -> None:
        """Writes the end that a worker could not write itself."""
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        tail = active.attempt.log.read_bytes()[-4000:].decode(errors="replace")
        status = "interrupted" if self._outcome.interrupted else "failed"
        error = {"type": "WorkerDied", "message": f"the worker {how}", "traceback_tail": tail}
        active.attempt.finish(
            status,
            error=None if status == "interrupted" else error,
            seconds_by_phase=seconds_by_phase(active.run, active.attempt),
        )

    def _affordable(self, job: RunJob) -> bool:
        """Whether this job, after all that run now, ends within the budget as far as one can tell."""
        if self._budget.usd is None and self._budget.hours is None:
            return True
        estimate = self._estimator.remaining(job)
        if self._budget.hours is not None:
            elapsed = (time.monotonic() - self._began) / 3600
            if elapsed + estimate.seconds / 3600 > self._budget.hours:
                return False
        if self._budget.usd is not None:
            self._estimator.refresh(*(a.job for a in self._active))
            running = sum(self._estimator.remaining(a.job, step=a.step).usd for a in self._active)
            if self._estimator.spent_usd() + running + estimate.usd > self._budget.usd:
                return False
        return True

    def _show(self) -> None:
        """Shows the state, once a second; estimates are learned anew every few seconds."""
        now = time.monotonic()
        if not self._active or now - self._shown < _SHOW_SECONDS:
            return
        self._shown = now
        for active in self._active:
            active.follow()
        if now - self._refreshed > _REFRESH_SECONDS:
            self._refreshed = now
            self._estimator.refresh(*(a.job for a in self._active))
            self._invocation.write()
            self._waiting_seconds = self._waiting()
        running = [self._estimator.remaining(a.job, step=a.step).seconds for a in self._active]
        self._progress.update(
            View(
                done=self._outcome.finished,
                failed=len(self._outcome.failures),
                total=len(self._jobs),
                active=[a.view() for a in self._active],
                seconds_left=max((sum(running) + self._waiting_seconds) / self._slots, *running),
                spent_usd=self._estimator.spent_usd(),
            )
        )

    def _waiting(self) -> float:
        """Seconds of one slot that the queue takes."""
        return sum(self._estimator.remaining(job).seconds for job in self._queue)

    def _stop(self, *, force: bool) -> None:
        self._outcome.interrupted = True
        self._queue.clear()
        if force:
            self._progress.note("stopping now")
        elif self._active:
            self._progress.note("stopping: runs save their work; once more stops them now")
        for active in self._active:
            if force:
                self._executor.kill(active.handle)
            else:
                self._executor.stop(active.handle)

    @contextmanager
    def _signal_handlers(self) -> Iterator[None]:
        def count(_number: int, _frame: FrameType | None) -> None:
            self._signals += 1

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, count) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
