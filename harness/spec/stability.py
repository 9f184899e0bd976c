"""Detectors of training that goes wrong: their thresholds, and what follows."""

from __future__ import annotations

from typing import Annotated, Literal

from harness.spec.section import (
    Added,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)

Policy = Literal["continue", "stop", "rollback"]


class NonFiniteSpec(Section):
    """A loss or gradient that is NaN or infinite. The optimiser never sees it."""

    policy: Annotated[Policy, Added(before="stop")] = "stop"
    """What follows."""


class LengthSpec(Section):
    """Completions that become very short or very long, against the mean length of the run's first steps."""

    policy: Annotated[Policy, Added(before="continue")] = "continue"
    """What follows."""
    collapse_ratio: Annotated[NonNegativeFloat, Added(before=0.2)] = 0.2
    """Trouble below this multiple of the first steps' mean length."""
    explosion_ratio: Annotated[PositiveFloat, Added(before=4.0)] = 4.0
    """Trouble above this multiple of the first steps' mean length."""


class EntropySpec(Section):
    """Sampling that has become deterministic, or noise."""

    policy: Annotated[Policy, Added(before="continue")] = "continue"
    """What follows."""
    minimum: Annotated[NonNegativeFloat, Added(before=0.002)] = 0.002
    """Trouble below this mean of −log p over sampled tokens, in nats."""
    maximum: Annotated[PositiveFloat, Added(before=8.0)] = 8.0
    """Trouble above this mean, in nats: near the logarithm of the vocabulary, sampling is noise."""


class RepetitionSpec(Section):
    """Text that goes round in circles."""

    policy: Annotated[Policy, Added(before="continue")] = "continue"
    """What follows."""
    ngram_tokens: Annotated[PositiveInt, Added(before=16)] = 16
    """Length of the token n-grams that are looked for; shorter ones repeat in sound reasoning too."""
    maximum: Annotated[Fraction, Added(before=0.3)] = 0.3
    """Trouble above this share of n-grams that their own completion held before, over the step's completions."""


class LanguageSpec(Section):
    """Text in a script of which the training questions hold next to nothing."""

    policy: Annotated[Policy, Added(before="continue")] = "continue"
    """What follows."""
    maximum: Annotated[Fraction, Added(before=0.05)] = 0.05
    """Trouble above this share of letters in other scripts than the questions', Latin and Greek."""


class KlSpec(Section):
    """A policy far from its reference; without one, far from the policy that sampled."""

    policy: Annotated[Policy, Added(before="continue")] = "continue"
    """What follows."""
    maximum: Annotated[PositiveFloat, Added(before=2.0)] = 2.0
    """Trouble above this mean KL estimate, in nats a token."""


class StabilitySpec(Section):
    """Detectors of a run that goes wrong. Each writes an event, and follows its policy: `continue`, `stop` the run
    with the outcome `diverged`, or `rollback` to the last checkpoint and go on with other questions and draws."""

    patience: Annotated[PositiveInt, Added(before=3)] = 3
    """Consecutive steps in trouble before a detector acts; a non-finite number acts at once."""
    reference_steps: Annotated[PositiveInt, Added(before=5)] = 5
    """First steps of the run, whose mean length is what `length` compares with."""
    max_rollbacks: Annotated[NonNegativeInt, Added(before=2)] = 2
    """Rollbacks of a run at most; the next one stops it."""
    non_finite: NonFiniteSpec = NonFiniteSpec()
    """NaN or infinite loss or gradient."""
    length: LengthSpec = LengthSpec()
    """Length collapse and explosion."""
    entropy: EntropySpec = EntropySpec()
    """Entropy collapse and explosion."""
    repetition: RepetitionSpec = RepetitionSpec()
    """Repeated text."""
    language: LanguageSpec = LanguageSpec()
    """Drift into another script."""
    kl: KlSpec = KlSpec()
    """KL blow-up."""
