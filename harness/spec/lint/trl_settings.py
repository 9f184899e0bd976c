"""What a trl recipe's settings come to: its batch, its schedule and its checkpoints, with the defaults of its trl."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.spec.lint.run_settings import RunSettings
from harness.spec.lint.trl_recipes import TrlRecipe, finite
from harness.spec.recipe import OptimizerSpec
from harness.spec.source import dotted

TEMPERED_SINCE = (0, 16, 0)
"""trl divides log-probs by the sampling temperature from this release on (its pull request 3029)."""
POOLED_SINCE = (0, 18, 0)
"""trl generates for all accumulation steps in one call from this release on."""
TOKEN_MEAN_SINCE = (0, 16, 0)
"""Before `loss_type` existed, trl's loss was the mean over all tokens from this release on, over sequences before."""
MAX_CHECKPOINTS = 100_000


@dataclass(frozen=True)
class Batch:
    """How a recipe's completions fall into calls of the generator and into updates (trl's `GRPOConfig`).

    Attributes:
        per_device: sequences of one process in one backward pass.
        processes: training processes.
        accumulation: backward passes of an update.
        group: completions per prompt.
        per_generation: backward passes that one call of the generator serves, for each process; it may be a fraction
            where the settings do not divide.
        iterations: times that each batch of completions is used.
    """

    per_device: int
    processes: int
    accumulation: int
    group: int
    per_generation: float
    iterations: int

    @property
    def completions(self) -> float:
        """Completions of one call of the generator: trl's `generation_batch_size`."""
        return self.per_device * self.processes * self.per_generation

    @property
    def updates(self) -> float:
        """Updates that use the completions of one call of the generator."""
        return self.iterations * max(1.0, self.per_generation / self.accumulation)


def batch_of(recipe: TrlRecipe) -> Batch:
    """The recipe's batch; one process where the file does not say how many.

    Raises:
        SpecError: a setting is no number, or below 1.
    """
    per_device = recipe.count("per_device_train_batch_size", 8)
    processes = recipe.processes or 1
    accumulation = recipe.count("gradient_accumulation_steps", 1)
    per_generation: float = accumulation
    if recipe.stated_key("steps_per_generation"):
        per_generation = recipe.count("steps_per_generation", 1)
    elif recipe.stated_key("generation_batch_size"):
        per_generation = recipe.count("generation_batch_size", 1) / (per_device * processes)
    return Batch(
        per_device=per_device,
        processes=processes,
        accumulation=accumulation,
        group=recipe.count("num_generations", 8, least=0),
        per_generation=per_generation,
        iterations=recipe.count("num_iterations", 1),
    )


def settings_of(recipe: TrlRecipe) -> RunSettings:
    """The recipe as the rules see it, with the defaults of its trl.

    Raises:
        SpecError: a setting has another type than trl wants.
    """
    old = recipe.before(TEMPERED_SINCE)
    steps = steps_of(recipe)
    temperature = recipe.number("temperature", 1.0)
    names = {
        "checkpoints": "save_steps",
        "rate": "learning_rate",
        "warmup": "warmup_ratio" if "warmup_ratio" in recipe.located.data else "warmup_steps",
        "inner": "num_iterations",
        "beta": "beta",
        "group": "num_generations",
        "cap": "max_completion_length",
        "logprob_temperature": "temperature",
        "top_p": "top_p",
        "reward": "reward_funcs",
        "clip": "epsilon",
        "kl": "sync_ref_model",
        "fix_temperature": "trl 0.16.0 or later, which divides by the temperature; or `temperature: 1.0`",
    }
    optimizer, known = optimizer_of(recipe)
    batch = batch_of(recipe)
    return RunSettings(
        file=recipe.file,
        places={concept: recipe.place(key) for concept, key in names.items() if concept != "fix_temperature"},
        names=names,
        steps=steps,
        horizon=steps,
        optimizer=optimizer,
        schedule_known=known,
        checkpoints=checkpoints_of(recipe),
        updates=math.ceil(batch.updates),
        loss=loss_of(recipe),
        beta=recipe.number("beta", 0.0),
        group=batch.group,
        cap=recipe.count("max_completion_length", 256),
        prompt_cap=recipe.count("max_prompt_length", 512),
        model=str(recipe.get("model_name_or_path", "")),
        lora=bool(recipe.get("use_peft", False)),
        temperature=temperature,
        logprob_temperature=1.0 if old else temperature,
        top_p=recipe.number("top_p", 1.0),
        reward=recipe.reward.spec,
        reward_complete=recipe.reward.complete,
        reward_places=recipe.reward.places,
        stated=frozenset(
            concept
            for concept, keys in (
                ("clip", ("epsilon", "epsilon_high", "delta")),
                ("kl", ("sync_ref_model", "ref_model_mixup_alpha")),
            )
            if any(key in recipe.located.data for key in keys)
        ),
    )


def loss_of(recipe: TrlRecipe) -> str:
    """The loss variant, also of versions that had but one."""
    without_key = "grpo" if recipe.before(TOKEN_MEAN_SINCE) else "bnpo"
    return str(recipe.get("loss_type", without_key))


def steps_of(recipe: TrlRecipe) -> int:
    """Training steps; -1 where the recipe counts epochs instead, so that they depend on the data's size."""
    steps = recipe.count("max_steps", -1, least=-1)
    return steps if steps > 0 else -1


def warmup_of(recipe: TrlRecipe) -> int:
    """Steps of warm-up. A fraction is one of all steps, rounded up; from transformers 5 on `warmup_steps` may be one.

    Raises:
        SpecError: a setting is no number, or negative.
    """
    steps = steps_of(recipe)
    warmup = recipe.number("warmup_steps", 0, least=0)
    ratio = recipe.number("warmup_ratio", 0.0, least=0)
    if ratio > 1:
        raise recipe.located.error(("warmup_ratio",), f"warmup_ratio: must be at most 1, got {ratio:g}")
    if warmup >= 1:
        return int(warmup)
    return math.ceil((warmup or ratio) * max(steps, 0))


def optimizer_of(recipe: TrlRecipe) -> tuple[OptimizerSpec, bool]:
    """Rate and schedule in this harness's terms, and whether it has a schedule like the recipe's.

    Raises:
        SpecError: a setting is no number, or out of range.
    """
    rate = recipe.number("learning_rate", 1e-6)
    if rate <= 0:
        raise recipe.located.error(("learning_rate",), f"learning_rate: must be above 0, got {rate:g}")
    name = str(recipe.get("lr_scheduler_type", "linear"))
    given = recipe.get("lr_scheduler_kwargs", {})
    kwargs: Mapping[str, Any] = given if isinstance(given, dict) else {}
    spec = OptimizerSpec(learning_rate=rate, warmup_steps=warmup_of(recipe))
    floor = _share(recipe, kwargs, "min_lr_rate")
    if floor is None and kwargs.get("min_lr") is not None:
        floor = min(1.0, finite(recipe.located, ("lr_scheduler_kwargs", "min_lr"), kwargs["min_lr"]) / rate)
    match name:
        case "constant":  # transformers gives it no warm-up
            return _with(spec, schedule="constant", warmup_steps=0), True
        case "constant_with_warmup":
            return _with(spec, schedule="constant"), True
        case "linear":
            return _with(spec, schedule="linear"), True
        case "cosine":
            return _with(spec, schedule="cosine"), kwargs.get("num_cycles", 0.5) == 0.5
        case "cosine_with_min_lr":
            return _with(spec, schedule="cosine", min_learning_rate_ratio=max(0.0, floor or 0.0)), True
        case "warmup_stable_decay":
            fall = kwargs.get("num_decay_steps")
            path = ("lr_scheduler_kwargs", "num_decay_steps")
            decay = 0.0 if fall is None else finite(recipe.located, path, fall) / max(1, steps_of(recipe))
            ratio = _share(recipe, kwargs, "min_lr_ratio") or 0.0
            linear = kwargs.get("decay_type", "cosine") == "linear"
            spec = _with(
                spec, schedule="wsd", decay_fraction=min(1.0, max(0.0, decay)), min_learning_rate_ratio=ratio
            )
            return spec, linear and fall is not None and steps_of(recipe) > 0
    return _with(spec, schedule="cosine"), False


def _with(spec: OptimizerSpec, **changes: Any) -> OptimizerSpec:
    """The same optimiser with other fields, validated anew."""
    return OptimizerSpec(**{**spec.model_dump(), **changes})


def _share(recipe: TrlRecipe, kwargs: Mapping[str, Any], key: str) -> float | None:
    if kwargs.get(key) is None:
        return None
    path = ("lr_scheduler_kwargs", key)
    value = finite(recipe.located, path, kwargs[key])
    if not 0 <= value <= 1:
        raise recipe.located.error(path, f"{dotted(path)}: must be from 0 to 1, got {value:g}")
    return value


def checkpoints_of(recipe: TrlRecipe) -> tuple[int, ...]:
    """The steps whose checkpoints stay: every `save_steps`, or that share of all steps, and the last one.

    Raises:
        SpecError: `save_steps` is no number, or one that transformers refuses, or makes too many checkpoints.
    """
    steps = steps_of(recipe)
    every = recipe.number("save_steps", 500)
    if every > 1 and every != int(every):
        raise recipe.located.error(
            ("save_steps",), f"save_steps: must be a whole number above 1, got {every:g}"
        )
    if steps < 1:
        return ()
    every = math.ceil(steps * every) if every < 1 else int(every)
    if str(recipe.get("save_strategy", "steps")) != "steps" or every < 1:
        return (steps,)
    if steps // every > MAX_CHECKPOINTS:
        raise recipe.located.error(
            ("save_steps",),
            f"save_steps: {steps // every:,} checkpoints of {steps:,} steps are too many to look at",
        )
    saved = tuple(sorted({*range(every, steps + 1, every), steps}))
    kept = recipe.count("save_total_limit", len(saved), least=0)
    return saved[-kept:] if kept else saved
