"""The run recipe: everything that decides one training trajectory.

Each field's docstring says what it does and in which unit; the same text appears in the documentation. The
hand-written form is sparse, the resolved one is saved whole beside every record.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from harness.spec.data import DataSpec
from harness.spec.engines import ENGINES, FIRST_ENGINE, EngineName, EngineTraits
from harness.spec.objective import ObjectiveSpec
from harness.spec.prompt import PromptSpec
from harness.spec.section import (
    MOST,
    Added,
    Fraction,
    Listed,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Runtime,
    Section,
)
from harness.spec.stability import StabilitySpec


class LoraSpec(Section):
    """Low-rank adapters in place of full fine-tuning (arXiv 2106.09685), through peft; dropout is 0."""

    r: PositiveInt = 16
    """Rank."""
    alpha: PositiveFloat = 32.0
    """The adapter's product is scaled by alpha / r."""
    targets: Annotated[tuple[str, ...], Listed, Field(min_length=1)] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Names of the linear layers that get an adapter."""

    @field_validator("targets")
    @classmethod
    def _in_the_body(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # The head's product is computed apart from its module, on completion positions alone.
        if outside := {"lm_head", "embed_tokens"} & set(value):
            raise ValueError(f"must name layers of the body, got {sorted(outside)[0]!r}")
        return value


class ModelSpec(Section):
    """The model to train. `model: tiny` is short for `model: {name: tiny}`."""

    name: Annotated[str, Runtime]
    """`tiny` (shipped with the harness), a local folder, or a hub id."""
    revision: Annotated[str | None, Runtime] = None
    """Hub revision: a commit, tag or branch."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Computation type. Master weights and optimiser moments are float32 in either case."""
    attention: Annotated[Literal["sdpa", "eager", "flash_attention_2"], Runtime] = "sdpa"
    """Attention implementation in transformers."""
    lora: Annotated[LoraSpec | None, Added(before=None)] = None
    """Train low-rank adapters alone, the model without them being the reference policy; null trains all weights."""
    liger: Annotated[bool, Runtime] = False
    """Liger's kernels for RMSNorm, SwiGLU and rotary embeddings; needs a GPU and liger-kernel."""


class VllmSpec(Section):
    """Where and how vLLM runs, with `engine: vllm`."""

    placement: Annotated[Literal["colocated", "own"], Runtime] = "colocated"
    """`colocated` shares the trainer's device and sleeps during the update, one engine for each training process;
    `own` is one engine for all of them, in a process of its own, on `devices`."""
    devices: Annotated[tuple[NonNegativeInt, ...], Listed, Runtime] = ()
    """With `own`: the GPU of the engine, by index; empty for the trainer's. The paper's layout on four GPUs is three
    that train and `[3]` here."""
    memory_utilization: Annotated[float, Field(gt=0, le=1), Runtime] = 0.35
    """Share of a GPU's memory that vLLM takes, weights included."""
    cache_gib: Annotated[PositiveFloat, Runtime] = 1.0
    """Room for keys and values on a CPU, in GiB."""
    sleep_level: Annotated[Literal[0, 1, 2], Runtime] = 1
    """Colocated, while the update runs: 0 keeps everything in place, 1 moves the weights to the host and drops the
    cache, 2 drops both, as 1 does on a CPU."""
    max_sequences: Annotated[PositiveInt, Runtime] = 256
    """Sequences decoded together."""
    cuda_graphs: Annotated[bool, Runtime] = True
    """Capture CUDA graphs at the start; never on a CPU."""


class RolloutSpec(Section):
    """How completions are sampled during training."""

    engine: EngineName = FIRST_ENGINE
    """Generation engine."""
    vllm: VllmSpec = VllmSpec()
    """Settings of the vLLM engine."""
    prompts_per_step: PositiveInt = 32
    """Prompts per step."""
    completions_per_prompt: Annotated[int, Field(ge=2, le=MOST)] = 8
    """Group size G: completions per prompt. A group of one has no advantage."""
    max_completion_tokens: PositiveInt = 64
    """Length cap, in tokens."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature; the trained log-probs are of the same tempered distribution."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling threshold."""
    zero_spread: Annotated[Literal["keep", "drop", "resample"], Added(before="keep")] = "keep"
    """Groups whose rewards are all equal: `keep` counts them in the means of the loss, `drop` leaves them out,
    `resample` draws other prompts in their place (dynamic sampling, DAPO, arXiv 2503.14476, section 3.2)."""
    max_resamples: Annotated[NonNegativeInt, Added(before=3)] = 3
    """With `resample`: extra rounds of prompts in a step at most; what is short then stays short."""

    @property
    def traits(self) -> EngineTraits:
        """What is known of the engine."""
        return ENGINES[self.engine]

    @property
    def has_own_devices(self) -> bool:
        """Whether one engine, on devices that train nothing, samples for all training processes."""
        return self.traits.has_own_devices(self)


class RewardFunctionSpec(Section):
    """One reward function of the composite."""

    name: str
    """A built-in reward (`accuracy`, `format`, `cosine`, …) or `package.module:function`."""
    weight: float = 1.0
    """Factor in the sum."""
    params: dict[str, Any] = {}
    """Parameters of the function."""


class RewardSpec(Section):
    """The composite reward: a weighted sum of functions."""

    functions: Annotated[tuple[RewardFunctionSpec, ...], Listed, Field(min_length=1)]
    """The functions and their weights."""
    normalization: Annotated[Literal["none", "group"], Added(before="none")] = "none"
    """`group` centres each function's values within their group and divides by their deviation before they are
    weighted and summed (GDPO, arXiv 2601.05242), so that a weight means the same whatever a function's range."""

    @model_validator(mode="after")
    def _distinct(self) -> RewardSpec:
        names = [f.name for f in self.functions]
        if len(set(names)) < len(names):
            raise ValueError(f"reward functions must be distinct, got {names}")
        return self


class AdvantageSpec(Section):
    """Group-relative advantages (DeepSeekMath, arXiv 2402.03300, section 4.1)."""

    scale: Literal["group", "batch", "none"] = "group"
    """Divide by the standard deviation of the group, of the batch, or not at all (Dr. GRPO)."""
    epsilon: PositiveFloat = 1e-4
    """Added to the standard deviation."""


FULL_LEARNING_RATE = 1e-6
"""Default rate for training all weights: trl's, and Open-RS's (arXiv 2503.16219)."""
LORA_LEARNING_RATE = 1e-5
"""Default rate for adapters: ten times that of full training, which is the ratio of the best rates over models and
tasks, reinforcement learning included (LoRA Without Regret, Schulman et al., 2025); at 5e-7 adapters do not learn
(trl issue 2872)."""


class OptimizerSpec(Section):
    """AdamW and its schedule."""

    name: Annotated[Literal["adamw", "adamw_8bit"], Added(before="adamw")] = "adamw"
    """`adamw_8bit` keeps the moments in 8 bits (arXiv 2110.02861); it needs a GPU and bitsandbytes."""
    learning_rate: PositiveFloat = FULL_LEARNING_RATE
    """Peak learning rate; with `model.lora` the default is 1e-5, since adapters want about ten times the rate."""
    schedule: Literal["constant", "wsd", "linear", "cosine"] = "constant"
    """Shape after warm-up; `wsd` is constant and falls linearly over the last `decay_fraction` of the steps. Only a
    constant schedule lets cells of different lengths share a run; others fork where their rates part."""
    schedule_steps: Annotated[PositiveInt | None, Added(before=None)] = None
    """Length of the schedule; null for `training.steps`. Where it is given, shorter cells are checkpoints of a
    schedule of so many steps, and share a run."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up from zero."""
    decay_fraction: Annotated[Fraction, Added(before=0.2)] = 0.2
    """Share of the schedule's steps over which `wsd` falls to its floor."""
    min_learning_rate_ratio: Fraction = 0.0
    """Floor of the falling schedules, as a share of the peak."""
    betas: Annotated[tuple[float, float], Listed] = (0.9, 0.999)
    """Decay rates of the moments."""
    epsilon: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""
    max_grad_norm: PositiveFloat | None = 1.0
    """Gradient norm above which the gradient is scaled down; null for never."""


Keep = Literal["resumable", "weights", "nothing"]
"""What stays of a finished run, the most first."""


class TrainingSpec(Section):
    """The loop around the update."""

    steps: PositiveInt = 50
    """Training steps; a steps axis varies this field."""
    inner_epochs: PositiveInt = 1
    """Passes over each step's completions (μ)."""
    minibatches: PositiveInt = 1
    """Optimiser updates per pass."""
    microbatch_tokens: Annotated[PositiveInt, Runtime] = 16384
    """Tokens in one forward and backward pass, padding included; changes memory and speed, not the gradient."""
    packing: Annotated[Literal["auto", "padded", "packed"], Runtime] = "auto"
    """`packed` lays sequences end to end without padding, and runs a prompt once for all its completions (under
    flash-attention once for each); `padded` fills up to the longest; `auto` packs where that is faster. Speed and
    memory differ, the gradient does so by rounding alone."""
    logprob_temperature: Annotated[PositiveFloat | None, Added(before=None)] = None
    """Temperature of the trained log-probs; null for the rollout's, at which the completions were sampled. Another
    value trains another distribution than was sampled from, as Open-RS did."""
    checkpoint_every: Annotated[PositiveInt | None, Runtime] = None
    """Steps between checkpoints besides those at the step levels, for resuming."""
    keep: Annotated[Keep, Runtime] = "resumable"
    """What stays on disk of a run that is done: `resumable`, the weights at each step level and the last optimiser
    state, so that a longer run goes on from there; `weights`, these alone; `nothing`, so that another benchmark, or a
    longer run, trains it anew."""
    gradient_checkpointing: Annotated[bool, Runtime] = False
    """Recompute activations in the backward pass."""


class Recipe(Section):
    """Everything that decides one training trajectory, but its seed."""

    model: ModelSpec
    """The model."""
    data: DataSpec
    """Training questions."""
    reward: RewardSpec
    """Rewards."""
    prompt: PromptSpec = PromptSpec()
    """From question to prompt, in training and, unless it says otherwise, in evaluation."""
    rollout: RolloutSpec = RolloutSpec()
    """Sampling."""
    advantage: AdvantageSpec = AdvantageSpec()
    """Advantages."""
    objective: ObjectiveSpec = ObjectiveSpec()
    """Loss."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """Optimiser."""
    training: TrainingSpec = TrainingSpec()
    """Loop."""
    stability: StabilitySpec = StabilitySpec()
    """Detectors and what they do."""

    @property
    def logprob_temperature(self) -> float:
        """Temperature at which log-probs are trained: the rollout's, unless the recipe says otherwise."""
        return self.training.logprob_temperature or self.rollout.temperature

    @model_validator(mode="before")
    @classmethod
    def _short_model(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("model"), str):
            return {**data, "model": {"name": data["model"]}}
        return data

    @model_validator(mode="before")
    @classmethod
    def _lora_rate(cls, data: Any) -> Any:
        """Adapters get a default rate of their own, written into the recipe like any other default."""
        if not isinstance(data, dict) or not _has_lora(data.get("model")):
            return data
        optimizer = data.get("optimizer", {})
        if isinstance(optimizer, OptimizerSpec) and "learning_rate" not in optimizer.model_fields_set:
            return {**data, "optimizer": optimizer.model_copy(update={"learning_rate": LORA_LEARNING_RATE})}
        if isinstance(optimizer, dict) and "learning_rate" not in optimizer:
            return {**data, "optimizer": {**optimizer, "learning_rate": LORA_LEARNING_RATE}}
        return data


def _has_lora(model: Any) -> bool:
    lora = (
        model.lora if isinstance(model, ModelSpec) else model.get("lora") if isinstance(model, dict) else None
    )
    return lora is not None
