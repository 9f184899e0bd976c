"""A run that starts from a checkpoint of another one, its trunk, up to which their learning rates are the same.

Everything else of the two recipes is equal, so up to there they are one trajectory: weights, moments, the position in
the data and what the detectors have seen. A checkpoint holds all of it, and a schedule reaches it by the rates alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from harness.store.atomic import sync_path
from harness.store.folders import AttemptFolder, RunFolder
from harness.store.job import RunJob
from harness.training.checkpoints import Checkpoints, DamagedCheckpoint


def fork(
    job: RunJob,
    run: RunFolder,
    attempt: AttemptFolder,
    checkpoints: Checkpoints,
    event: Callable[..., None],
) -> None:
    """Takes over the checkpoint that `job` may fork from, with the trunk's step records up to it.

    A run that has a checkpoint of its own goes on from that. Where the trunk's is missing or damaged, an event says
    so, and the run trains from step 0.

    Args:
        job: the run.
        run: its folder, beside which the trunk's is.
        attempt: the attempt at work.
        checkpoints: of the run.
        event: takes kind, message and figures.
    """
    if job.fork is None or checkpoints.steps():
        return
    step, trunk = job.fork.step, RunFolder(run.path.parent / job.fork.run_id)
    try:
        # Before the checkpoint: a step that a checkpoint holds must not lack its record.
        records = partial(_take_over_records, trunk, attempt, step)
        checkpoints.take_over(Checkpoints(trunk.checkpoints), step, first=records)
    except DamagedCheckpoint as error:
        words = f"{error}; the run trains from step 0"
        event("fork_failed", words, step=step, trunk=trunk.run_id)
        return
    event("forked", f"from step {step} of run {trunk.run_id}", step=step, trunk=trunk.run_id)


def _take_over_records(trunk: RunFolder, attempt: AttemptFolder, step: int) -> None:
    records = [record for record in trunk.steps() if record["step"] <= step]
    if [record["step"] for record in records] != list(range(1, step + 1)):
        raise DamagedCheckpoint(f"{trunk.path}: lacks records of steps up to {step}")
    for record in records:
        own = {"run_id": attempt.run_id, "attempt": attempt.number}
        attempt.append_step({"forked_from": trunk.run_id, **record, **own})
    sync_path(attempt.steps_file)


def taken_over_usd(run: RunFolder) -> float:
    """What the steps cost that `run` took over: money that its trunk's attempts paid."""
    return max((record["cost_usd"] for record in run.steps() if "forked_from" in record), default=0.0)
