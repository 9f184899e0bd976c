"""What makes two runs the same run: a versioned hash of classified fields of the resolved recipe.

Every field of every section is either part of a run's identity or a runtime knob; a test fails until a new
field is classified. Content counts, names don't: the model and the data enter as fingerprints of what they hold.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from harness.spec.evaluation import BenchmarkSpec, EvaluateSpec
from harness.spec.recipe import PromptSpec, Recipe

VERSION = 1
"""Raised when the same recipe would train differently than before."""

RUNTIME_FIELDS = frozenset(
    {
        "model.name",
        "model.revision",
        "model.attention",
        "training.microbatch_tokens",
        "training.checkpoint_every",
        "training.gradient_checkpointing",
    }
)
"""Dotted recipe fields that change speed, memory or names, not the experiment. All others are identity."""


@dataclass(frozen=True)
class Identity:
    """A digest and the fields that went into it.

    Attributes:
        digest: 12 hexadecimal digits.
        fields: dotted name to JSON value.
    """

    digest: str
    fields: dict[str, Any]


def _identity(kind: str, fields: dict[str, Any]) -> Identity:
    text = json.dumps({"kind": kind, "version": VERSION, **fields}, sort_keys=True, separators=(",", ":"))
    return Identity(hashlib.sha256(text.encode()).hexdigest()[:12], fields)


def flattened(data: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names; lists stay whole."""
    if not isinstance(data, dict):
        return {prefix: data}
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        flat.update(flattened(value, name) if value else {name: value})
    return flat


def schedule_depends_on_steps(recipe: Recipe) -> bool:
    """Whether the learning rate at a step depends on how many steps follow."""
    return recipe.optimizer.schedule != "constant"


def run_identity(recipe: Recipe, seed: int, *, model_fingerprint: str, data_fingerprint: str) -> Identity:
    """Identity of the trajectory that a cell lies on.

    `training.steps` is left out under a schedule that does not look ahead: shorter cells are its checkpoints.
    """
    fields = {k: v for k, v in flattened(recipe.model_dump(mode="json")).items() if k not in RUNTIME_FIELDS}
    if not schedule_depends_on_steps(recipe):
        del fields["training.steps"]
    return _identity(
        "run", {**fields, "seed": seed, "model.content": model_fingerprint, "data.content": data_fingerprint}
    )


def base_identity(recipe: Recipe, *, model_fingerprint: str) -> Identity:
    """Identity of an untrained model under a prompt: what step-0 evaluations of all its runs share."""
    prompt = flattened(recipe.prompt.model_dump(mode="json"), "prompt")
    return _identity(
        "base", {**prompt, "model.content": model_fingerprint, "model.dtype": recipe.model.dtype}
    )


def evaluation_identity(
    evaluate: EvaluateSpec, benchmark: BenchmarkSpec, prompt: PromptSpec, *, benchmark_fingerprint: str
) -> Identity:
    """Identity of what is measured, apart from on which checkpoint."""
    settings = evaluate.model_dump(mode="json", exclude={"benchmarks", "base", "prompt"})
    fields = {
        **settings,
        **flattened((evaluate.prompt or prompt).model_dump(mode="json", exclude={"max_tokens"}), "prompt"),
        "benchmark": benchmark.model_dump(mode="json", exclude={"name"}),
        "benchmark.content": benchmark_fingerprint,
    }
    return _identity("evaluation", fields)
