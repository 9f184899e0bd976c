"""The rollout engine that a recipe asks for."""

from __future__ import annotations

from collections.abc import Callable

import torch

from harness.models.loading import LoadedModel
from harness.models.precision import compute_dtype
from harness.rollout.engine import Engine
from harness.rollout.transformers_engine import TransformersEngine
from harness.spec.recipe import Recipe


def build_engine(
    recipe: Recipe,
    loaded: LoadedModel,
    *,
    completion_tokens: int = 0,
    on_event: Callable[[str, str], None] | None = None,
) -> Engine:
    """Builds the engine.

    Args:
        recipe: names the engine.
        loaded: the policy and its tokenizer.
        completion_tokens: the longest completion that will be asked for, if above the recipe's own cap; an engine
            that reserves room for it asks once, others ignore it.
        on_event: told what happens to the engine, such as a restart: kind and message.
    """
    bf16 = recipe.model.dtype == "bfloat16"
    if recipe.rollout.engine == "vllm":
        from harness.rollout.vllm_engine import VllmEngine

        longest = max(recipe.rollout.max_completion_tokens, completion_tokens)
        return VllmEngine(
            loaded.model,
            end_ids=loaded.special.end_ids,
            vocabulary=loaded.special.vocabulary,
            spec=recipe.rollout.vllm,
            bf16=bf16,
            context_tokens=min(recipe.prompt.max_tokens + longest, loaded.source.context_tokens),
            on_event=on_event,
        )
    return TransformersEngine(
        loaded.model,
        end_ids=loaded.special.end_ids,
        pad_id=loaded.special.pad_id,
        vocabulary=loaded.special.vocabulary,
        bf16=compute_dtype(bf16=bf16, device=loaded.model.device) == torch.bfloat16,
    )
