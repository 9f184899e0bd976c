"""Detectors of training that goes wrong: their thresholds, and what follows."""

from __future__ import annotations

from typing import Literal

from harness.spec.section import (
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

    policy: Policy = "stop"
    """What follows."""


class LengthSpec(Section):
    """Completions that become very short or very long, against the mean length of the run's first steps."""

    policy: Policy = "continue"
    """What follows."""
    collapse_ratio: NonNegativeFloat = 0.2
    """Trouble below this multiple of the first steps' mean length."""
    explosion_ratio: PositiveFloat = 4.0
    """Trouble above this multiple of the first steps' mean length."""


class EntropySpec(Section):
    """Sampling that has become deterministic, or noise."""

    policy: Policy = "continue"
    """What follows."""
    minimum: NonNegativeFloat = 0.002
    """Trouble below this mean of −log p over sampled tokens, in nats."""
    maximum: PositiveFloat = 8.0
    """Trouble above this mean, in nats: near the logarithm of the vocabulary, sampling is noise."""


class RepetitionSpec(Section):
    """Text that goes round in circles."""

    policy: Policy = "continue"
    """What follows."""
    ngram_tokens: PositiveInt = 16
    """Length of the token n-grams that are looked for; shorter ones repeat in sound reasoning too."""
    maximum: Fraction = 0.3
    """Trouble above this share of n-grams that their own completion held before, over the step's completions."""


class LanguageSpec(Section):
    """Text in a script of which the training questions hold next to nothing."""

    policy: Policy = "continue"
    """What follows."""
    maximum: Fraction = 0.05
    """Trouble above this share of letters in other scripts than the questions', Latin and Greek."""


class KlSpec(Section):
    """A policy far from its reference; without one, far from the policy that sampled."""

    policy: Policy = "continue"
    """What follows."""
    maximum: PositiveFloat = 2.0
    """Trouble above this mean KL estimate, in nats a token."""


class StabilitySpec(Section):
    """Detectors of a run that goes wrong. Each writes an event, and follows its policy: `continue`, `stop` the run
    with the outcome `diverged`, or `rollback` to the last checkpoint and go on with other questions and draws."""

    patience: PositiveInt = 3
    """Consecutive steps in trouble before a detector acts; a non-finite number acts at once."""
    reference_steps: PositiveInt = 5
    """First steps of the run, whose mean length is what `length` compares with."""
    max_rollbacks: NonNegativeInt = 2
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
