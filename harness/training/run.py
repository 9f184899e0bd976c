"""Executes one run: trains to each step level, checkpoints, evaluates; resumes where an earlier attempt stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from harness.cli.run_options import RunOptions
from harness.data.mix import build_mix
from harness.data.problem import Problem
from harness.evaluation.evaluate import EvaluationStopped, Evaluator
from harness.evaluation.folder import evaluate_into
from harness.meters.cost import cost_usd
from harness.meters.flops import measured_peak
from harness.meters.sinks import Sinks
from harness.models.catalog import resolve_model
from harness.models.device import choose_device
from harness.models.loading import LoadedModel, load_model
from harness.models.precision import compute_dtype
from harness.rewards.answers import AnswerChecker
from harness.rewards.composite import CompositeReward, has_own_functions
from harness.rollout.build import build_engine
from harness.rollout.engine import Engine
from harness.spec.device_profiles import PROFILES
from harness.store.atomic import sync_path, utc_now
from harness.store.attempts import AttemptFolder
from harness.store.folders import RunFolder
from harness.store.job import RunJob
from harness.store.records import MadeBy, StepFigures, StepRecord
from harness.training.checkpoints import Checkpoints
from harness.training.data_parallel import Parallelism, SingleProcess
from harness.training.errors import DamagedCheckpoint, Interrupted
from harness.training.forking import fork, taken_over_usd
from harness.training.rollback import handle_alarms
from harness.training.sinks_and_profiler import open_sinks, profiled
from harness.training.trainer import Trainer


@dataclass
class _Run:
    """A run being executed: the arguments of `execute`, and what it has cost so far."""

    job: RunJob
    folder: RunFolder
    attempt: AttemptFolder
    stop: Callable[[], bool]
    options: RunOptions
    parallel: Parallelism
    started: float = field(default_factory=time.perf_counter)
    earlier_seconds: float = 0.0
    taken_over_usd: float = 0.0

    def spent(self) -> float:
        """Cost of the run so far in dollars, including earlier attempts and steps taken over from a trunk."""
        seconds = self.earlier_seconds + time.perf_counter() - self.started
        own = cost_usd(seconds, devices=self.job.devices, usd_per_hour=self.job.usd_per_hour)
        return self.taken_over_usd + own

    def kept(self) -> frozenset[int]:
        """Steps whose weights are kept: the step levels, and every step that has been evaluated."""
        return frozenset({*self.job.steps, *(step for step, *_ in self.folder.evaluated())})

    def event(self, kind: str, message: str, **figures: Any) -> None:
        """Appends an event that every rank reports alike, once."""
        if not self.parallel.is_rank0:
            return
        self.attempt.append_event(kind, message, **figures)

    def engine_event(self, kind: str, message: str) -> None:
        """Appends an event of this rank's own engine."""
        self.attempt.append_event(kind, message, rank=self.parallel.rank)


def execute(
    job: RunJob,
    run: RunFolder,
    attempt: AttemptFolder,
    stop: Callable[[], bool],
    options: RunOptions | None = None,
    parallel: Parallelism | None = None,
) -> None:
    """Trains and evaluates whatever `job` asks for and `run` does not hold yet.

    Args:
        job: the run.
        run: its folder, with the records and checkpoints of earlier attempts.
        attempt: the folder of this attempt.
        stop: polled after each step and during evaluations; true asks for a checkpoint and an end.
        options: steps to profile, and sinks of step records.
        parallel: how the run is spread over processes, each of which calls this; a single one unless given.

    Raises:
        Interrupted: `stop` became true; the work so far is saved.
        Diverged: a detector of the recipe's `stability` ended the run.
    """
    earlier = sum(a.wall_seconds for a in run.attempts() if a.number < attempt.number)
    parallel = parallel or SingleProcess()
    state = _Run(job, run, attempt, stop, options or RunOptions(), parallel, earlier_seconds=earlier)
    device = parallel.device or choose_device(job.hardware.device)
    source = resolve_model(job.recipe.model)
    loaded = load_model(source, job.recipe.model, device=device)
    engine = parallel.shared_engine(_engine(state, loaded))
    with AnswerChecker() as checker, CompositeReward(job.recipe.reward, checker=checker) as rewards:
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
    """This rank's engine. An engine with devices of its own runs on rank 0 alone and serves all ranks."""
    recipe = state.job.recipe
    if recipe.rollout.has_own_devices and not state.parallel.is_rank0:
        return None
    longest = state.job.evaluate.max_completion_tokens
    return build_engine(recipe, loaded, completion_tokens=longest, on_event=state.engine_event)


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
        peak_flops=_peak_flops(job, loaded, state.parallel),
        devices=job.devices,
        parallel=state.parallel,
    )
    state.event("flops_model", trainer.flops.words, peak_flops=trainer.peak_flops)
    if trainer.dropped_prompts:
        state.event("prompts_dropped", f"{trainer.dropped_prompts} questions have too long a prompt")
    state.parallel.on_rank0(lambda: _prune(state, checkpoints))
    state.parallel.on_rank0(lambda: fork(job, state.folder, state.attempt, checkpoints, state.event))
    state.taken_over_usd = taken_over_usd(state.folder)
    # Loading a checkpoint, to evaluate it or to find it damaged, overwrites the policy's weights.
    touched = bool(state.parallel.on_rank0(checkpoints.steps))
    _evaluate_earlier(state, checkpoints, loaded, engine, evaluator)

    def untrained() -> PreTrainedModel:
        return load_model(loaded.source, job.recipe.model, device=loaded.model.device).model

    levels = state.parallel.on_rank0(lambda: state.folder.untrained(job))
    if not levels:
        return
    if not _restored(state, trainer, checkpoints, before=min(levels)) and touched:
        trainer.reset(untrained())
    with closing(_sinks(state)) as sinks:
        _steps(state, trainer, checkpoints, evaluator, untrained, until=max(levels), sinks=sinks)


def _sinks(state: _Run) -> Sinks:
    def failed(name: str, error: Exception) -> None:
        state.event("sink_failed", f"{name} gets no more records: {type(error).__name__}: {error}"[:500])

    return open_sinks(state.job, state.attempt.path, state.options, failed)


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
    """Trains up to step `until`, writing checkpoints and evaluating step levels on the way."""
    job, keep = state.job, frozenset(state.job.steps)
    while trainer.step < until:
        with profiled(state.attempt.path, trainer.step + 1, state.options):
            record = trainer.train_step()
        every, stopping = job.recipe.training.checkpoint_every, state.parallel.on_rank0(state.stop)
        saving = trainer.step in {*keep, *job.fork_steps} or (every and trainer.step % every == 0) or stopping
        # The record first: every step up to a checkpoint must have its record, also after a crash between the two.
        _append(state, record)
        if trainer.alarms and handle_alarms(
            trainer, checkpoints, levels=keep, untrained=untrained, event=state.event, parallel=state.parallel
        ):
            sinks.write(record)
            continue
        if saving:
            record = _save(state, trainer, checkpoints, record)
        sinks.write(record)
        if stopping:
            raise Interrupted
        if trainer.step in keep:
            _evaluate(state, evaluator, trainer.step)


def _append(state: _Run, figures: StepFigures) -> None:
    """Appends a step's record; a later line for the same step supersedes it."""
    if not state.parallel.is_rank0:
        return
    state.attempt.append_step(
        StepRecord(
            run_id=state.job.run_id,
            attempt=state.attempt.number,
            **vars(figures),
            cost_usd=state.spent(),
            time=utc_now(),
        )
    )


def _save(state: _Run, trainer: Trainer, checkpoints: Checkpoints, figures: StepFigures) -> StepFigures:
    """Writes a checkpoint and prunes older ones; then appends the step's record again, now with the seconds taken."""
    with trainer.clock.phase("checkpoint"):
        state.attempt.check()
        if state.parallel.is_rank0:
            sync_path(state.attempt.steps_file)
        trainer.save(checkpoints)
        state.parallel.on_rank0(lambda: _prune(state, checkpoints, at=trainer.step))
    seconds = trainer.clock.seconds["checkpoint"]
    timing = replace(
        figures.timing,
        seconds={**figures.timing.seconds, "checkpoint": seconds},
        total_seconds=figures.timing.total_seconds + seconds,
    )
    figures = replace(figures, timing=timing, memory=trainer.clock.memory())
    _append(state, figures)
    return figures


def _prune(state: _Run, checkpoints: Checkpoints, *, at: int | None = None) -> None:
    checkpoints.prune(state.kept(), frozenset(state.job.fork_steps), at=at)


def _problems(state: _Run) -> list[Problem]:
    recipe = state.job.recipe
    mix = build_mix(recipe.data, extra=has_own_functions(recipe.reward))
    state.event("data", f"{len(mix.problems)} training questions", manifest=mix.manifest)
    return mix.problems


def _peak_flops(job: RunJob, loaded: LoadedModel, parallel: Parallelism) -> float | None:
    """Peak FLOP/s of all devices together; None of a GPU of which it is not known."""
    if loaded.model.device.type == "cuda":
        profile = PROFILES["unknown" if job.hardware.profile == "auto" else job.hardware.profile]
        return None if profile.peak_tflops is None else profile.peak_tflops * 1e12 * job.devices
    bf16 = job.recipe.model.dtype == "bfloat16"
    return parallel.world_size * measured_peak(
        bf16=compute_dtype(bf16=bf16, device=loaded.model.device) == torch.bfloat16
    )


def _evaluate_earlier(
    state: _Run, checkpoints: Checkpoints, loaded: LoadedModel, engine: Engine, evaluator: Evaluator
) -> None:
    """Evaluates checkpoints that an earlier attempt trained and did not evaluate."""
    missing = state.parallel.on_rank0(lambda: state.folder.missing(state.job))
    there = state.parallel.on_rank0(checkpoints.steps)
    waiting = sorted({step for step, _ in missing} & set(there))
    for step in waiting:
        try:
            checkpoints.load_weights(step, loaded.model)
        except DamagedCheckpoint as error:
            state.event("checkpoint_damaged", f"{error}; its step is trained again", step=step)
            state.parallel.on_rank0(partial(checkpoints.keep_damaged, step))
            continue
        engine.update_weights()
        _evaluate(state, evaluator, step)


def _restored(state: _Run, trainer: Trainer, checkpoints: Checkpoints, *, before: int) -> bool:
    """Resumes from the latest sound checkpoint before the step `before`; False if there is none."""
    for step in reversed([s for s in state.parallel.on_rank0(checkpoints.resumable) if s < before]):
        try:
            trainer.restore(checkpoints, step)
        except DamagedCheckpoint as error:
            state.event("checkpoint_damaged", f"{error}; its step is trained again", step=step)
            state.parallel.on_rank0(partial(checkpoints.keep_damaged, step))
            continue
        state.event("resumed", f"from step {step}", step=step)
        return True
    return False


def _evaluate(state: _Run, evaluator: Evaluator, step: int) -> None:
    """Runs the benchmarks that are missing for the checkpoint of `step`, on rank 0 with the engines of all ranks."""
    state.parallel.on_rank0(lambda: _benchmarks(state, evaluator, step))


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
                made_by=MadeBy(run_id=state.job.run_id, attempt=state.attempt.number),
                stop=state.stop,
            )
        except EvaluationStopped:
            raise Interrupted from None
