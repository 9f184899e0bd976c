"""Runs the jobs of a plan within the budget, whatever crashes, beside other runners on the same folder."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from harness.matrix.execution.budget import Budget, BudgetGuard
from harness.matrix.execution.cancelling import CancelledRuns
from harness.matrix.execution.checkpoint_cleanup import CheckpointCleaner
from harness.matrix.execution.device_pool import DevicePool
from harness.matrix.execution.failures import FailureLog
from harness.matrix.execution.progress import Progress, View
from harness.matrix.execution.result import Failure, ScheduleResult
from harness.matrix.execution.running import RunningAttempt
from harness.matrix.execution.usage import DeviceUsageLog
from harness.matrix.execution.worker_command import ENVIRONMENT, WORKER
from harness.matrix.executors.base import Executor, Slot
from harness.matrix.planning.estimator import Estimator
from harness.matrix.planning.forks import trunk_state
from harness.processes import signal_handlers
from harness.store.atomic import make_folder
from harness.store.attempts import AttemptFolder
from harness.store.errors import StoreError
from harness.store.folders import RunFolder, Store
from harness.store.job import RunJob
from harness.store.leases import LeaseWatch
from harness.store.records import AttemptEnd
from harness.units import dollars, duration

_POLL_SECONDS = 0.1
_SHOW_SECONDS = 1.0
_REFRESH_SECONDS = 5.0
BACKOFF_SECONDS = 1.0
"""Before the first retry of a run; twice as long before each further one."""
_MOST_BACKOFF_SECONDS = 300.0
_MOST_WORDS = 600
"""Characters of a failure's message: a reward's names the question and the completion."""
_WORK_SAVED = ("signal", "budget", "cancel", "failures")
"""Reasons to stop a run that are no failure of it."""


@dataclass
class _Waiting:
    """A job that is to be done, not before a moment."""

    job: RunJob
    not_before: float = 0.0
    told: bool = False


class Scheduler:
    """Executes what is missing of some jobs.

    Args:
        store: the output folder.
        jobs: all jobs, in the order in which they are to start.
        executor: runs the workers.
        slots: as many as run at a time, with their devices.
        estimator: what jobs take.
        progress: where it is shown.
        budget: upper bounds.
        worker: command of a worker, before the run's folder.
        watch: decides whether other runners still hold their leases.
    """

    def __init__(
        self,
        store: Store,
        jobs: Sequence[RunJob],
        executor: Executor,
        slots: DevicePool,
        estimator: Estimator,
        progress: Progress,
        *,
        budget: Budget | None = None,
        worker: Sequence[str] = WORKER,
        watch: LeaseWatch | None = None,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._executor = executor
        self._pool = slots
        self._estimator = estimator
        self._progress = progress
        self._budget_guard = BudgetGuard(budget or Budget(), estimator)
        self._worker = worker
        self._watch = watch or LeaseWatch()
        self._cleaner = CheckpointCleaner(store, jobs)
        self._queue: list[_Waiting] = []
        self._active: list[RunningAttempt] = []
        self._failures = FailureLog()
        self._cancelled = CancelledRuns(store)
        self._before: dict[str, int] = {}
        self._signals = 0
        self._out_of_budget = False
        self._outcome = ScheduleResult()
        self._refreshed = time.monotonic()
        self._shown = self._denied_until = 0.0
        self._waiting_seconds = 0.0
        self._invocation = DeviceUsageLog(store, self._pool.slots, jobs[0].usd_per_hour if jobs else 0.0)

    def run(self) -> ScheduleResult:
        """Runs until nothing is left, the budget is used up, or a signal says to stop.

        Raises:
            StoreError: the folder cannot be written any more.
        """
        for job in self._jobs:
            folder = self._store.run(job.run_id)
            if folder.finished(job):
                self._outcome.finished += 1
                continue
            self._queue.append(_Waiting(job))
            self._before[job.run_id] = max((a.number for a in folder.attempts()), default=0)
        try:
            with self._signal_handlers():
                self._loop()
        finally:
            for active in self._active:
                self._executor.kill(active.handle)
                with contextlib.suppress(StoreError):  # the full disk that may have ended the loop
                    if not active.attempt.ended:
                        active.close(0, "interrupted")
                self._pool.release(active.slot)
            self._executor.close()
            self._progress.close()
            with contextlib.suppress(StoreError):
                self._invocation.write()
        self._outcome.cancelled += self._cancelled.jobs
        return self._outcome

    def _loop(self) -> None:
        stopped = 0
        while self._active or self._queue:
            if self._signals > stopped:
                stopped = self._signals
                self._stop(force=stopped > 1)
            self._follow_cancellations()
            denied = self._fill()
            if denied and not self._active:
                self._outcome.left_out += [w.job for w in self._queue]
                return
            time.sleep(_POLL_SECONDS)
            for active in list(self._active):
                active.beat()
                active.check_time(self._executor)
                code = self._executor.poll(active.handle)
                if code is not None:
                    self._ended(active, code)
            self._show()

    def _follow_cancellations(self) -> None:
        """Ends and leaves out what is cancelled, and takes up what no longer is; looks once a second."""
        if self._outcome.interrupted or self._outcome.halted or (run_ids := self._cancelled.look()) is None:
            return
        for waiting in [w for w in self._queue if w.job.run_id in run_ids]:
            self._queue.remove(waiting)
            self._cancelled.add(waiting.job)
            self._progress.note(f"cancelled [{waiting.job.label}]; --resume takes it up again")
        for active in self._active:
            if active.job.run_id in run_ids and not active.stopped:
                self._progress.note(f"cancelling [{active.whole.label}]: it saves its work")
                active.ask_to_stop(self._executor, "cancel")
        for job in self._cancelled.taken_up(run_ids):
            self._progress.note(f"resumed [{job.label}]")
            self._queue.append(_Waiting(job))

    def _fill(self) -> bool:
        """Starts what can start now; whether the budget denies what comes next."""
        now = time.monotonic()
        if now < self._denied_until and self._active:
            return True
        for waiting in list(self._queue):
            if not self._pool.free:
                return False
            if waiting.not_before > now:
                continue
            if self._done_elsewhere(waiting) or self._waits_for_trunk(waiting):
                continue
            job, folder = waiting.job, self._store.run(waiting.job.run_id)
            part = None if self._out_of_budget else self._budget_guard.affordable_part(job, self._active)
            if part is None:
                self._denied_until = now + _REFRESH_SECONDS
                return True
            slot = self._pool.acquire(self._estimator.gib(job))
            if slot is None:
                return False
            make_folder(folder.path)
            attempt = folder.claim(self._watch)
            if attempt is None:
                self._pool.release(slot)
                self._wait(waiting, "is at work in another runner")
                continue
            self._queue.remove(waiting)
            self._start(part, job, folder, attempt, slot)
        return False

    def _done_elsewhere(self, waiting: _Waiting) -> bool:
        """Takes from the queue what another runner has finished, or given up, since this call began."""
        job, folder = waiting.job, self._store.run(waiting.job.run_id)
        if folder.finished(job):
            self._queue.remove(waiting)
            self._estimator.refresh(job)
            self._outcome.finished += 1
            self._progress.note(f"done    [{job.label}] by another runner")
            return True
        failed = [
            a for a in folder.attempts() if a.number > self._before[job.run_id] and a.status == "failed"
        ]
        if len(failed) > job.hardware.retries:
            self._queue.remove(waiting)
            end = failed[-1].end()
            words = end.error.words if end and end.error else "Failed: no last words"
            self._give_up(job, len(failed), words, failed[-1].log)
            return True
        return False

    def _waits_for_trunk(self, waiting: _Waiting) -> bool:
        """Whether the job forks from a checkpoint that is still to come; without hope of it, it no longer forks."""
        fork = waiting.job.fork
        if fork is None or self._store.run(waiting.job.run_id).checkpoint_steps():
            return False
        state = trunk_state(fork, self._store)
        if state == "ahead" and self._at_work_or_queued(fork.run_id):
            self._wait(waiting, f"for step {fork.step} of run {fork.run_id}, from which it forks")
            return True
        if state != "there":
            waiting.job = dataclasses.replace(waiting.job, fork=None)
        return False

    def _at_work_or_queued(self, run_id: str) -> bool:
        here = (*(w.job for w in self._queue), *(a.job for a in self._active))
        if any(job.run_id == run_id for job in here):
            return True
        attempts = self._store.run(run_id).attempts()
        return bool(attempts) and self._watch.is_held(attempts[-1])

    def _wait(self, waiting: _Waiting, why: str) -> None:
        waiting.not_before = time.monotonic() + _SHOW_SECONDS
        if not waiting.told:
            waiting.told = True
            self._progress.note(f"waiting [{waiting.job.label}] {why}")

    def _start(
        self, part: RunJob, whole: RunJob, folder: RunFolder, attempt: AttemptFolder, slot: Slot
    ) -> None:
        folder.write_job(part)
        self._store.note_run(whole.run_id)
        hours = whole.hardware.run_timeout_hours
        slot = dataclasses.replace(
            slot,
            time_limit_seconds=None if hours is None else hours * 3600,
            estimated_seconds=self._estimator.remaining(part).seconds,
        )
        command = [*self._worker, str(folder.path), "--attempt", str(attempt.number)]
        handle = self._executor.submit(command, ENVIRONMENT, slot, attempt.log)
        self._active.append(RunningAttempt(part, whole, folder, attempt, handle, slot))
        self._outcome.started += 1
        self._waiting_seconds = self._waiting()
        self._invocation.begin()
        again = f" (attempt {attempt.number})" if attempt.number > 1 else ""
        only = f", steps up to {part.steps[-1]} for the budget" if part is not whole else ""
        forks = f", from step {part.fork.step} of run {part.fork.run_id}" if part.fork else ""
        self._progress.note(f"start   [{whole.label}] {whole.run_id}{again}{forks}{only}")

    def _ended(self, active: RunningAttempt, code: int) -> None:
        """Takes in an ended worker: what it leaves, and whether its run is tried again."""
        self._active.remove(active)
        self._pool.release(active.slot)
        whole, attempt = active.whole, active.attempt
        if not attempt.ended:
            kept = active.superseded or active.stopped in _WORK_SAVED
            active.close(code, "interrupted" if kept else "failed")
        seconds = attempt.wall_seconds
        self._invocation.add(seconds * active.slot.devices)
        self._estimator.refresh(whole)
        missing = active.run.missing(active.job)
        end = attempt.end()
        cost = f"in {duration(seconds)}, {dollars(seconds * whole.device_usd_per_second)}"
        if not missing and active.run.finished(whole):
            self._outcome.finished += 1
            self._cleaner.on_finished(whole)
            diverged = end.diverged_at if end else None
            how = f"diverged at step {diverged}, a result" if diverged else "done"
            self._progress.note(f"{how:7} [{whole.label}] {cost}")
        elif not missing or active.superseded:
            self._queue.insert(0, _Waiting(whole))
        elif active.stopped in _WORK_SAVED:
            how = "cancelled" if active.stopped == "cancel" else "stopped"
            self._progress.note(f"{how} [{whole.label}] after step {active.step}")
            if active.stopped == "budget":
                self._outcome.left_out.append(whole)
            if active.stopped == "cancel":
                self._cancelled.add(whole)
        else:
            self._failed(active, end, missing[0])

    def _failed(self, active: RunningAttempt, end: AttemptEnd | None, missing: tuple[int, str]) -> None:
        job, log = active.whole, active.attempt.log
        error = active.error(end, missing)
        again = self._failures.try_again(job.run_id, error, retries=job.hardware.retries)
        count = self._failures.attempts(job.run_id)
        words = error.words.splitlines()[0][:_MOST_WORDS]
        if not again or self._outcome.interrupted or self._outcome.halted:
            self._give_up(job, count, words, log)
            if self._failures.halted and not self._outcome.halted:
                self._halt(self._failures.halted)
            return
        pause = min(_MOST_BACKOFF_SECONDS, BACKOFF_SECONDS * 2 ** (count - 1))
        self._progress.note(f"retry   [{job.label}] failed: {words}; tried again in {duration(pause)}")
        self._queue.insert(0, _Waiting(job, time.monotonic() + pause))

    def _give_up(self, job: RunJob, attempts: int, words: str, log: Path) -> None:
        self._progress.note(f"FAILED  [{job.label}] {words}; see {log}")
        self._outcome.failures.append(Failure(job, attempts, words, log))

    def _halt(self, why: str) -> None:
        """Starts no more runs, and has those at work save it: they would fail like the others."""
        self._outcome.halted = why
        self._queue.clear()
        self._progress.note(f"stopping: {why}")
        for active in self._active:
            if not active.stopped:
                active.ask_to_stop(self._executor, "failures")

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
            self._mind_the_budget()
        running = [self._estimator.remaining(a.job, step=a.step).seconds for a in self._active]
        self._progress.update(
            View(
                done=self._outcome.finished,
                failed=len(self._outcome.failures),
                total=len(self._jobs),
                active=[a.view() for a in self._active],
                seconds_left=max((sum(running) + self._waiting_seconds) / len(self._pool.slots), *running),
                spent_usd=self._estimator.spent_usd(),
            )
        )

    def _mind_the_budget(self) -> None:
        """Stops what runs, its work saved, before estimates that were too low overrun the budget."""
        if self._out_of_budget or not self._budget_guard.exhausted(_REFRESH_SECONDS):
            return
        self._out_of_budget = True
        self._progress.note("the budget is used up: runs save their work")
        for active in self._active:
            if not active.stopped:
                active.ask_to_stop(self._executor, "budget")

    def _waiting(self) -> float:
        """Seconds of one slot that the queue takes."""
        return sum(self._estimator.remaining(waiting.job).seconds for waiting in self._queue)

    def _stop(self, *, force: bool) -> None:
        self._outcome.interrupted = True
        self._queue.clear()
        if force:
            self._progress.note("stopping now")
        elif self._active:
            self._progress.note("stopping: runs save their work; once more stops them now")
        for active in self._active:
            if force:
                active.stopped = "signal"
                self._executor.kill(active.handle)
            else:
                active.ask_to_stop(self._executor, "signal")

    @contextmanager
    def _signal_handlers(self) -> Iterator[None]:
        def count(_number: int, _frame: FrameType | None) -> None:
            self._signals += 1

        with signal_handlers((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), count):
            yield
