"""One optimiser step of a recipe under fake tensors: the peak of allocated bytes by phase, and what holds it.

The update is the real one (model, packing, fused head, loss, optimiser, sharding); only its tensors have no values,
and its kernels are not launched. It is the worst step: every sequence has the longest prompt and reaches the cap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
import transformers.masking_utils
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from harness.meters.clock import PhaseClock
from harness.models.catalog import ModelSource
from harness.models.lora import add_adapters
from harness.simulation import labels
from harness.simulation.eight_bit import EightBitMoments
from harness.simulation.ranks import simulated_ranks
from harness.simulation.tracker import GPU_BLOCK, MemoryTracker, Peak
from harness.spec.recipe import Recipe
from harness.training.batch import Sample
from harness.training.data_parallel import Parallelism, SingleProcess
from harness.training.optimizer import build_optimizer
from harness.training.update import Updater
from kernels.device_choice import simulated_device

_MICROBATCHES = 2
"""As many suffice: from the second on, gradients are there while activations are."""
BUILDING = "loading"


@dataclass(frozen=True)
class SimulatedStep:
    """What a step allocates on one device.

    Attributes:
        phases: the peak of each phase: `loading`, `logprob`, `update`, `optimizer`, and `other` between them.
        tokens: of a sequence, prompt and completion.
        sequences: of a micro-batch.
        microbatches: that were simulated.
        operations: calls of tensor operations, by phase, over all micro-batches.
        waits: of them those for which the host waits for the device.
        notes: what the simulation leaves out, in sentences.
    """

    phases: dict[str, Peak]
    tokens: int
    sequences: int
    microbatches: int
    operations: Counter[str]
    waits: Counter[str]
    notes: tuple[str, ...]

    @property
    def peak(self) -> Peak:
        """The largest of the phases."""
        return max(self.phases.values(), key=lambda p: p.bytes)


class _Clock(PhaseClock):
    """Tells the tracker of phases; measures nothing."""

    def __init__(self, tracker: MemoryTracker) -> None:
        super().__init__()
        self._tracker = tracker

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Books the block's allocations under `name`."""
        with self._tracker.phase(name):
            yield


def simulate_step(recipe: Recipe, source: ModelSource, *, on_gpu: bool, ranks: int = 1) -> SimulatedStep:
    """Runs two steps of a recipe under fake tensors, a short one that makes gradients and moments, then the worst.

    Takes some seconds for each billion weights: no weights are read and no product is computed.

    Args:
        recipe: the run's recipe.
        source: its model, of which the configuration alone is read.
        on_gpu: choose what a GPU would choose (fused kernels, dtypes, layout), else what this CPU would.
        ranks: training processes that share weights, gradients and moments (FSDP2).
    """
    tokens = min(recipe.prompt.max_tokens + recipe.rollout.max_completion_tokens, source.context_tokens)
    sequences = max(1, recipe.training.microbatch_tokens // tokens)
    total = recipe.rollout.prompts_per_step * recipe.rollout.completions_per_prompt
    count = min(total, _MICROBATCHES * sequences * ranks)
    worst = equal_samples(count, min(recipe.prompt.max_tokens, tokens - 1), tokens, recipe)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    tracker = MemoryTracker(fake, labels.label_of_frame, rounded_to=GPU_BLOCK if on_gpu else 1)
    with ExitStack() as stack:
        stack.enter_context(simulated_device("cuda" if on_gpu else "cpu"))
        # Under tracing transformers builds a mask where attention is otherwise told to be causal.
        stack.enter_context(patch.object(transformers.masking_utils, "is_tracing", lambda *_: False))
        parallel: Parallelism = stack.enter_context(simulated_ranks(ranks)) if ranks > 1 else SingleProcess()
        stack.enter_context(fake)
        stack.enter_context(tracker)
        replica = _model(recipe, source, tracker, label=labels.REPLICA) if ranks > 1 else None
        model = _model(recipe, source, tracker, label=labels.WEIGHTS)
        reference = None
        if recipe.objective.beta > 0 and recipe.model.lora is None:
            reference = _model(recipe, source, tracker, label=labels.REFERENCE).requires_grad_(False)
        updater = _updater(recipe, model, reference, parallel, tracker)
        updater.update(equal_samples(ranks, 1, 3, recipe))
        tracker.operations.clear()
        tracker.waits.clear()
        updater.update(worst)
        del replica  # which has been there all the time
    return SimulatedStep(
        phases=tracker.peaks,
        tokens=tokens,
        sequences=min(sequences, -(-count // ranks)),
        microbatches=-(-count // (sequences * ranks)),
        operations=tracker.operations,
        waits=tracker.waits,
        notes=tuple(_left_out(recipe)),
    )


def _model(recipe: Recipe, source: ModelSource, tracker: MemoryTracker, *, label: str) -> PreTrainedModel:
    with tracker.phase(BUILDING, label):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            model_config(source, recipe), dtype=torch.float32
        ).eval()
        if recipe.model.lora is not None:
            # peft moves adapters to where the layer is, which they are; of tensors without values torch refuses it.
            with patch.object(torch.nn.Module, "to", lambda module, *_, **__: module):
                add_adapters(model, recipe.model.lora, seed=0)
    return model


def _updater(
    recipe: Recipe,
    model: PreTrainedModel,
    reference: PreTrainedModel | None,
    parallel: Parallelism,
    tracker: MemoryTracker,
) -> Updater:
    """The trainer's updater, over weights without values."""
    if reference is not None:
        with tracker.phase(BUILDING, labels.REFERENCE):
            reference = parallel.shard(reference)
    with tracker.phase(BUILDING, labels.WEIGHTS):
        policy = parallel.shard(model)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(
                lambda p: tracker.relabel([] if p.grad is None else [p.grad], labels.GRADIENTS)
            )
    trained = [p for p in policy.parameters() if p.requires_grad]
    eight_bit = recipe.optimizer.name == "adamw_8bit"
    optimizer = EightBitMoments(trained) if eight_bit else build_optimizer(policy, recipe.optimizer)
    return Updater(policy, reference, optimizer, recipe, _Clock(tracker), parallel)


def model_config(source: ModelSource, recipe: Recipe) -> PretrainedConfig:
    """The model's own configuration, or one of its dimensions where its files are not here."""
    attention = "sdpa" if recipe.model.attention == "flash_attention_2" else recipe.model.attention
    if source.small_files is not None:
        config = AutoConfig.from_pretrained(source.small_files)
    else:
        config = AutoConfig.for_model(
            source.model_type,
            hidden_size=source.hidden_size,
            num_hidden_layers=source.layers,
            vocab_size=source.vocabulary,
            intermediate_size=source.intermediate_size,
            num_attention_heads=source.heads,
            num_key_value_heads=source.kv_heads,
            head_dim=source.head_dim,
            max_position_embeddings=source.context_tokens,
            tie_word_embeddings=source.tied,
        )
    config._attn_implementation = attention
    return config


def equal_samples(count: int, prompt: int, tokens: int, recipe: Recipe) -> list[Sample]:
    """Completions of one length, each with an advantage, those of a prompt together."""
    completion = tokens - prompt
    group = recipe.rollout.completions_per_prompt
    return [
        Sample(
            prompt_ids=(i // group % 2,) * prompt,
            completion_ids=(0,) * completion,
            rollout_logprobs=(0.0,) * completion,
            advantage=1.0 if i % 2 else -1.0,
            truncated=False,
        )
        for i in range(count)
    ]


def _left_out(recipe: Recipe) -> Iterator[str]:
    if recipe.model.liger:
        yield "Liger's kernels are not simulated: they keep fewer activations"
    if recipe.model.attention == "flash_attention_2":
        yield "flash-attention is simulated as torch's own fused attention, which keeps the same tensors"
