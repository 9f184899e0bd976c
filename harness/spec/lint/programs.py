"""What the reward names of trl, open-r1 and its descendants stand for, in this harness's terms.

Read from their `rewards.py` and `grpo.py`: Open-RS (knoveleng/open-rs, pinned to trl 69ad852e) and open-r1 (main);
and from trl's own `scripts/grpo.py` (1.16.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.spec.lint.finding import Place
from harness.spec.recipe import RewardFunctionSpec, RewardSpec
from harness.spec.source import Located, is_finite

_TRL_UNKNOWN = ("reasoning_accuracy_reward", "think_format_reward")
"""Rewards of trl's command that this harness has none like."""
FAMILIES: dict[str, dict[str, str]] = {
    "open-rs": {
        "accuracy": "accuracy_open_rs",
        "format": "format",
        "cosine": "cosine_characters",
        "repetition_penalty": "repetition",
    },
    "open-r1": {
        "accuracy": "accuracy",
        "format": "format_strict",
        "tag_count": "tag_count",
        "cosine": "cosine_characters",
        "repetition_penalty": "repetition",
        "soft_overlong_punishment": "soft_overlong",
    },
    "trl": {"accuracy_reward": "accuracy", "get_soft_overlong_punishment": "soft_overlong"},
}
"""Reward of this harness by the program's name for it. A name without an equal here is reported as not judged."""

_PARAMS: dict[str, dict[str, tuple[str, Any]]] = {
    "cosine": {
        "cosine_min_value_correct": ("min_value_correct", 0.5),
        "cosine_max_value_correct": ("max_value_correct", 1.0),
        "cosine_min_value_wrong": ("min_value_wrong", 0.0),
        "cosine_max_value_wrong": ("max_value_wrong", -0.5),
        "cosine_max_len": ("max_characters", 1000),
    },
    "repetition_penalty": {
        "repetition_n_grams": ("ngram_size", 3),
        "repetition_max_penalty": ("max_penalty", -1.0),
    },
    "soft_overlong_punishment": {
        "max_completion_len": ("max_tokens", 16384),
        "soft_punish_cache": ("buffer_tokens", 4096),
    },
    "get_soft_overlong_punishment": {"": ("max_tokens", 1280), " ": ("buffer_tokens", 256)},
}
"""Keys of a recipe that set a reward's parameters: the parameter here, and the program's default. trl's command fixes
those of its overlong punishment, so no key stands for them."""


@dataclass(frozen=True)
class RecipeReward:
    """A recipe's reward as far as this harness has functions like its own.

    Attributes:
        spec: the functions that are known; None where none is.
        places: where each of them stands.
        unknown: place, name and weight of those that are not known.
    """

    spec: RewardSpec | None
    places: tuple[Place, ...] = ()
    unknown: tuple[tuple[Place, str, float], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the known functions are all that counts; a function of weight 0 does not."""
        return all(weight == 0 for _, _, weight in self.unknown)


def reward_of(program: str, located: Located, values: Mapping[str, Any]) -> RecipeReward:
    """The recipe's reward.

    Args:
        program: whose reward names they are.
        located: the recipe with its lines.
        values: its settings, as trl reads them.

    Raises:
        SpecError: a weight is no number.
    """
    names: Any = values.get("reward_funcs")
    names = names if isinstance(names, list) else []
    family = FAMILIES.get(program, {})
    weights: Any = values.get("reward_weights") or [1.0] * len(names)
    if not isinstance(weights, list) or not all(is_finite(w) for w in weights):
        raise located.error(
            ("reward_weights",), f"reward_weights: must be a list of numbers, got {str(weights)[:80]}"
        )
    functions: list[RewardFunctionSpec] = []
    places: list[Place] = []
    unknown: list[tuple[Place, str, float]] = []
    for index, name in enumerate(names):
        equal = family.get(str(name))
        weight = float(weights[index]) if index < len(weights) else 1.0
        place = Place(
            key=f"reward_funcs[{index}] ({str(name)[:60]})", line=located.line(("reward_funcs", index))
        )
        if equal is None or any(equal == f.name for f in functions):
            unknown.append((place, str(name)[:60], weight))
            continue
        params = {
            ours: values.get(theirs, default)
            for theirs, (ours, default) in _PARAMS.get(str(name), {}).items()
        }
        functions.append(RewardFunctionSpec(name=equal, weight=weight, params=params))
        places.append(place)
    if model := values.get("reward_model_name_or_path"):
        place = Place(key="reward_model_name_or_path", line=located.line(("reward_model_name_or_path",)))
        unknown.append((place, str(model)[:60], 1.0))
    return RecipeReward(
        RewardSpec(functions=tuple(functions)) if functions else None, tuple(places), tuple(unknown)
    )


def program_of(data: Mapping[Any, Any]) -> str:
    """Whose code reads a recipe, by its reward functions: trl's command, or open-r1."""
    names = data.get("reward_funcs")
    if "reward_funcs" not in data:
        return "trl"
    names = names if isinstance(names, list) else [names]
    own = [
        name
        for name in names
        if str(name) in FAMILIES["trl"] or str(name) in _TRL_UNKNOWN or "." in str(name)
    ]
    return "trl" if own else "open-r1"
