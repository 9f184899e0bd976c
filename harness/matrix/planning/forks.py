"""Which runs may fork: start from a checkpoint of another run, their trunk, instead of from step 0.

What a schedule does to a run it does through the learning rate of each step. So two runs with one seed, whose
recipes are equal but for the schedule, are one trajectory for as long as their rates agree, whatever the schedules
are called: a short WSD run is a long one until it begins to fall. This changes how runs are executed, not what they
are: identities know nothing of it, and a run whose trunk fails trains all its steps itself.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

from harness.spec.recipe import Recipe
from harness.spec.schedule import SCHEDULE_FIELDS, learning_rate, learning_rates
from harness.store.folders import Store
from harness.store.job import Fork, RunJob

_ALIKE = {"optimizer": set(SCHEDULE_FIELDS), "training": {"steps", "checkpoint_every", "keep"}}
"""Recipe fields in which runs of a family may differ. Other runtime knobs may not: a gradient that is summed up in
other parts is rounded otherwise."""


def with_forks(jobs: Sequence[RunJob]) -> list[RunJob]:
    """The jobs, each with its fork and with the steps from which others fork."""
    families: dict[tuple[int, tuple[float, str]], list[RunJob]] = {}
    for job in jobs:
        if job.kind == "train" and not _rolls_back(job.recipe):
            families.setdefault((job.seed, _family(job.recipe)), []).append(job)
    forks: dict[str, Fork] = {}
    for family in families.values():
        if len(family) > 1:
            forks |= _forks(family)
    steps: dict[str, set[int]] = {}
    for fork in forks.values():
        steps.setdefault(fork.run_id, set()).add(fork.step)
    return [
        dataclasses.replace(
            job, fork=forks.get(job.run_id), fork_steps=tuple(sorted(steps.get(job.run_id, ())))
        )
        for job in jobs
    ]


def _rolls_back(recipe: Recipe) -> bool:
    """Whether a detector may roll the run back: to which step depends on the checkpoints on file, so forks would."""
    detectors = recipe.stability.model_dump().values()
    return any(isinstance(d, dict) and d["policy"] == "rollback" for d in detectors)


def _family(recipe: Recipe) -> tuple[float, str]:
    """What runs of a seed must have in common to share their first step."""
    rate = learning_rate(recipe.optimizer, step=1, steps=recipe.training.steps)
    return rate, recipe.model_dump_json(exclude=_ALIKE)


def _forks(family: Sequence[RunJob]) -> dict[str, Fork]:
    """The forks of a family, by run id, each as late as possible but before its run's first step level.

    Runs are taken one by one, and fork from one taken before; first those that would gain least from a fork for being
    evaluated early on, then the longest. Of the rates so far, in lexicographic order, those that agree longest with
    a run's are its neighbours.
    """
    forks: dict[str, Fork] = {}
    taken: list[tuple[tuple[float, ...], str]] = []
    for job in sorted(family, key=lambda job: (job.steps[0] - job.steps[-1], -job.steps[-1])):
        rates = learning_rates(job.recipe.optimizer, job.steps[-1])
        place = bisect_left(taken, (rates, job.run_id))
        near = taken[max(0, place - 1) : place + 1]
        agreed, trunk = max(((agreed_steps(rates, other), run) for other, run in near), default=(0, ""))
        step = min(agreed, job.steps[0] - 1)
        while trunk in forks and forks[trunk].step >= step:  # it has this step from its own trunk
            trunk = forks[trunk].run_id
        if step > 0:
            forks[job.run_id] = Fork(run_id=trunk, step=step)
        taken.insert(place, (rates, job.run_id))
    return forks


def agreed_steps(one: Sequence[float], other: Sequence[float]) -> int:
    """How many steps from the first on have the same rate in both."""
    most = min(len(one), len(other))
    return bisect_left(range(most), True, key=lambda n: one[: n + 1] != other[: n + 1])


def fork_sentences(jobs: Sequence[RunJob], store: Store) -> list[str]:
    """How many runs fork and what that saves, in words; without those whose trunk no longer has the checkpoint."""
    forks = [(job, job.fork) for job in jobs if job.fork is not None and _saves(job, job.fork, store)]
    if not forks:
        return []
    labels = {job.run_id: job.label for job in jobs}
    total = sum(job.steps[-1] for job in jobs)
    job, first = forks[0]
    which = f"such as [{job.label}] from the step-{first.step} checkpoint of [{labels[first.run_id]}]"
    return [
        f"{len(forks)} run{'s fork' if len(forks) > 1 else ' forks'} from a checkpoint of another, because their "
        f"learning rates agree up to there, {which}: saves {sum(f.step for _, f in forks)} of {total} steps."
    ]


def _saves(job: RunJob, fork: Fork, store: Store) -> bool:
    """Whether the run has taken over its trunk's steps, or still may."""
    first = next((r for a in store.run(job.run_id).attempts() for r in a.steps()[:1]), None)
    return trunk_state(fork, store) != "passed" if first is None else first.forked_from is not None


def trunk_state(fork: Fork, store: Store) -> Literal["there", "ahead", "passed"]:
    """Whether the trunk has the checkpoint of the fork's step, is still before it, or went on or ended without it."""
    trunk = store.run(fork.run_id)
    if fork.step in trunk.resumable_steps():
        return "there"
    reached = max([*trunk.checkpoint_steps(), *(step for step, _, _ in trunk.evaluated())], default=0)
    return "ahead" if reached < fork.step and trunk.diverged_at() is None else "passed"
