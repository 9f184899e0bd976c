"""The rollout engine that a recipe asks for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Protocol

from harness.models.loading import LoadedModel
from harness.rollout.engine import Engine
from harness.spec.recipe import Recipe


class EngineClass(Protocol):
    """A class that `harness.spec.engines` names."""

    def from_recipe(
        self,
        recipe: Recipe,
        loaded: LoadedModel,
        *,
        completion_tokens: int = 0,
        on_event: Callable[[str, str], None] | None = None,
    ) -> Engine:
        """The engine of a recipe; the arguments are those of `build_engine`."""
        ...


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
    module, _, name = recipe.rollout.traits.path.partition(":")
    engine: EngineClass = getattr(importlib.import_module(module), name)
    return engine.from_recipe(recipe, loaded, completion_tokens=completion_tokens, on_event=on_event)
