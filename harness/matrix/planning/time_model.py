"""A stated model of a run's time and memory, for plans made before anything has run.

Each constant is an assumption, printed with the plan; earlier records of the same output folder replace what they
can. N weights, B sequences decoded together, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from harness.matrix.planning.hardware import Hardware
from harness.matrix.planning.memory_model import MemoryParts, memory_parts
from harness.meters.flops import FlopsModel
from harness.models.architecture import packing_pays
from harness.models.catalog import ModelSource
from harness.spec.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a device is assumed to sustain.

    Attributes:
        train_flops: FLOP/s of forward and backward passes, of one device.
        decode_flops: FLOP/s of decoding in large batches, of one device.
        bandwidth: bytes/s at which weights are read while decoding, of one device.
        sequence_overhead_seconds: time of a decoding step that every sequence takes, whatever the model.
        step_overhead_seconds: fixed time of a training step.
        startup_seconds: from the start of a worker to its first step.
    """

    train_flops: float
    decode_flops: float
    bandwidth: float
    sequence_overhead_seconds: float
    step_overhead_seconds: float
    startup_seconds: float


TRAIN_SHARE = 0.35
"""Share of the dense peak that training reaches on a GPU."""

UNKNOWN_PEAK_TFLOPS, UNKNOWN_BANDWIDTH_GB_PER_SECOND = 100.0, 600.0
"""What a GPU is reckoned with of which nothing is known: about an A10's."""
_CPU_LAYER_SECONDS = 5e-4
"""Fixed time of a decoding step on a CPU, per layer; an engine's traits have that on a GPU."""
_CPU_TRAIN_FLOPS = {"float32": 5e10, "bfloat16": 2e11}
_CPU_DECODE_FLOPS = {
    "float32": 5e10,
    "bfloat16": 4e10,
}  # decoding's thin products gain nothing from bf16 units

COMPLETION_SHARE = 0.7
"""Mean completion length as a share of the cap."""

LONGEST_CAP = 8192
"""Tokens; a higher cap does not make the mean completion longer, only the longest one."""

QUESTION_TOKENS = {"sums": 10, "reasoning_gym": 40, "file": 100, "hub": 100, "champ": 100}
"""Mean length of a question, by kind of source."""

CHARACTERS_PER_TOKEN = 4
"""Of the system message and the template around a question."""

TRAINED_SHARE = 0.75
"""Share of completions with an advantage other than zero; the others need no update."""

EVALUATION_QUESTIONS = 200
"""Questions of a benchmark that does not say how many."""


def rates(hardware: Hardware, dtype: str) -> Rates:
    """The assumed rates of a kind of device."""
    if not hardware.on_gpu:
        return Rates(
            train_flops=_CPU_TRAIN_FLOPS[dtype],
            decode_flops=_CPU_DECODE_FLOPS[dtype],
            bandwidth=8e9,
            sequence_overhead_seconds=0.0,
            step_overhead_seconds=0.05,
            startup_seconds=10.0,
        )
    peak = (hardware.profile.peak_tflops or UNKNOWN_PEAK_TFLOPS) * 1e12 / (1 if dtype == "bfloat16" else 4)
    return Rates(
        train_flops=peak * TRAIN_SHARE,
        decode_flops=peak * TRAIN_SHARE,
        bandwidth=0.7e9 * (hardware.profile.bandwidth_gb_per_second or UNKNOWN_BANDWIDTH_GB_PER_SECOND),
        sequence_overhead_seconds=1.5e-4,
        step_overhead_seconds=0.2,
        startup_seconds=40.0,
    )


@dataclass(frozen=True)
class CostModel:
    """Seconds and memory of one recipe on one kind of hardware.

    Attributes:
        recipe: what is trained.
        model: its size.
        hardware: where.
    """

    recipe: Recipe
    model: ModelSource
    hardware: Hardware

    @property
    def rates(self) -> Rates:
        """Assumed rates of one device."""
        return rates(self.hardware, self.recipe.model.dtype)

    @cached_property
    def prompt_tokens(self) -> float:
        """Assumed mean prompt length: the text around the question, and the question."""
        prompt, sources = self.recipe.prompt, self.recipe.data.sources
        around = len(prompt.system or "") + len(prompt.template) - len("{question}")
        weight = sum(s.weight for s in sources)
        question = sum(QUESTION_TOKENS[s.source] * s.weight for s in sources) / weight
        return min(prompt.max_tokens, around / CHARACTERS_PER_TOKEN + question)

    def generation_seconds(self, prompts: int, completions: int, cap: int) -> float:
        """Time to decode `completions` of each prompt: full batches, then the longest one alone up to the cap."""
        device, recipe = self.rates, self.recipe
        sequences = prompts * completions / self._rollout_devices
        mean = COMPLETION_SHARE * min(cap, LONGEST_CAP)
        rows = min(sequences, recipe.rollout.traits.concurrency(recipe.rollout))
        context = self.prompt_tokens + mean / 2

        def step(rows: float) -> float:
            overhead = self._decode_overhead_seconds + rows * device.sequence_overhead_seconds
            compute = rows * self._flops.forward([context + 1], prefix=[context]) / device.decode_flops
            read = self._item * (self.model.matrix_weights + rows * context * self.model.cache_values)
            return max(compute, read / device.bandwidth) / self._threads + overhead

        waves = sequences / rows
        tails = 1 if recipe.rollout.traits.continuous_batching else waves
        decode = waves * mean * step(rows) + tails * (cap - mean) * step(1)
        prefill = prompts * self._flops.forward([self.prompt_tokens]) / device.train_flops
        return decode + prefill / (self._rollout_devices * self._threads)

    @cached_property
    def step_seconds(self) -> float:
        """Time of a training step."""
        rollout, training, objective = self.recipe.rollout, self.recipe.training, self.recipe.objective
        # In forward passes: backward is two, and one where weights are frozen and have no gradient of their own.
        update = (2 if self.recipe.model.lora else 3) + training.gradient_checkpointing
        old = training.inner_epochs * training.minibatches > 1
        passes = TRAINED_SHARE * (training.inner_epochs * update + old) + (objective.beta > 0)
        flops_per_second = self.rates.train_flops * self._training_devices * self._threads
        cap = rollout.max_completion_tokens
        generation = self.generation_seconds(rollout.prompts_per_step, rollout.completions_per_prompt, cap)
        return self.rates.step_overhead_seconds + generation + passes * self._forward_flops / flops_per_second

    @property
    def _forward_flops(self) -> float:
        """Of a forward pass over a step's sequences; packed ones without flash-attention share their prompts."""
        rollout, model = self.recipe.rollout, self.recipe.model
        prompt, groups = self.prompt_tokens, rollout.prompts_per_step
        length = prompt + COMPLETION_SHARE * min(rollout.max_completion_tokens, LONGEST_CAP)
        packed = self.recipe.training.packing == "packed"
        if self.recipe.training.packing == "auto":
            packed = packing_pays(self.model.hidden_size, on_cpu=not self.hardware.on_gpu)
        if not packed or model.attention == "flash_attention_2":
            return groups * rollout.completions_per_prompt * self._flops.forward([length])
        completion = self._flops.forward([length], prefix=[prompt])
        return groups * (self._flops.forward([prompt]) + rollout.completions_per_prompt * completion)

    @cached_property
    def memory(self) -> MemoryParts:
        """Peak of one training device (of a training process on a CPU), part by part."""
        return memory_parts(self.recipe, self.model, self.hardware, prompt_tokens=self.prompt_tokens)

    @property
    def _flops(self) -> FlopsModel:
        return FlopsModel(self.model.matrix_weights, self.model.hidden_size, self.model.layers)

    @property
    def _decode_overhead_seconds(self) -> float:
        """Fixed time of a decoding step: launching kernels, mostly."""
        rollout = self.recipe.rollout
        of_layer = rollout.traits.layer_seconds(rollout) if self.hardware.on_gpu else _CPU_LAYER_SECONDS
        return of_layer * self.model.layers

    @property
    def _item(self) -> int:
        """Bytes of a number in decoding."""
        return 2 if self.recipe.model.dtype == "bfloat16" else 4

    @property
    def _threads(self) -> int:
        """By how much a CPU's cores, which work as one device, are faster than one of them."""
        return 1 if self.hardware.on_gpu else self.hardware.devices

    @property
    def _training_devices(self) -> int:
        rollout, spec = self.recipe.rollout, self.hardware.spec
        return spec.training_processes(rollout, on_gpu=True) if self.hardware.on_gpu else 1

    @property
    def _rollout_devices(self) -> int:
        """Devices that decode: an engine of its own has one, else every training process has its engine."""
        return 1 if self.recipe.rollout.has_own_devices else self._training_devices


def assumptions(hardware: Hardware, dtypes: set[str]) -> list[str]:
    """The assumptions behind figures that nothing measured yet, in sentences."""
    lines = [
        f"{hardware.profile.name} at ${hardware.usd_per_hour:g}/h ({hardware.profile.price_source}), "
        f"{hardware.devices} per run"
    ]
    for dtype in sorted(dtypes):
        device = rates(hardware, dtype)
        lines.append(
            f"{dtype}: {device.train_flops / 1e12:.3g} TFLOP/s per device in training, weights read at "
            f"{device.bandwidth / 1e9:.3g} GB/s in decoding, {device.startup_seconds:g} s to start a run"
        )
    questions = ", ".join(f"{tokens} ({kind})" for kind, tokens in QUESTION_TOKENS.items())
    lines.append(
        f"questions of {questions} tokens; completions of {COMPLETION_SHARE:.0%} of the cap, or of {LONGEST_CAP:,} "
        f"tokens where it is higher, {TRAINED_SHARE:.0%} of them with an advantage; the longest of a batch goes on "
        "to the cap"
    )
    return lines
