"""What the reward names of open-r1 and its descendants stand for, in this harness's terms.

Read from their `rewards.py` and `grpo.py`: Open-RS (knoveleng/open-rs, pinned to trl 69ad852e) and open-r1 (main).
"""

from __future__ import annotations

import math
from typing import Any

from harness.spec.lint.finding import Place
from harness.spec.recipe import RewardFunctionSpec, RewardSpec
from harness.spec.source import Located

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
}
"""Reward of this harness by the program's name for it. Names without an equal here are left out of the curves."""

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
}
"""Keys of a recipe that set a reward's parameters: the parameter here, and the program's default."""


def reward_of(program: str, located: Located) -> tuple[RewardSpec, tuple[Place, ...]] | None:
    """The recipe's reward, and where each function stands; None where no function has an equal here.

    Raises:
        SpecError: a weight is no number.
    """
    names: Any = located.data.get("reward_funcs")
    names = names if isinstance(names, list) else []
    family = FAMILIES.get(program, {})
    weights: Any = located.data.get("reward_weights") or [1.0] * len(names)
    if not isinstance(weights, list) or not all(
        type(w) in (int, float) and math.isfinite(w) for w in weights
    ):
        raise located.error(
            ("reward_weights",), f"reward_weights: must be a list of numbers, got {weights!r}"
        )
    functions: list[RewardFunctionSpec] = []
    places: list[Place] = []
    for index, name in enumerate(names):
        equal = family.get(str(name))
        if equal is None or any(equal == f.name for f in functions):
            continue
        weight = weights[index] if index < len(weights) else 1.0
        params = {
            ours: located.data.get(theirs, default)
            for theirs, (ours, default) in _PARAMS.get(str(name), {}).items()
        }
        functions.append(RewardFunctionSpec(name=equal, weight=float(weight), params=params))
        places.append(
            Place(key=f"reward_funcs[{index}] ({name})", line=located.line(("reward_funcs", index)))
        )
    return (RewardSpec(functions=tuple(functions)), tuple(places)) if functions else None
