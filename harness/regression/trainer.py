"""The training workload of the gate: one training step that can be repeated exactly."""

from __future__ import annotations

import atexit
import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch

from harness.data.mix import build_mix
from harness.models.catalog import resolve_model
from harness.models.loading import load_model
from harness.rewards.composite import CompositeReward, has_own_functions
from harness.rollout.build import build_engine
from harness.spec.recipe import Recipe
from harness.store.records import StepFigures
from harness.store.records.form import JsonObject
from harness.training.trainer import Trainer

STILL = 1e-20
"""Up to this learning rate, AdamW's updates round to zero on fp32 weights."""


def training_step(recipe_fields: JsonObject, device: str) -> tuple[Callable[[], Any], str]:
    """Builds a function that does the first training step of a recipe, and a digest of its inputs.

    The learning rate is too small to move a weight, and the step's number is reset, so every call samples the same
    completions and computes the same gradient.

    Args:
        recipe_fields: the recipe; its learning rate must be at most `STILL`.
        device: `cpu` or `cuda`.
    """
    recipe = Recipe.model_validate(recipe_fields)
    if recipe.optimizer.learning_rate > STILL:
        raise ValueError(
            f"`optimizer.learning_rate` must be at most {STILL}, got {recipe.optimizer.learning_rate}: "
            "every call must be the same step"
        )
    source = resolve_model(recipe.model)
    loaded = load_model(source, recipe.model, device=torch.device(device))
    problems = build_mix(recipe.data, extra=has_own_functions(recipe.reward)).problems
    rewards = CompositeReward(recipe.reward)
    atexit.register(rewards.__exit__, None, None, None)
    trainer = Trainer(
        recipe, 0, loaded, build_engine(recipe, loaded), rewards.__enter__(), problems, peak_flops=1e12
    )

    def call() -> StepFigures:
        trainer.step = 0
        return trainer.train_step()

    known = json.dumps([source.fingerprint, [p.question for p in problems], recipe_fields], sort_keys=True)
    return call, hashlib.sha256(known.encode()).hexdigest()[:16]
