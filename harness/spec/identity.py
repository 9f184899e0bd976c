"""What makes two runs the same run: a versioned hash of classified fields of the resolved recipe.

Every field of every section is part of a run's identity, unless it is marked `Runtime` where it is declared. Content
counts, names don't: the model and the data enter as fingerprints of what they hold.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_origin

from pydantic import BaseModel

from harness.spec.engines import FIRST_ENGINE
from harness.spec.evaluation import BenchmarkSpec, EvaluateSpec
from harness.spec.prompt import PromptSpec
from harness.spec.recipe import Recipe
from harness.spec.section import Added, Runtime, sections_in

VERSION = 1
"""Raised when the same recipe would train differently than before."""


@dataclass(frozen=True)
class Marks:
    """How the fields of a section count, by dotted name; `[]` stands for every element of a list.

    Attributes:
        identity: fields that hold no section and are not marked `Runtime`.
        runtime: fields marked `Runtime`.
        before: of the fields marked `Added`, the value at which they are left out.
    """

    identity: frozenset[str]
    runtime: frozenset[str]
    before: dict[str, object]


def marks(section: type[BaseModel], prefix: str = "") -> Marks:
    """The marks of a section's fields, and of those of the sections in it.

    Raises:
        TypeError: a field is marked in one member of a union, and otherwise in another.
    """
    identity, runtime, before = set[str](), set[str](), dict[str, object]()
    for name, field in section.model_fields.items():
        dotted = prefix + name
        inner = sections_in(field.annotation)
        if Runtime in field.metadata:
            runtime.add(dotted)
            continue
        if (added := next((m for m in field.metadata if isinstance(m, Added)), None)) is not None:
            before[dotted] = added.before
        if not inner:
            identity.add(dotted)
        joint = "[]." if get_origin(field.annotation) in (tuple, list) else "."
        for part in (marks(below, dotted + joint) for below in inner):
            identity |= part.identity
            runtime |= part.runtime
            before |= part.before
    if unclear := identity & runtime:
        raise TypeError(f"marked Runtime in one section and not in another: {', '.join(sorted(unclear))}")
    return Marks(frozenset(identity), frozenset(runtime), before)


RECIPE = marks(Recipe)
"""How the fields of a recipe count."""

EVALUATION = marks(EvaluateSpec)
"""How the fields of an evaluation count."""

FOUND_COLUMNS: dict[str, dict[str, str]] = {
    "file": {"question": "question", "answer": "answer"},
    "hub": {"question": "problem", "answer": "answer"},
}
"""What a column that is not given counts as, by kind of source: its default from before it was looked for in the
data. Which column is found follows from the data's content, which is part of the identity."""

EVALUATION_FIELDS = frozenset(
    {
        "benchmarks[].source",
        "benchmarks[].questions",
        "benchmarks[].seed",
        "samples",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "seed",
        "prompt",
    }
)
"""Fields of `evaluate` that change what is measured."""

EVALUATION_RUNTIME_FIELDS = frozenset({"benchmarks[].name", "base"})
"""Fields of `evaluate` that don't."""


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


def _experimental(data: Any, name: str = "") -> Any:
    """The data without runtime fields, without later fields at their old value, and with columns by name."""
    if isinstance(data, dict):
        if name == "data.sources[]":
            found = FOUND_COLUMNS.get(data["source"], {})
            data = {key: found.get(key) if value is None else value for key, value in data.items()}
        below = {key: f"{name}.{key}" if name else str(key) for key in data}
        kept = {
            key: (_experimental(value, below[key]), value)
            for key, value in data.items()
            if below[key] not in RECIPE.runtime
            and not (below[key] in RECIPE.before and value == RECIPE.before[below[key]])
        }
        # A section of which nothing is left came later as a whole; what was empty from the start stays.
        return {key: part for key, (part, value) in kept.items() if part != {} or value == {}}
    if isinstance(data, list):
        return [_experimental(item, f"{name}[]") for item in data]
    return data


@lru_cache(maxsize=4096)
def _section_fields(name: str, section: str) -> dict[str, Any]:
    """What a section of a recipe, as JSON, adds to a run's identity; most cells have most sections in common."""
    return flattened(_experimental({name: json.loads(section)}))


def schedule_depends_on_steps(recipe: Recipe) -> bool:
    """Whether the learning rate at a step depends on how many steps follow."""
    return recipe.optimizer.schedule != "constant" and recipe.optimizer.schedule_steps is None


def experiment_fields(recipe: Recipe) -> dict[str, Any]:
    """The recipe's part of a run's identity, the same for every seed.

    `training.steps` is left out under a schedule that does not look ahead: shorter cells are its checkpoints.
    """
    fields: dict[str, Any] = {}
    for name in Recipe.model_fields:
        fields |= _section_fields(name, getattr(recipe, name).model_dump_json())
    if not schedule_depends_on_steps(recipe):
        del fields["training.steps"]
    return fields


def run_identity(
    recipe: Recipe,
    seed: int,
    *,
    model_fingerprint: str,
    data_fingerprint: str,
    fields: dict[str, Any] | None = None,
) -> Identity:
    """Identity of the trajectory that a cell lies on.

    Args:
        recipe: the cell's recipe.
        seed: the run's seed.
        model_fingerprint: of the model's content.
        data_fingerprint: of the training data's content.
        fields: `experiment_fields(recipe)`, where it is at hand.
    """
    fields = experiment_fields(recipe) if fields is None else fields
    return _identity(
        "run", {**fields, "seed": seed, "model.content": model_fingerprint, "data.content": data_fingerprint}
    )


def _prompt_fields(prompt: PromptSpec) -> dict[str, Any]:
    return flattened(_experimental({"prompt": prompt.model_dump(mode="json")}))


def base_identity(recipe: Recipe, *, model_fingerprint: str) -> Identity:
    """Identity of an untrained model under a prompt: what step-0 evaluations of all its runs share."""
    fields = _prompt_fields(recipe.prompt)
    fields |= {"model.content": model_fingerprint, "model.dtype": recipe.model.dtype}
    # Another engine draws other samples; named only then, so that evaluations made before keep their identity.
    if recipe.rollout.engine != FIRST_ENGINE:
        fields["rollout.engine"] = recipe.rollout.engine
    return _identity("base", fields)


def evaluation_identity(
    evaluate: EvaluateSpec, benchmark: BenchmarkSpec, prompt: PromptSpec, *, benchmark_fingerprint: str
) -> Identity:
    """Identity of what is measured, apart from on which checkpoint."""
    knobs = {name for name in EVALUATION.runtime if "." not in name}
    settings = evaluate.model_dump(mode="json", exclude={"benchmarks", "prompt", *knobs})
    asked = _prompt_fields(evaluate.prompt or prompt)
    del asked["prompt.max_tokens"]
    named = {name.rpartition(".")[2] for name in EVALUATION.runtime if name.startswith("benchmarks[].")}
    own = benchmark.model_dump(mode="json", exclude=named)
    own["source"] = _experimental([own["source"]], "data.sources")[0]
    fields = {
        **settings,
        **asked,
        **{f"benchmark.{name}": value for name, value in own.items()},
        "benchmark.content": benchmark_fingerprint,
    }
    return _identity("evaluation", fields)
