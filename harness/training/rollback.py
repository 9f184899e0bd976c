"""Handling of a detector's alarm: an event, the end of the run, or a rollback to a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from transformers import PreTrainedModel

from harness.training.checkpoints import Checkpoints
from harness.training.data_parallel import Parallelism
from harness.training.errors import DamagedCheckpoint, Diverged
from harness.training.trainer import Trainer


def handle_alarms(
    trainer: Trainer,
    checkpoints: Checkpoints,
    *,
    levels: frozenset[int],
    untrained: Callable[[], PreTrainedModel],
    event: Callable[..., None],
    parallel: Parallelism,
) -> bool:
    """Writes an event for each alarm of the last step and applies the policies.

    A rollback restores the last checkpoint before the first bad step, but none before the last step level passed,
    because that level's evaluation is on file. Training then goes on with other questions and other samples.

    Args:
        trainer: the trainer, after a step.
        checkpoints: the run's checkpoints.
        levels: steps whose checkpoints are kept and evaluated.
        untrained: loads the model as it was before training.
        event: appends an event; takes kind, message and figures.
        parallel: the processes of the run, all of which call this.

    Returns:
        Whether training was rolled back.

    Raises:
        Diverged: a policy is `stop`, or `max_rollbacks` are used up.
    """
    for alarm in trainer.alarms:
        figures = {"figure": alarm.figure, "threshold": alarm.threshold, "policy": alarm.policy}
        event(alarm.detector, alarm.message, step=trainer.step, **figures)
    serious = [alarm for alarm in trainer.alarms if alarm.policy != "continue"]
    if not serious:
        return False
    most = trainer.recipe.stability.max_rollbacks
    last = next((alarm for alarm in serious if alarm.policy == "stop"), serious[0])
    if last.policy == "stop" or trainer.rollbacks >= most:
        tried = f" after {trainer.rollbacks} rollbacks" if trainer.rollbacks else ""
        raise Diverged(f"{last.detector}: {last.message}, at step {trainer.step}{tried}")
    first_bad_step = min(trainer.first_bad_step(alarm) for alarm in serious)
    failed = trainer.step
    with trainer.rolling_back():
        step = _rollback(trainer, checkpoints, first_bad_step, levels, untrained, event, parallel)
    for later in parallel.on_rank0(checkpoints.steps):
        if step < later < failed:
            parallel.on_rank0(partial(checkpoints.discard, later))
    words = f"from step {failed} to step {step} for {last.detector}; {most - trainer.rollbacks} rollbacks are left"
    event("rolled_back", words, step=failed, to_step=step)
    return True


def _rollback(
    trainer: Trainer,
    checkpoints: Checkpoints,
    first_bad_step: int,
    levels: frozenset[int],
    untrained: Callable[[], PreTrainedModel],
    event: Callable[..., None],
    parallel: Parallelism,
) -> int:
    """Restores the latest sound checkpoint; returns its step, 0 for the untrained model.

    Checkpoints before `first_bad_step` come first, latest first; then those after it, oldest first.
    """
    there = parallel.on_rank0(checkpoints.steps)
    # Step levels beyond the current step belong to an earlier attempt and are no lower bound for the rollback.
    floor = max((step for step in levels & set(there) if step < trainer.step), default=0)
    held = [step for step in parallel.on_rank0(checkpoints.resumable) if floor <= step < trainer.step]
    before = [step for step in held if step < first_bad_step]
    for step in [*reversed(before), *(step for step in held if step >= first_bad_step)]:
        try:
            trainer.restore(checkpoints, step)
        except DamagedCheckpoint as error:
            event("checkpoint_damaged", f"{error}; an earlier one is used", step=step)
            parallel.on_rank0(partial(checkpoints.keep_damaged, step))
            continue
        return step
    trainer.reset(untrained())
    return 0
