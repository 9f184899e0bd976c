"""Values of a trl recipe's settings that choose one of several: those that trl knows, by version for the losses."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from harness.spec.lint import trl_keys
from harness.spec.lint.finding import Finding
from harness.spec.lint.trl_recipes import TrlRecipe
from harness.spec.lint.trl_settings import loss_of

LOSSES: dict[str, tuple[str, str]] = {
    "grpo": ("", "0.17.0"),
    "bnpo": ("", "0.17.0"),
    "dr_grpo": ("", "0.17.0"),
    "dapo": ("0.21.0", "0.22.2"),
    "cispo": ("0.24.0", "0.27.2"),
    "sapo": ("0.24.0", "0.27.2"),
    "luspo": ("0.27.2", "0.29.1"),
    "vespo": ("0.29.1", "1.0.0"),
}
"""By `loss_type`: the last version looked at that does not know it, and the first that does (`grpo_trainer.py`)."""
CHOICES: dict[str, tuple[str, ...]] = {
    "lr_scheduler_type": (
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
        "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "greedy",
    ),
    "save_strategy": ("no", "steps", "epoch", "best"),
    "eval_strategy": ("no", "steps", "epoch"),
    "logging_strategy": ("no", "steps", "epoch"),
    "vllm_mode": ("server", "colocate"),
    "importance_sampling_level": ("token", "sequence"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "scale_rewards": ("group", "batch", "none"),
    "dtype": ("auto", "bfloat16", "float16", "float32"),
    "torch_dtype": ("auto", "bfloat16", "float16", "float32"),
}  # fmt: skip
"""What trl 1.16.0 and transformers 5.19 know of settings that choose; older versions know less."""


def choices(recipe: TrlRecipe) -> Iterator[Finding]:
    """Values that are none of those that a setting can take."""
    for key, known in CHOICES.items():
        value = recipe.values.data.get(key)
        if value is None or isinstance(value, bool) or str(value).removeprefix("torch.") in known:
            continue
        yield _unknown_value(recipe, key, value, known)
    if recipe.stated_key("loss_type"):
        loss, own = loss_of(recipe), trl_keys.release(recipe.version)
        if loss not in LOSSES:
            yield _unknown_value(recipe, "loss_type", loss, tuple(LOSSES))
        elif own <= trl_keys.release(LOSSES[loss][0]):
            yield recipe.finding(
                "setting-value",
                "error",
                "loss_type",
                f"trl {recipe.version} does not know the loss `{loss}`: it stops at the first step",
                f"trl {LOSSES[loss][1]} or later",
            )


def _unknown_value(recipe: TrlRecipe, key: str, value: Any, known: tuple[str, ...]) -> Finding:
    close = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
    return recipe.finding(
        "setting-value",
        "error",
        key,
        f"{str(value)[:60]!r} is none of its values: trl stops",
        f'did you mean "{close[0]}"?' if close else f"one of {', '.join(known)}",
    )
