"""What follows a detector's alarm: an event, the end of the run, or a return to a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from transformers import PreTrainedModel

from harness.training.checkpoints import Checkpoints, DamagedCheckpoint
from harness.training.parallel import Alone
from harness.training.trainer import Trainer
from harness.training.update import Diverged


def follow_alarms(
    trainer: Trainer,
    checkpoints: Checkpoints,
    *,
    levels: frozenset[int],
    untrained: Callable[[], PreTrainedModel],
    event: Callable[..., None],
    ranks: Alone,
) -> bool:
    """Writes an event for each alarm of the last step and follows their policies.

    A rollback returns to the last checkpoint before the trouble began, but never behind a step level, whose
    evaluation is on file. What is trained from there draws other questions and other samples, so that it need not
    meet the same end.

    Args:
        trainer: after a step.
        checkpoints: of the run.
        levels: steps whose checkpoints are kept and evaluated.
        untrained: loads the model as it was before training.
        event: takes kind, message and figures.
        ranks: the processes that do this together.

    Returns:
        Whether training was rolled back.

    Raises:
        Diverged: a policy says so, or no rollback is left.
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
    onset = min(trainer.onset(alarm) for alarm in serious)
    failed = trainer.step
    with trainer.rolling_back():
        step = _return(trainer, checkpoints, onset, levels, untrained, event, ranks)
    for later in ranks.together(checkpoints.steps):
        if step < later < failed:
            ranks.together(partial(checkpoints.discard, later))
    words = f"from step {failed} to step {step} for {last.detector}; {most - trainer.rollbacks} rollbacks are left"
    event("rolled_back", words, step=failed, to_step=step)
    return True


def _return(
    trainer: Trainer,
    checkpoints: Checkpoints,
    onset: int,
    levels: frozenset[int],
    untrained: Callable[[], PreTrainedModel],
    event: Callable[..., None],
    ranks: Alone,
) -> int:
    """Restores the checkpoint that is to be gone on from; returns its step."""
    there = ranks.together(checkpoints.steps)
    # A level ahead was left by an earlier attempt, whose way the run is on again.
    floor = max((step for step in levels & set(there) if step < trainer.step), default=0)
    held = [step for step in ranks.together(checkpoints.resumable) if floor <= step < trainer.step]
    sound = [step for step in held if step < onset]
    for step in [*reversed(sound), *(step for step in held if step >= onset)]:
        try:
            trainer.restore(checkpoints, step)
        except DamagedCheckpoint as error:
            event("checkpoint_damaged", f"{error}; an earlier one is used", step=step)
            ranks.together(partial(checkpoints.discard, step))
            continue
        return step
    trainer.reset(untrained())
    return 0
