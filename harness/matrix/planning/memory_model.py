"""Where a device's memory goes, part by part: the arithmetic behind the plan's GiB, and what dominates it.

N weights, R training processes. Bytes per weight: fp32 master 4, gradient 4, two moments 8 (in 8 bits 2.03, with a
scale for every 256), all sharded over R (FSDP2); each process of several keeps a whole fp32 replica, from which it
samples and checkpoints; bf16 decoding has a copy of 2. A layer keeps for the backward pass, per token: eight numbers
per channel of the residual stream (norms, sums, projections), queries, keys and values twice (before and after
rotation), four per channel of the feed-forward block; where activations are recomputed, its input and all of one
layer's.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.matrix.planning.hardware import Hardware
from harness.models.catalog import ModelSource
from harness.spec.engines import Reservation
from harness.spec.recipe import Recipe

GIB = 2**30
_PROCESS_GIB = {True: 0.8, False: 0.6}
"""What a process takes before any tensor, on a GPU (context, kernels) and on a CPU (libraries)."""
_HEAD_SLAB = 2048
"""Vocabulary columns of which the fused head holds logits at a time; peers hold them all."""


@dataclass(frozen=True)
class MemoryParts:
    """The parts of one training device's peak, in GiB.

    Attributes:
        parts: held together, by name.
        unfused_head_gib: what logits and their gradient would take besides, if the head were not fused.
    """

    parts: dict[str, float]
    unfused_head_gib: float

    @property
    def total_gib(self) -> float:
        """All parts."""
        return sum(self.parts.values())

    @property
    def dominant(self) -> str:
        """Name of the largest part."""
        return max(self.parts, key=lambda name: self.parts[name])

    def words(self) -> str:
        """The estimate in a sentence: total, what dominates, the rest."""
        ordered = sorted(self.parts.items(), key=lambda item: -item[1])
        (first, most), rest = ordered[0], ordered[1:]
        others = ", ".join(f"{name} {gib:.2g}" for name, gib in rest if gib >= 0.005)
        return (
            f"{self.total_gib:.1f} GiB on a training device, most of it {first} ({most:.2g} GiB); {others}; "
            f"an unfused head would add {self.unfused_head_gib:.2g}"
        )


def memory_parts(
    recipe: Recipe, model: ModelSource, hardware: Hardware, *, prompt_tokens: float
) -> MemoryParts:
    """The memory of one training device of a run (of each process on a CPU)."""
    ranks = hardware.spec.training_processes(recipe.rollout, on_gpu=hardware.on_gpu)
    weights, bf16 = model.parameters, recipe.model.dtype == "bfloat16"
    item = 2 if bf16 else 4
    trained = weights if recipe.model.lora is None else lora_weights(recipe, model)
    parts = {
        "weights": 4 * weights / ranks,
        "gradients": 4 * trained / ranks,
        "optimiser moments": moment_bytes(recipe) * trained / ranks,
        "replica for rollouts": 4.0 * weights if ranks > 1 else 0.0,
        "reference policy": 4 * weights / ranks
        if recipe.objective.beta > 0 and recipe.model.lora is None
        else 0.0,
        "activations": _activations(recipe, model, ranks, item),
        "logits of the fused head": _micro_batch_tokens(recipe, ranks)
        * min(_HEAD_SLAB, model.vocabulary)
        * 4.0,
        "process": _PROCESS_GIB[hardware.on_gpu] * GIB,
    }
    engine = recipe.rollout.traits
    reserved = engine.reservation(recipe.rollout)
    if reserved is not None:
        parts[engine.title] = _reserved(reserved, hardware, weights * item)
        parts["process"] += 0.0 if hardware.on_gpu else reserved.libraries_gib * GIB
    elif not recipe.rollout.has_own_devices:
        parts["weights for decoding"] = 2.0 * weights if bf16 and engine.copies_weights else 0.0
        sequences = recipe.rollout.prompts_per_step * recipe.rollout.completions_per_prompt / ranks
        cached = sequences * (prompt_tokens + recipe.rollout.max_completion_tokens)
        parts["keys and values"] = 2 * cached * model.kv_heads * model.head_dim * model.layers * item
    # Rollouts and updates take turns: only the larger of what they hold meanwhile counts.
    asleep = (engine.title,) if reserved is not None and reserved.asleep_in_updates else ()
    taking_turns = ("activations", "logits of the fused head"), ("keys and values", *asleep)
    update, rollout = (sum(parts.get(name, 0.0) for name in names) for names in taking_turns)
    for name in taking_turns[update >= rollout]:
        parts.pop(name, None)
    logits = _micro_batch_tokens(recipe, ranks) * model.vocabulary * 2 * item
    return MemoryParts({name: value / GIB for name, value in parts.items() if value}, logits / GIB)


def moment_bytes(recipe: Recipe) -> float:
    """Bytes of both moments of a trained weight."""
    return {"adamw": 8.0, "adamw_8bit": 2 * (1 + 4 / 256)}[recipe.optimizer.name]


def _micro_batch_tokens(recipe: Recipe, ranks: int) -> float:
    rollout = recipe.rollout
    longest = recipe.prompt.max_tokens + rollout.max_completion_tokens
    sequences = rollout.prompts_per_step * rollout.completions_per_prompt
    # A sequence is never cut, so one that is longer than the budget is a micro-batch of its own.
    return max(longest, min(recipe.training.microbatch_tokens, sequences * longest / ranks))


def _activations(recipe: Recipe, model: ModelSource, ranks: int, item: int) -> float:
    attention = (model.heads + 2 * model.kv_heads) * model.head_dim
    of_layer = 8 * model.hidden_size + 2 * attention + 4 * model.intermediate_size
    tokens = _micro_batch_tokens(recipe, ranks)
    if recipe.training.gradient_checkpointing:
        return tokens * item * (model.layers * model.hidden_size + of_layer)
    return tokens * item * model.layers * of_layer


def lora_weights(recipe: Recipe, model: ModelSource) -> float:
    """Weights of the adapters: two thin matrices, in and out, beside each product that is adapted."""
    spec = recipe.model.lora
    if spec is None:
        return 0.0
    hidden, inner = model.hidden_size, model.intermediate_size
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    ends = {
        "q_proj": hidden + queries,
        "k_proj": hidden + keys,
        "v_proj": hidden + keys,
        "o_proj": queries + hidden,
        "gate_proj": hidden + inner,
        "up_proj": hidden + inner,
        "down_proj": inner + hidden,
    }
    return float(model.layers * spec.r * sum(ends.get(target, 2 * hidden) for target in spec.targets))


def _reserved(reserved: Reservation, hardware: Hardware, weights: float) -> float:
    if not hardware.on_gpu:
        return reserved.cache_gib * GIB + weights
    return reserved.device_share * (hardware.profile.memory_gib or 0.0) * GIB
