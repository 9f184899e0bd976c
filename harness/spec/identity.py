"""What makes two runs the same run: a versioned hash of classified fields of the resolved recipe.

Every field of every section is either part of a run's identity or a runtime knob; a test fails until a new
field is classified. Content counts, names don't: the model and the data enter as fingerprints of what they hold.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from harness.spec.evaluation import BenchmarkSpec, EvaluateSpec
from harness.spec.prompt import PromptSpec
from harness.spec.recipe import Recipe

VERSION = 1
"""Raised when the same recipe would train differently than before."""

IDENTITY_FIELDS = frozenset(
    {
        "model.dtype",
        "data.sources[].source",
        "data.sources[].terms",
        "data.sources[].digits",
        "data.sources[].family",
        "data.sources[].params",
        "data.sources[].dataset",
        "data.sources[].config",
        "data.sources[].split",
        "data.sources[].question",
        "data.sources[].answer",
        "data.sources[].answer_pattern",
        "data.sources[].weight",
        "data.sources[].quota",
        "data.sources[].difficulty",
        "data.sources[].difficulty_column",
        "data.sources[].difficulty_range",
        "data.size",
        "data.seed",
        "prompt.format",
        "prompt.chat_template",
        "prompt.template_args",
        "prompt.system",
        "prompt.template",
        "prompt.max_tokens",
        "rollout.engine",
        "rollout.prompts_per_step",
        "rollout.completions_per_prompt",
        "rollout.max_completion_tokens",
        "rollout.temperature",
        "rollout.top_p",
        "reward.functions[].name",
        "reward.functions[].weight",
        "reward.functions[].params",
        "reward.normalization",
        "advantage.scale",
        "advantage.epsilon",
        "objective.loss",
        "objective.clip_low",
        "objective.clip_high",
        "objective.beta",
        "objective.aggregation",
        "objective.cispo_max",
        "objective.delta",
        "objective.entropy_bonus",
        "objective.importance",
        "objective.importance_cap",
        "objective.kl",
        "objective.kl_ratio",
        "objective.mask_truncated",
        "objective.max_length",
        "objective.ratio_level",
        "objective.sapo_tau_neg",
        "objective.sapo_tau_pos",
        "objective.top_entropy_quantile",
        "objective.vespo_k_neg",
        "objective.vespo_k_pos",
        "objective.vespo_lambda_neg",
        "objective.vespo_lambda_pos",
        "optimizer.learning_rate",
        "optimizer.schedule",
        "optimizer.schedule_steps",
        "optimizer.warmup_steps",
        "optimizer.min_learning_rate_ratio",
        "optimizer.betas",
        "optimizer.epsilon",
        "optimizer.weight_decay",
        "optimizer.max_grad_norm",
        "training.steps",
        "training.inner_epochs",
        "training.minibatches",
        "training.logprob_temperature",
        "model.lora",
        "rollout.zero_spread",
        "rollout.max_resamples",
        "optimizer.name",
        "optimizer.decay_fraction",
        "stability.patience",
        "stability.reference_steps",
        "stability.max_rollbacks",
        "stability.non_finite.policy",
        "stability.length.policy",
        "stability.length.collapse_ratio",
        "stability.length.explosion_ratio",
        "stability.entropy.policy",
        "stability.entropy.minimum",
        "stability.entropy.maximum",
        "stability.repetition.policy",
        "stability.repetition.ngram_tokens",
        "stability.repetition.maximum",
        "stability.language.policy",
        "stability.language.maximum",
        "stability.kl.policy",
        "stability.kl.maximum",
    }
)
"""Recipe fields that change the experiment; `[]` stands for every element of a list."""

RUNTIME_FIELDS = frozenset(
    {
        "model.name",
        "model.revision",
        "model.attention",
        "model.liger",
        "data.sources[].path",
        "data.sources[].revision",
        # A row that cannot be used is an error where it is not dropped: what is trained on is the same either way.
        "data.sources[].drop_invalid",
        "training.microbatch_tokens",
        "training.packing",
        "rollout.vllm.placement",
        "rollout.vllm.devices",
        "rollout.vllm.memory_utilization",
        "rollout.vllm.cache_gib",
        "rollout.vllm.sleep_level",
        "rollout.vllm.max_sequences",
        "rollout.vllm.cuda_graphs",
        "training.checkpoint_every",
        "training.keep",
        "training.gradient_checkpointing",
    }
)
"""Recipe fields that change speed, memory or names, not the experiment. Fingerprints stand for what is named."""

LATER_FIELDS: dict[str, Any] = {
    "data.sources[].answer_pattern": None,
    "prompt.format": "chat",
    "prompt.chat_template": None,
    "prompt.template_args": {},
    "data.sources[].quota": None,
    "data.sources[].difficulty": None,
    "data.sources[].difficulty_column": None,
    "data.sources[].difficulty_range": None,
    "reward.normalization": "none",
    "optimizer.schedule_steps": None,
    "training.logprob_temperature": None,
    "model.lora": None,
    "rollout.zero_spread": "keep",
    "rollout.max_resamples": 3,
    "optimizer.name": "adamw",
    "optimizer.decay_fraction": 0.2,
    "stability.patience": 3,
    "stability.reference_steps": 5,
    "stability.max_rollbacks": 2,
    "stability.non_finite.policy": "stop",
    "stability.length.policy": "continue",
    "stability.length.collapse_ratio": 0.2,
    "stability.length.explosion_ratio": 4.0,
    "stability.entropy.policy": "continue",
    "stability.entropy.minimum": 0.002,
    "stability.entropy.maximum": 8.0,
    "stability.repetition.policy": "continue",
    "stability.repetition.ngram_tokens": 16,
    "stability.repetition.maximum": 0.3,
    "stability.language.policy": "continue",
    "stability.language.maximum": 0.05,
    "stability.kl.policy": "continue",
    "stability.kl.maximum": 2.0,
}
"""Fields that came after version 1, with the value that does what was done before them. At that value a field is
left out of the identity, so that runs made before it keep theirs."""

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
            if below[key] not in RUNTIME_FIELDS
            and not (below[key] in LATER_FIELDS and value == LATER_FIELDS[below[key]])
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
    if recipe.rollout.engine != "transformers":
        fields["rollout.engine"] = recipe.rollout.engine
    return _identity("base", fields)


def evaluation_identity(
    evaluate: EvaluateSpec, benchmark: BenchmarkSpec, prompt: PromptSpec, *, benchmark_fingerprint: str
) -> Identity:
    """Identity of what is measured, apart from on which checkpoint."""
    settings = evaluate.model_dump(mode="json", exclude={"benchmarks", "base", "prompt"})
    asked = _prompt_fields(evaluate.prompt or prompt)
    del asked["prompt.max_tokens"]
    fields = {
        **settings,
        **asked,
        "benchmark.source": _experimental([benchmark.source.model_dump(mode="json")], "data.sources")[0],
        "benchmark.questions": benchmark.questions,
        "benchmark.seed": benchmark.seed,
        "benchmark.content": benchmark_fingerprint,
    }
    return _identity("evaluation", fields)
