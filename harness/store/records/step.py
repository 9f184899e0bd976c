"""A training step on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.spec.stability import Policy
from harness.store.records.form import Count, GiB, Number, Record, Seconds, Share, Tokens, Usd, absent


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardFunctionFigures(Record):
    """One reward function over the completions of a step.

    Attributes:
        mean: of its values.
        std: population standard deviation.
        zero_spread_share: share of groups whose completions all have the same value.
    """

    mean: Number
    std: Number
    zero_spread_share: Share | None = absent()


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardFigures(Record):
    """The total reward of a step's completions; see `RewardFunctionFigures`.

    Attributes:
        mean: of the total.
        std: population standard deviation.
        zero_spread_share: share of groups whose completions all have the same total, and so no gradient.
        functions: each reward function, by name.
    """

    mean: Number
    std: Number
    zero_spread_share: Share
    functions: Mapping[str, RewardFunctionFigures]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionFigures(Record):
    """Lengths and texts of a step's completions.

    Attributes:
        mean_tokens: mean length, in tokens; `p10` to `p90` are quantiles of it, `median_tokens` the 50 % one.
        max_tokens: the longest.
        truncated_share: share that was cut off at the length cap.
        sampled_entropy: mean of −log p over sampled tokens, in nats; None where it is not finite.
        loop_share: share of token n-grams that occurred earlier in the same completion.
        foreign_script_share: share of letters in scripts that the training questions do not have.
    """

    mean_tokens: Number
    p10: Number | None = absent()
    p25: Number | None = absent()
    median_tokens: Number | None = absent()
    p75: Number | None = absent()
    p90: Number | None = absent()
    max_tokens: Tokens
    truncated_share: Share
    sampled_entropy: Number | None = None
    loop_share: Share | None = absent()
    foreign_script_share: Share | None = absent()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTokens(Record):
    """Tokens of a step.

    Attributes:
        prompt: of the prompts, once per completion.
        completion: that were sampled.
        trained: prompt and completion tokens that went through forward and backward.
        skipped_samples: completions that did not, since they have no gradient.
    """

    prompt: Tokens
    completion: Tokens
    trained: Tokens
    skipped_samples: Count | None = absent()


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawingFigures(Record):
    """What a step sampled and did not train on, where `rollout.zero_spread` is not `keep`.

    Attributes:
        rounds: of sampling.
        groups_drawn: groups sampled.
        groups_kept: groups trained on.
        left_out_tokens: completion tokens of the others.
    """

    rounds: Count
    groups_drawn: Count
    groups_kept: Count
    left_out_tokens: Tokens


@dataclass(frozen=True, slots=True)
class Alarm(Record):
    """A stability detector's alarm.

    Attributes:
        detector: its name in the recipe's `stability`.
        figure: the figure that crossed the threshold; None for `non_finite`, which has no figure.
        threshold: the threshold that was crossed; None for `non_finite`.
        policy: what happens next: `continue`, `rollback` or `stop`.
        message: the alarm in words.
    """

    detector: str
    figure: Number | None
    threshold: Number | None
    policy: Policy
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTiming(Record):
    """Time of a step.

    Attributes:
        total_seconds: of the whole step, its checkpoint included.
        seconds: by phase; they add up to the total.
        tokens: that a phase processed, by phase.
        tokens_per_second: prompt and completion tokens over the step without its checkpoint.
        tokens_per_second_per_device: the same for each billed device.
        rollout_tokens_per_second: completion tokens over the rollout phase; None on ranks without an engine.
        train_tokens_per_second: trained tokens over the phases of the update; None where nothing was trained on.
        flops: of the model, by the FLOPs model that the event `flops_model` states.
        mfu: `flops` over what the devices could do at their peak; None where the peak is unknown.
        resample_seconds: of the rounds of sampling after the first.
    """

    total_seconds: Seconds
    seconds: Mapping[str, Seconds]
    tokens: Mapping[str, Tokens] | None = absent()
    tokens_per_second: Number
    tokens_per_second_per_device: Number | None = absent()
    rollout_tokens_per_second: Number | None
    train_tokens_per_second: Number | None
    flops: Number
    mfu: Number | None
    resample_seconds: Seconds | None = absent()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPeaks(Record):
    """Peak memory of a phase; None where there is no GPU.

    Attributes:
        resident_gib: the process in main memory.
        allocated_gib: tensors on the GPU.
        reserved_gib: held by torch on the GPU.
        device_gib: all that is in use on the GPU.
    """

    resident_gib: GiB | None = None
    allocated_gib: GiB | None = None
    reserved_gib: GiB | None = None
    device_gib: GiB | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy(Record):
    """Energy of a step, in joules; None where it cannot be read."""

    gpu_joules: Number | None
    cpu_joules: Number | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Load(Record):
    """What the machine's processors did during a step: shares of all their time.

    Attributes:
        own_share: spent on the run and its child processes.
        competing_share: spent on other programs or taken away by the hypervisor.
        steal_share: the part that the hypervisor took away.
        run_queue: threads that ran or waited for a processor when the step ended.
    """

    own_share: Share
    competing_share: Share
    steal_share: Share
    run_queue: Count | None


@dataclass(frozen=True, kw_only=True)
class _StepOrigin(Record):
    """Whose step a record is.

    Attributes:
        forked_from: the run that made the step, where this one only took it over.
        run_id: the run.
        attempt: the attempt that made the step or took it over.
    """

    forked_from: str | None = absent()
    run_id: str
    attempt: Count


@dataclass(frozen=True, kw_only=True)
class StepFigures(Record):
    """What the trainer tells of one training step.

    Attributes:
        step: number of the step, from 1.
        reward: of the completions.
        accuracy: share of right completions.
        completion: lengths and texts.
        objective: the loss kernel's metrics, `loss`, `grad_norm` and `learning_rate`; None where not finite.
        tokens: sampled and trained.
        samples_seen: completions sampled since step 0.
        epoch: groups sampled since step 0 over the number of training questions.
        drawing: what was sampled and left out.
        rollbacks: how often the run had been rolled back.
        events: alarms of the stability detectors.
        timing: seconds, rates and FLOPs.
        memory: peaks by phase.
        energy: joules.
        load: what else the machine did; None where it cannot be told.
    """

    step: Count
    reward: RewardFigures
    accuracy: Share
    completion: CompletionFigures
    objective: Mapping[str, Number | None]
    tokens: StepTokens
    samples_seen: Count
    epoch: Number
    drawing: DrawingFigures | None = absent()
    rollbacks: Count = absent(0)
    events: tuple[Alarm, ...] = absent(())
    timing: StepTiming
    memory: Mapping[str, MemoryPeaks]
    energy: Energy | None = absent()
    load: Load | None = absent()


@dataclass(frozen=True, kw_only=True)
class StepRecord(StepFigures, _StepOrigin):
    """A line of `steps.jsonl`: one training step; see `StepFigures` and `_StepOrigin`.

    Attributes:
        cost_usd: of the run so far, earlier attempts and steps taken over included.
        time: when the record was written, ISO 8601.
    """

    cost_usd: Usd
    time: str
