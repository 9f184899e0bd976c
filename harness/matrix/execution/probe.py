"""A short probe: a few steps of a plan's runs on this machine, so that its hours and its memory are no guesses."""

from __future__ import annotations

import dataclasses
import shutil
import time

from harness.matrix.execution.run_matrix import Matrix, slots_of
from harness.matrix.execution.worker_command import ENVIRONMENT, WORKER
from harness.matrix.executors.base import Slot
from harness.matrix.executors.local import LocalExecutor
from harness.matrix.planning.estimator import probe_store
from harness.spec.errors import SpecError
from harness.store.job import RunJob

STEPS = 5
"""Steps of a probe; the first warms up and does not count."""

QUESTIONS = 24
"""Questions of each benchmark that a probe evaluates, if it has more."""


def run_probe(matrix: Matrix) -> None:
    """Trains the most expensive run of each model for a few steps and evaluates a few questions; keeps the records.

    Raises:
        SpecError: the probe failed.
    """
    most_expensive: dict[str, RunJob] = {}
    for job in matrix.plan.jobs:
        name = job.recipe.model.name
        best = most_expensive.get(name)
        if job.kind == "train" and (
            best is None or matrix.estimator.step_seconds(job) > matrix.estimator.step_seconds(best)
        ):
            most_expensive[name] = job
    for job in most_expensive.values():
        _probe(matrix, _shortened(job))


def _shortened(job: RunJob) -> RunJob:
    training = job.recipe.training.model_copy(update={"steps": STEPS, "keep": "nothing"})
    benchmarks = tuple(
        b.model_copy(update={"questions": min(b.questions or QUESTIONS, QUESTIONS)})
        for b in job.evaluate.benchmarks
    )
    return dataclasses.replace(
        job,
        recipe=job.recipe.model_copy(update={"training": training}),
        evaluate=job.evaluate.model_copy(update={"benchmarks": benchmarks}),
        steps=(STEPS,),
        fork=None,
        fork_steps=(),
        label=f"probe of {job.label}",
    )


def _probe(matrix: Matrix, job: RunJob) -> None:
    folder = probe_store(matrix.store).run(job.run_id)
    # The identity leaves out knobs of speed and memory: an earlier probe of it may have measured something else.
    shutil.rmtree(folder.path, ignore_errors=True)
    attempt = folder.reserve_attempt()
    folder.write_job(job)
    slot: Slot = slots_of(matrix)[0]
    executor = LocalExecutor()
    command = [*WORKER, str(folder.path), "--attempt", str(attempt.number)]
    try:
        handle = executor.submit(command, ENVIRONMENT, slot, attempt.log)
        while executor.poll(handle) is None:
            time.sleep(0.1)
    finally:
        executor.close()
    end = attempt.end()
    if end is None or end.status != "finished":
        words = end.error.words if end and end.error else "WorkerDied: it ended without a word"
        raise SpecError(
            f"the probe of [{job.label}] failed: {words}",
            hint=f"see {attempt.log}",
        )
    folder.prune_finished(job, frozenset())
