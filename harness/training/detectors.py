"""Detectors of a run that goes wrong, and the figures that they look at."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.rewards.functions import script_of
from harness.spec.stability import Policy, StabilitySpec

_RARE = 0.01
"""A script with a smaller share of the questions' letters is not theirs."""
_ALWAYS = frozenset(
    {
        *("LATIN", "GREEK", "MATHEMATICAL", "DOUBLE-STRUCK", "SCRIPT", "BLACK-LETTER"),
        *("SUPERSCRIPT", "SUBSCRIPT", "MODIFIER", "MICRO", "OHM", "PLANCK"),
    }
)
"""Latin, and what formulas are written in."""


@dataclass(frozen=True)
class Figures:
    """What the detectors see of one step.

    Attributes:
        non_finite: whether the loss, its gradient or a sampled log-prob was NaN or infinite.
        mean_tokens: mean completion length.
        sampled_entropy: mean of −log p over sampled tokens, in nats; None where it is not finite.
        loop_share: share of n-grams that their completion held before.
        foreign_script_share: share of letters in scripts that the questions do without.
        kl: mean KL estimate in nats a token; None where there is none.
    """

    non_finite: bool
    mean_tokens: float
    sampled_entropy: float | None
    loop_share: float
    foreign_script_share: float
    kl: float | None


@dataclass(frozen=True)
class Alarm:
    """A detector that acts.

    Attributes:
        detector: its name in the recipe's `stability`.
        figure: what it saw; None for a number that is not finite.
        threshold: what it should not have crossed; None where any such number is too many.
        policy: what follows.
        message: the same in words.
    """

    detector: str
    figure: float | None
    threshold: float | None
    policy: Policy
    message: str

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


class Detectors:
    """Looks at every step of a run.

    Args:
        spec: thresholds and policies.
    """

    def __init__(self, spec: StabilitySpec) -> None:
        self._spec = spec
        self._streaks: dict[str, int] = {}
        self._lengths: list[float] = []

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold for the detectors to go on as if nothing had been."""
        return {
            "streaks": {k: v for k, v in self._streaks.items() if v},
            "first_lengths": list(self._lengths),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state()`; from nothing if it is empty."""
        self._streaks = dict(state.get("streaks", {}))
        self._lengths = list(state.get("first_lengths", []))

    def onset(self, alarm: Alarm) -> int:
        """Steps that the trouble behind an alarm has lasted, this one included."""
        return max(1, self._streaks.get(alarm.detector, 1))

    def look(self, figures: Figures) -> list[Alarm]:
        """Alarms of this step: at the `patience`-th step of trouble in a row, and not again until it has passed.

        Where the policy is not to go on, each further step is an alarm too.
        """
        alarms = []
        for name, figure, threshold, policy, words in self._troubles(figures):
            patience = 1 if name == "non_finite" else self._spec.patience
            streak = self._streaks[name]
            if streak == patience or (streak > patience and policy != "continue"):
                alarms.append(Alarm(name, figure, threshold, policy, words))
        return alarms

    def _troubles(self, f: Figures) -> Iterable[tuple[str, float | None, float | None, Policy, str]]:
        """What is beyond its threshold now; keeps the count of steps in a row."""
        s = self._spec
        if len(self._lengths) < s.reference_steps:
            self._lengths.append(f.mean_tokens)
            low, high = 0.0, math.inf
        else:
            first = sum(self._lengths) / len(self._lengths)
            low, high = s.length.collapse_ratio * first, s.length.explosion_ratio * first
        entropy = (s.entropy.minimum, s.entropy.maximum)
        bounds: tuple[tuple[str, float | None, float, float, Policy, str], ...] = (
            ("length", f.mean_tokens, low, high, s.length.policy, "tokens a completion"),
            ("entropy", f.sampled_entropy, *entropy, s.entropy.policy, "nats of entropy"),
            (
                "repetition",
                f.loop_share,
                0.0,
                s.repetition.maximum,
                s.repetition.policy,
                "of n-grams repeated",
            ),
            (
                "language",
                f.foreign_script_share,
                0.0,
                s.language.maximum,
                s.language.policy,
                "of letters foreign",
            ),
            ("kl", f.kl, -math.inf, s.kl.maximum, s.kl.policy, "nats of KL a token"),
        )
        words = "the loss, its gradient or a sampled log-prob is NaN or infinite"
        checks: list[tuple[str, bool, float | None, float | None, Policy, str]]
        checks = [("non_finite", f.non_finite, None, None, s.non_finite.policy, words)]
        checks += [_outside(*bound) for bound in bounds]
        for name, trouble, figure, threshold, policy, words in checks:
            self._streaks[name] = self._streaks.get(name, 0) + 1 if trouble else 0
            if trouble:
                yield name, figure, threshold, policy, words


def _outside(
    name: str, figure: float | None, low: float, high: float, policy: Policy, unit: str
) -> tuple[str, bool, float | None, float | None, Policy, str]:
    if figure is None or low <= figure <= high:
        return name, False, figure, None, policy, ""
    side, threshold = ("below", low) if figure < low else ("above", high)
    return name, True, figure, threshold, policy, f"{figure:.4g} {unit}, {side} {threshold:.4g}"


def loop_share(completions: Iterable[Sequence[int]], ngram_tokens: int) -> float:
    """Share of token n-grams that occurred earlier in the same completion, over all completions.

    0 where no completion is as long as an n-gram.
    """
    total = repeated = 0
    for tokens in completions:
        ngrams = [tuple(tokens[i : i + ngram_tokens]) for i in range(len(tokens) - ngram_tokens + 1)]
        total += len(ngrams)
        repeated += len(ngrams) - len(set(ngrams))
    return repeated / total if total else 0.0


def scripts_of(texts: Iterable[str]) -> frozenset[str]:
    """The scripts that hold at least 1 % of the texts' letters, with Latin and those of formulas."""
    counts = Counter(map(script_of, "".join(texts)))
    counts.pop("", None)
    total = sum(counts.values())
    return _ALWAYS | {script for script, count in counts.items() if count >= _RARE * total}


def foreign_share(texts: Iterable[str], scripts: frozenset[str]) -> float:
    """Share of letters in none of the scripts; 0 where there are no letters."""
    counts = Counter(map(script_of, "".join(texts)))
    counts.pop("", None)
    total = sum(counts.values())
    return sum(count for script, count in counts.items() if script not in scripts) / total if total else 0.0
