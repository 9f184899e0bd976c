"""Rules on schedule, objective, batch and lengths: what follows from the settings alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

from harness.spec.lint.finding import Finding
from harness.spec.lint.run_settings import RunSettings
from harness.spec.recipe import FULL_LEARNING_RATE, LORA_LEARNING_RATE, OptimizerSpec
from harness.spec.schedule import learning_rate
from kernels.grpo_loss.objective import VARIANTS

K = TypeVar("K", bound=Hashable)

TYPICAL_TOKENS = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": (
        4000,
        "Open-RS (arXiv 2503.16219, experiment 1) measured 4,000 at the start, cut by a cap of 4,096",
    ),
}
"""Mean completion length of a model before training, and where that comes from."""

LORA_RATE_LOW = 3e-6
"""Up to this rate adapters are taken to hardly train: a third of the default for them."""
FULL_RATE_HIGH = 1e-4
"""From this rate on, training all weights of a large model is taken for a mistake."""
LARGE_MODEL = 100_000_000
"""Parameters; smaller ones are trained at such rates."""
CAP_MARGIN = 1.5
"""A cap below so many mean lengths cuts a large share of completions: lengths of reasoning are skewed."""

CLIPPED = frozenset(name for name, variant in VARIANTS.items() if variant.surrogate in ("clip", "cispo"))
"""Losses whose only use of the importance ratio, besides its gradient, is to clip it."""


def findings(runs: Sequence[RunSettings]) -> list[Finding]:
    """What the rules find that need the runs alone; runs that differ in what a rule ignores are reported once."""
    return [found for rule in RUN_RULES for found in rule(runs)]


def schedule(runs: Sequence[RunSettings]) -> Iterator[Finding]:
    """Checkpoints in warm-up and on an unfinished schedule."""
    for (place, horizon, optimizer), group in _grouped(
        runs, lambda s: (s.place("checkpoints"), s.horizon, s.optimizer)
    ):
        steps = sorted({step for s in group for step in s.checkpoints})
        first, warmup = group[0], optimizer.warmup_steps
        warming = [step for step in steps if step <= warmup]
        if warming:
            when = f"ends with step {warmup}" if warming[-1] == warmup else f"lasts until step {warmup}"
            yield first.finding(
                "warmup-checkpoint",
                "warning",
                place,
                f"the checkpoint of step {_listed(warming)} is an end-of-warm-up checkpoint: warm-up {when}, so it "
                f"has seen {_mean_share(optimizer, warming[-1], horizon):.0%} of what {warming[-1]} steps at the "
                "peak rate would sum to",
                f"look at checkpoints well after step {warmup}, or shorten {first.name('warmup')}",
            )
        early = [step for step in steps if step < horizon]
        if early and first.schedule_known and optimizer.schedule != "constant":
            yield first.finding(
                "unfinished-schedule",
                "warning",
                place,
                f"the checkpoint of step {_listed(early)} is one of a {optimizer.schedule} schedule of {horizon} "
                f"steps, not the end of a shorter run: at step {early[-1]} the rate is still "
                f"{_share(optimizer, early[-1], horizon):.0%} of its peak",
                "train under a constant schedule, give each length a schedule of its own, or call the result a "
                f"checkpoint of a {horizon}-step schedule",
            )


def _share(optimizer: OptimizerSpec, step: int, steps: int) -> float:
    """The rate at a step, as a share of the peak."""
    return learning_rate(optimizer, step=step, steps=steps) / optimizer.learning_rate


def _mean_share(optimizer: OptimizerSpec, step: int, steps: int) -> float:
    """The mean rate of the steps up to one in warm-up, as a share of the peak: the rate rises linearly there."""
    return (_share(optimizer, 1, steps) + _share(optimizer, step, steps)) / 2


def rate(runs: Sequence[RunSettings], parameters: Mapping[str, int] | None = None) -> Iterator[Finding]:
    """A rate of full training on adapters, and one of adapters on all weights.

    Adapters learn best at about ten times the rate of full training (LoRA Without Regret, Schulman et al., 2025); at
    5e-7 they do not learn at all (trl issue 2872).

    Args:
        runs: the runs.
        parameters: of a model by name, where they are known.
    """
    for (place, model, lora, peak), group in _grouped(
        runs, lambda s: (s.place("rate"), s.model, s.lora, s.optimizer.learning_rate)
    ):
        first = group[0]
        size = (parameters or {}).get(model) or parameters_in_name(model)
        if lora and peak <= LORA_RATE_LOW:
            yield first.finding(
                "learning-rate",
                "warning",
                place,
                f"{peak:g} is a rate for training all weights: adapters hardly move at it, and want about ten times "
                "as much (LoRA Without Regret, 2025; trl issue 2872)",
                f"{LORA_LEARNING_RATE:g} or more",
            )
        if not lora and peak >= FULL_RATE_HIGH and size is not None and size > LARGE_MODEL:
            yield first.finding(
                "learning-rate",
                "warning",
                place,
                f"{peak:g} is a rate for adapters: training all {size / 1e9:.2g} billion weights with it usually "
                "destroys the model within a few steps",
                f"{FULL_LEARNING_RATE:g} to {10 * FULL_LEARNING_RATE:g}, or train adapters",
            )


def parameters_in_name(model: str) -> int | None:
    """Parameters by the model's name, such as 1.5 billion for `Qwen2.5-1.5B-Instruct`; None if it does not say."""
    found = re.findall(r"(?<![\w.])(\d{1,4}(?:\.\d{1,3})?)([bBmM])(?![A-Za-z0-9])", model.rpartition("/")[2])
    if not found:
        return None
    number, unit = found[0]
    return round(float(number) * (1e9 if unit in "bB" else 1e6))


def clipping(runs: Sequence[RunSettings]) -> Iterator[Finding]:
    """Clipping where every batch is used for one update."""
    for place, group in _grouped(runs, lambda s: s.place("clip")):
        first = group[0]
        inert = [s for s in group if s.updates == 1 and s.loss in CLIPPED]
        if inert and "clip" in first.stated:
            yield first.finding(
                "inert-clipping",
                "info",
                place,
                "each batch is used for one update, so the importance ratio is 1 in every token and clipping never "
                "takes effect",
                f"leave the clipping range out, or set {first.name('inner')} to 2 or more",
            )


def kl(runs: Sequence[RunSettings]) -> Iterator[Finding]:
    """KL settings without a KL term."""
    for place, group in _grouped(runs, lambda s: s.place("kl")):
        first = group[0]
        if "kl" in first.stated and all(s.beta == 0 for s in group):
            yield first.finding(
                "inert-kl",
                "warning",
                place,
                f"{first.name('beta')} is 0, so there is no KL term: this setting does nothing",
                f"set {first.name('beta')} above 0, or remove it",
            )


def temperature(runs: Sequence[RunSettings]) -> Iterator[Finding]:
    """Log-probs of another distribution than was sampled from."""
    for (place, sampled, trained), group in _grouped(
        runs, lambda s: (s.place("logprob_temperature"), s.temperature, s.logprob_temperature)
    ):
        if sampled != trained:
            yield group[0].finding(
                "logprob-temperature",
                "error",
                place,
                f"completions are sampled at temperature {sampled:g}, but their log-probs are taken at {trained:g}: "
                "the gradient is that of another distribution than was sampled from",
                group[0].names.get("fix_temperature", f"divide the logits by the temperature, {sampled:g}"),
            )
    for (place, share), group in _grouped(runs, lambda s: (s.place("top_p"), s.top_p)):
        if share < 1:
            yield group[0].finding(
                "top-p",
                "warning",
                place,
                f"nucleus sampling at {share:g} draws from a truncated distribution, but log-probs are those of the "
                "whole one",
                "1.0 in training; keep nucleus sampling for evaluation",
            )


def groups(runs: Sequence[RunSettings]) -> Iterator[Finding]:
    """Groups that have no advantage."""
    for (place, size), group in _grouped(runs, lambda s: (s.place("group"), s.group)):
        if size < 2:
            yield group[0].finding(
                "group-of-one",
                "error",
                place,
                f"a group of {size} has no spread: every advantage is zero, or undefined, and nothing is learnt",
                "2 or more completions per prompt; 6 to 16 are usual",
            )


def lengths(runs: Sequence[RunSettings], contexts: Mapping[str, int] | None = None) -> Iterator[Finding]:
    """Caps below what a model writes, and beyond its context where that is known."""
    for (place, model, cap, prompt), group in _grouped(
        runs, lambda s: (s.place("cap"), s.model, s.cap, s.prompt_cap)
    ):
        first = group[0]
        context = (contexts or {}).get(model)
        if context is not None and prompt + cap > context:
            yield first.finding(
                "cap-context",
                "error",
                place,
                f"a completion of {cap} tokens after a prompt of up to {prompt} goes beyond the {context} of {model}",
                f"at most {max(1, context - prompt)}",
            )
        typical, source = TYPICAL_TOKENS.get(model, (0, ""))
        if cap < CAP_MARGIN * typical:
            yield first.finding(
                "cap-short",
                "warning",
                place,
                f"{model} writes about {typical} tokens ({source}); a cap of {cap} cuts many completions off, which "
                "then earn nothing whatever they would have said",
                f"a cap of {math.ceil(CAP_MARGIN * typical)} or more, `mask_truncated`, or a soft overlong penalty",
            )


RUN_RULES: tuple[Callable[[Sequence[RunSettings]], Iterator[Finding]], ...] = (
    schedule,
    clipping,
    kl,
    temperature,
    groups,
    lengths,
)


def _grouped(
    runs: Sequence[RunSettings], key: Callable[[RunSettings], K]
) -> list[tuple[K, list[RunSettings]]]:
    found: dict[K, list[RunSettings]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    return list(found.items())


def _listed(steps: Sequence[int]) -> str:
    if len(steps) <= 4:
        return ", ".join(map(str, steps))
    return f"{steps[0]}, {steps[1]}, … {steps[-1]} ({len(steps)} of them)"
