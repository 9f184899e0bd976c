"""One run from start to finish: train to each step level, checkpoint, evaluate; or go on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from harness.data.mix import build_mix
from harness.data.problem import Problem
from harness.evaluation.evaluate import Evaluator, Stopped
from harness.evaluation.folder import evaluate_into
from harness.meters.cost import cost_usd
from harness.meters.flops import measured_peak
from harness.meters.sinks import Sinks
from harness.models.catalog import resolve_model
from harness.models.loading import LoadedModel, load_model
from harness.models.precision import compute_dtype
from harness.rewards.answers import AnswerChecker
from harness.rewards.composite import CompositeReward
from harness.rollout.build import build_engine
from harness.rollout.engine import Engine
from harness.spec.hardware import PROFILES
from harness.store.atomic import sync_path, utc_now
from harness.store.folders import AttemptFolder, RunFolder
from harness.store.job import RunJob
from harness.training.checkpoints import Checkpoints, DamagedCheckpoint
from harness.training.forking import fork, taken_over_usd
from harness.training.parallel import Alone
from harness.training.recovery import follow_alarms
from harness.training.trainer import Trainer
from harness.training.watching import Watching, opened_sinks, profiled

STEP_SCHEMA = 1


class Interrupted(Exception):
    """The run was asked to stop and has written a checkpoint."""


@dataclass
class _Run:
    job: RunJob
    folder: RunFolder
    attempt: AttemptFolder
    stop: Callable[[], bool]
    watching: Watching
    ranks: Alone
    started: float = field(default_factory=time.perf_counter)
    earlier_seconds: float = 0.0
    taken_over_usd: float = 0.0

    def spent(self) -> float:
        """Dollars of this run so far, its earlier attempts and the steps that it took over included."""
        seconds = self.earlier_seconds + time.perf_counter() - self.started
        own = cost_usd(seconds, devices=self.job.devices, usd_per_hour=self.job.usd_per_hour)
        return self.taken_over_usd + own

    def kept(self) -> frozenset[int]:
        """Steps whose weights stay: what is asked for, and what has been evaluated, whoever asked for it."""
        return frozenset({*self.job.steps, *(step for step, *_ in self.folder.evaluated())})

    def event(self, kind: str, message: str, **figures: Any) -> None:
        if not self.ranks.lead:
            return
        self.attempt.append_event({"kind": kind, "message": message, **figures})

    def engine_event(self, kind: str, message: str) -> None:
        """Of this process's engine: unlike the trainer's events, no other process knows of it."""
        self.attempt.append_event({"kind": kind, "message": message, "rank": self.ranks.rank})


def execute(
    job: RunJob,
    run: RunFolder,
    attempt: AttemptFolder,
    stop: Callable[[], bool],
    watching: Watching | None = None,
    ranks: Alone | None = None,
) -> None:
    """Does what of `job` is not done yet.

    Args:
        job: the run.
        run: its folder, with what earlier attempts left.
        attempt: the folder of this attempt.
        stop: polled after each step and benchmark; true asks for a checkpoint and an end.
        watching: steps to profile, and where records go besides the store.
        ranks: the processes that do this together, each of which calls this.

    Raises:
        Interrupted: `stop` became true; the work so far is saved.
        Diverged: a detector of the recipe's `stability` ended the run.
    """
    earlier = sum(a.wall_seconds for a in run.attempts() if a.number < attempt.number)
    ranks = ranks or Alone()
    state = _Run(job, run, attempt, stop, watching or Watching(), ranks, earlier_seconds=earlier)
    device = ranks.device or choose_device(job.hardware.device)
    source = resolve_model(job.recipe.model)
    loaded = load_model(source, job.recipe.model, device=device)
    engine = state.ranks.engine(_engine(state, loaded))
    with CompositeReward(job.recipe.reward) as rewards, AnswerChecker() as checker:
        evaluator = Evaluator(
            job.evaluate,
            job.recipe.prompt,
            loaded,
            engine,
            checker,
            model_fingerprint=source.fingerprint,
            engine_name=job.recipe.rollout.engine,
        )
        if 0 in job.steps:
            _evaluate(state, evaluator, 0)
        if max(job.steps) > 0:
            _train(state, loaded, engine, rewards, evaluator)
    engine.close()


def _engine(state: _Run, loaded: LoadedModel) -> Engine | None:
    """This process's engine. One with devices of its own serves all ranks from the lead."""
    recipe = state.job.recipe
    if recipe.rollout.has_own_devices and not state.ranks.lead:
        return None
    longest = state.job.evaluate.max_completion_tokens
    return build_engine(recipe, loaded, completion_tokens=longest, on_event=state.engine_event)


def choose_device(wanted: str) -> torch.device:
    """`auto` is the first CUDA device where there is one."""
    cuda = torch.cuda.is_available()
    if wanted == "cuda" and not cuda:
        raise RuntimeError("hardware.device is cuda, but torch sees no CUDA device")
    return torch.device("cuda", 0) if cuda and wanted != "cpu" else torch.device("cpu")


def _train(
    state: _Run, loaded: LoadedModel, engine: Engine, rewards: CompositeReward, evaluator: Evaluator
) -> None:
    job = state.job
    checkpoints = Checkpoints(state.folder.checkpoints, state.attempt.stage)
    trainer = Trainer(
        job.recipe,
        job.seed,
        loaded,
        engine,
        rewards,
        _problems(state),
        peak_flops=_peak_flops(job, loaded, state.ranks),
        devices=job.devices,
        ranks=state.ranks,
    )
    state.event("flops_model", trainer.flops.words, peak_flops=trainer.peak_flops)
    if trainer.dropped_prompts:
        state.event("prompts_dropped", f"{trainer.dropped_prompts} questions have too long a prompt")
    state.ranks.together(lambda: checkpoints.thin(state.kept(), frozenset(job.fork_steps)))
    state.ranks.together(lambda: fork(job, state.folder, state.attempt, checkpoints, state.event))
    state.taken_over_usd = taken_over_usd(state.folder)
    # Evaluated or damaged checkpoints may pass through the policy's weights.
    touched = bool(state.ranks.together(checkpoints.steps))
    _evaluate_earlier(state, checkpoints, loaded, engine, evaluator)

    def untrained() -> PreTrainedModel:
        return load_model(loaded.source, job.recipe.model, device=loaded.model.device).model

    levels = state.ranks.together(lambda: state.folder.untrained(job))
    if not levels:
        return
    if not _restored(state, trainer, checkpoints, before=min(levels)) and touched:
        trainer.reset(untrained())
    with closing(_sinks(state)) as sinks:
        _steps(state, trainer, checkpoints, evaluator, untrained, until=max(levels), sinks=sinks)


def _sinks(state: _Run) -> Sinks:
    def failed(name: str, error: Exception) -> None:
        state.event("sink_failed", f"{name} gets no more records: {type(error).__name__}: {error}"[:500])

    return opened_sinks(state.job, state.attempt.path, state.watching, failed)


def _steps(
    state: _Run,
    trainer: Trainer,
    checkpoints: Checkpoints,
    evaluator: Evaluator,
    untrained: Callable[[], PreTrainedModel],
    *,
    until: int,
    sinks: Sinks,
) -> None:
    """Trains up to step `until`, with checkpoints and evaluations on the way."""
    job, keep = state.job, frozenset(state.job.steps)
    while trainer.step < until:
        with profiled(state.attempt.path, trainer.step + 1, state.watching):
            record = trainer.train_step()
        every, stopping = job.recipe.training.checkpoint_every, state.ranks.together(state.stop)
        saving = trainer.step in {*keep, *job.fork_steps} or (every and trainer.step % every == 0) or stopping
        # Before the checkpoint: a step that a checkpoint holds must not lack its record.
        _append(state, record)
        if trainer.alarms and follow_alarms(
            trainer, checkpoints, levels=keep, untrained=untrained, event=state.event, ranks=state.ranks
        ):
            sinks.write(record)
            continue
        if saving:
            _save(state, trainer, checkpoints, record)
        sinks.write(record)
        if stopping:
            raise Interrupted
        if trainer.step in keep:
            _evaluate(state, evaluator, trainer.step)


def _append(state: _Run, record: dict[str, Any]) -> None:
    """Appends a step's record; a later line for the same step supersedes it."""
    if not state.ranks.lead:
        return
    state.attempt.append_step(
        {
            "schema": STEP_SCHEMA,
            "run_id": state.job.run_id,
            "attempt": state.attempt.number,
            **record,
            "cost_usd": state.spent(),
            "time": utc_now(),
        }
    )


def _save(state: _Run, trainer: Trainer, checkpoints: Checkpoints, record: dict[str, Any]) -> None:
    """Writes a checkpoint, and the step's record again with the seconds that this took."""
    with trainer.clock.phase("checkpoint"):
        state.attempt.check()
        if state.ranks.lead:
            sync_path(state.attempt.steps_file)
        trainer.save(checkpoints, state.kept(), frozenset(state.job.fork_steps))
    seconds = trainer.clock.seconds["checkpoint"]
    timing = record["timing"]
    timing["seconds"]["checkpoint"] = seconds
    timing["total_seconds"] += seconds
    _append(state, record)


def _problems(state: _Run) -> list[Problem]:
    mix = build_mix(state.job.recipe.data)
    state.event("data", f"{len(mix.problems)} training questions", manifest=mix.manifest)
    return mix.problems


def _peak_flops(job: RunJob, loaded: LoadedModel, ranks: Alone) -> float:
    if loaded.model.device.type == "cuda":
        profile = PROFILES["a40" if job.hardware.profile == "auto" else job.hardware.profile]
        return (profile.peak_tflops or 0.0) * 1e12 * job.devices
    bf16 = job.recipe.model.dtype == "bfloat16"
    return ranks.world * measured_peak(
        bf16=compute_dtype(bf16=bf16, device=loaded.model.device) == torch.bfloat16
    )


def _evaluate_earlier(
    state: _Run, checkpoints: Checkpoints, loaded: LoadedModel, engine: Engine, evaluator: Evaluator
) -> None:
    """Evaluates checkpoints that an earlier attempt trained and did not evaluate."""
    together = state.ranks.together
    missing = together(lambda: state.folder.missing(state.job))
    waiting = sorted({step for step, _ in missing} & set(together(checkpoints.steps)))
    for step in waiting:
        try:
            checkpoints.load_weights(step, loaded.model)
        except DamagedCheckpoint as error:
            state.event("checkpoint_damaged", f"{error}; its step is trained again", step=step)
            state.ranks.together(partial(checkpoints.discard, step))
            continue
        engine.sync()
        _evaluate(state, evaluator, step)


def _restored(state: _Run, trainer: Trainer, checkpoints: Checkpoints, *, before: int) -> bool:
    """Goes on from the latest whole checkpoint before the step `before`; False if there is none."""
    for step in reversed([s for s in state.ranks.together(checkpoints.resumable) if s < before]):
        try:
            trainer.restore(checkpoints, step)
        except DamagedCheckpoint as error:
            state.event("checkpoint_damaged", f"{error}; its step is trained again", step=step)
            state.ranks.together(partial(checkpoints.discard, step))
            continue
        state.event("resumed", f"from step {step}", step=step)
        return True
    return False


def _evaluate(state: _Run, evaluator: Evaluator, step: int) -> None:
    """Runs the benchmarks that the checkpoint of `step` still lacks, on the lead with everybody's engines."""
    state.ranks.together(lambda: _benchmarks(state, evaluator, step))


def _benchmarks(state: _Run, evaluator: Evaluator, step: int) -> None:
    for benchmark in state.job.evaluate.benchmarks:
        identity = state.job.evaluation_ids[benchmark.name]
        if state.folder.evaluation(step, benchmark.name, identity) is not None:
            continue
        if state.stop():
            raise Interrupted
        try:
            evaluate_into(
                state.folder,
                step,
                evaluator,
                benchmark,
                identity,
                spec=state.job.evaluate,
                prompt=state.job.recipe.prompt,
                provenance={"run_id": state.job.run_id, "attempt": state.attempt.number},
                stop=state.stop,
            )
        except Stopped:
            raise Interrupted from None
