"""Forks: runs that start from a checkpoint of another run, the trunk.

The two recipes differ in the learning-rate schedule alone, and the two schedules give the same rates up to the fork's
step. So up to there both runs are one trajectory: weights, optimiser state, position in the data and state of the
detectors, all of which a checkpoint holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from harness.store.atomic import sync_path
from harness.store.attempts import AttemptFolder
from harness.store.errors import Damaged
from harness.store.folders import RunFolder
from harness.store.job import RunJob
from harness.training.checkpoints import Checkpoints
from harness.training.errors import DamagedCheckpoint


def fork(
    job: RunJob,
    run: RunFolder,
    attempt: AttemptFolder,
    checkpoints: Checkpoints,
    event: Callable[..., None],
) -> None:
    """Copies the trunk's checkpoint that `job.fork` names into this run, with the step records up to it.

    Does nothing if `job` is no fork or the run has a checkpoint of its own. If the trunk's checkpoint is missing or
    damaged, an event says so, and the run trains from step 0.

    Args:
        job: the run.
        run: its folder; the trunk's is its sibling.
        attempt: the attempt at work.
        checkpoints: the run's checkpoints.
        event: appends an event; takes kind, message and figures.
    """
    if job.fork is None or checkpoints.steps():
        return
    step, trunk = job.fork.step, RunFolder(run.path.parent / job.fork.run_id)
    try:
        # Records first: every step up to a checkpoint must have its record, also after a crash between the two.
        records = partial(_take_over_records, trunk, attempt, step)
        checkpoints.take_over(Checkpoints(trunk.checkpoints), step, first=records)
    except (DamagedCheckpoint, Damaged) as error:
        words = f"{error}; the run trains from step 0"
        event("fork_failed", words, step=step, trunk=trunk.run_id)
        return
    event("forked", f"from step {step} of run {trunk.run_id}", step=step, trunk=trunk.run_id)


def _take_over_records(trunk: RunFolder, attempt: AttemptFolder, step: int) -> None:
    records = [record for record in trunk.steps() if record.step <= step]
    if [record.step for record in records] != list(range(1, step + 1)):
        raise DamagedCheckpoint(f"{trunk.path}: lacks records of steps up to {step}")
    for record in records:
        own = replace(record, run_id=attempt.run_id, attempt=attempt.number)
        attempt.append_step(replace(own, forked_from=own.forked_from or trunk.run_id))
    sync_path(attempt.steps_file)


def taken_over_usd(run: RunFolder) -> float:
    """Cost in dollars of the steps that `run` took over from its trunk, which the trunk's attempts paid."""
    return max((record.cost_usd for record in run.steps() if record.forked_from is not None), default=0.0)
