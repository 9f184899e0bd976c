"""A stated model of a run's time and memory, for plans made before anything has run.

Each constant is an assumption, printed with the plan; earlier records of the same output folder replace what they
can. N weights, B sequences decoded together, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from harness.matrix.machine import Hardware
from harness.matrix.memory_model import MemoryParts, memory_parts
from harness.models.catalog import ModelSource
from harness.spec.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a device is assumed to sustain.

    Attributes:
        train_flops: FLOP/s of forward and backward passes, of one device.
        decode_flops: FLOP/s of decoding in large batches, of one device.
        bandwidth: bytes/s at which weights are read while decoding, of one device.
        decode_overhead_seconds: fixed time of a decoding step, per layer.
        step_overhead_seconds: fixed time of a training step.
        startup_seconds: from the start of a worker to its first step.
    """

    train_flops: float
    decode_flops: float
    bandwidth: float
    decode_overhead_seconds: float
    step_overhead_seconds: float
    startup_seconds: float


TRAIN_SHARE = 0.35
"""Share of the dense peak that training reaches on a GPU."""

_GPU_BANDWIDTH = {"a40": 696e9, "a100-80gb": 2039e9, "h100": 3350e9, "l4": 300e9, "rtx4090": 1008e9}
_CPU_TRAIN_FLOPS = {"float32": 5e10, "bfloat16": 2e11}
_CPU_DECODE_FLOPS = {
    "float32": 5e10,
    "bfloat16": 4e10,
}  # decoding's thin products gain nothing from bf16 units

COMPLETION_SHARE = 0.7
"""Mean completion length as a share of the cap."""

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
            decode_overhead_seconds=5e-4,
            step_overhead_seconds=0.05,
            startup_seconds=10.0,
        )
    peak = (hardware.profile.peak_tflops or 100.0) * 1e12 / (1 if dtype == "bfloat16" else 4)
    return Rates(
        train_flops=peak * TRAIN_SHARE,
        decode_flops=peak * TRAIN_SHARE,
        bandwidth=0.6 * _GPU_BANDWIDTH[hardware.profile.name],
        decode_overhead_seconds=1e-3,
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

    def generation_seconds(self, sequences: int, cap: int) -> float:
        """Time to decode `sequences` completions; the longest one decides, and takes about the cap."""
        device, width, weights = self.rates, self._width, self.model.parameters
        item = 2 if self.recipe.model.dtype == "bfloat16" else 4
        shared = sequences / self.hardware.devices if self.hardware.on_gpu else sequences
        compute = 2 * weights * shared / (device.decode_flops * (1 if self.hardware.on_gpu else width))
        read = weights * item / (device.bandwidth * (1 if self.hardware.on_gpu else width))
        overhead = device.decode_overhead_seconds * self.model.layers
        prefill = 2 * weights * sequences * self.prompt_tokens / (device.train_flops * width)
        return cap * (max(compute, read) + overhead) + prefill

    @cached_property
    def step_seconds(self) -> float:
        """Time of a training step."""
        rollout, training = self.recipe.rollout, self.recipe.training
        sequences = rollout.prompts_per_step * rollout.completions_per_prompt
        tokens = sequences * (self.prompt_tokens + COMPLETION_SHARE * rollout.max_completion_tokens)
        passes = 6 * training.inner_epochs * TRAINED_SHARE + (2 if self.recipe.objective.beta > 0 else 0)
        if training.inner_epochs * training.minibatches > 1:
            passes += 2 * TRAINED_SHARE
        if training.gradient_checkpointing:
            passes += 2 * training.inner_epochs * TRAINED_SHARE
        update = passes * self.model.parameters * tokens / (self.rates.train_flops * self._width)
        generation = self.generation_seconds(sequences, rollout.max_completion_tokens)
        return self.rates.step_overhead_seconds + generation + update

    @cached_property
    def memory(self) -> MemoryParts:
        """Peak of one training device (of a training process on a CPU), part by part."""
        return memory_parts(self.recipe, self.model, self.hardware, prompt_tokens=self.prompt_tokens)

    @property
    def _width(self) -> int:
        return self.hardware.devices


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
        f"questions of {questions} tokens; completions of {COMPLETION_SHARE:.0%} of the cap, "
        f"{TRAINED_SHARE:.0%} of them with an advantage; generation runs until the cap"
    )
    return lines
