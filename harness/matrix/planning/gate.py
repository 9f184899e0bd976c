"""What stops a matrix before anything is spent: own rewards and models that fail, lint errors, too little memory.

Everything here is found without running the matrix, and nothing of the user's runs in this process.
"""

from __future__ import annotations

import psutil

from harness.matrix.planning.estimator import Estimator
from harness.matrix.planning.planner import Plan
from harness.matrix.planning.preflight import located, reward_error
from harness.matrix.planning.reward_trial import try_rewards
from harness.models.errors import ModelNotFound
from harness.models.trial import check_loadable
from harness.rewards.errors import RewardFailed, UnknownReward
from harness.rewards.own import OwnRewards
from harness.spec.errors import SpecError
from harness.spec.grid import Grid
from harness.spec.lint.finding import Finding, errors


def check_gate(plan: Plan) -> None:
    """Stops what is known to fail.

    Raises:
        SpecError: an own reward fails on sample questions, a model's config or tokenizer cannot be loaded, or the
            linter finds an error that the grid does not waive.
    """
    _check_rewards(plan.grid)
    _check_models(plan)
    if found := errors(plan.linted.findings):
        raise _lint_error(plan.grid, found)


def _check_rewards(grid: Grid) -> None:
    tried: set[str] = set()
    with OwnRewards() as own:
        for cell in grid.cells:
            recipe = cell.recipe
            key = f"{recipe.reward.model_dump_json()} {recipe.data.model_dump_json()}"
            if key in tried:
                continue
            tried.add(key)
            try:
                try_rewards(recipe, own)
            except (RewardFailed, UnknownReward) as error:
                raise reward_error(grid, cell, error) from None


def _check_models(plan: Plan) -> None:
    tried: set[str] = set()
    for planned in plan.cells:
        source = plan.models[planned.run_id]
        if source.fingerprint in tried:
            continue
        tried.add(source.fingerprint)
        try:
            check_loadable(source)
        except ModelNotFound as error:
            raise located(plan.grid, planned.cell, ("model", "name"), error.message, error.hint) from None


def _lint_error(grid: Grid, found: list[Finding]) -> SpecError:
    """The first error in full, and how many more there are."""
    first = found[0]
    more = "" if len(found) == 1 else f"; {len(found) - 1} more: python -m harness.lint {grid.file}"
    waiver = f"lint: {{waive: {{{first.rule}: <why it is meant to be>}}}}"
    return SpecError(
        f"[{first.rule}] {first.place.key}: {first.effect}",
        file=grid.file,
        line=first.place.line,
        hint=f"instead: {first.instead}\n  or waive it in the grid, {waiver}{more}",
    )


def memory_shortages(plan: Plan, estimator: Estimator) -> list[str]:
    """A sentence on runs left to do that are estimated to take more memory than a device has; empty without any."""
    profile = plan.hardware.profile
    there = profile.memory_gib if plan.hardware.on_gpu else psutil.virtual_memory().total / 2**30
    if there is None:
        return []
    short = [
        (estimate.gib, job)
        for job in plan.jobs
        if job.kind == "train" and (estimate := estimator.remaining(job)).evaluations and estimate.gib > there
    ]
    if not short:
        return []
    gib, job = max(short, key=lambda pair: pair[0])
    device = f"a device ({profile.name})" if plan.hardware.on_gpu else "this machine"
    others = f", and {len(short) - 1} more" if len(short) > 1 else ""
    return [
        f"memory: [{job.label}]{others} would take about {gib:.1f} GiB of the {there:.1f} that {device} has, most of "
        f"it {estimator.memory(job).dominant} (estimate); lower training.microbatch_tokens or "
        "rollout.max_completion_tokens, set training.gradient_checkpointing or model.lora, or take a larger device"
    ]
