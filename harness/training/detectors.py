"""Stability detectors: per-step figures, thresholds on them, and the alarms they raise."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.rewards.builtin.text import script_of
from harness.spec.stability import Policy, StabilitySpec
from harness.store.records import Alarm

_RARE = 0.01
"""A script with a smaller share of the questions' letters does not count as one of theirs."""
_ALWAYS = frozenset(
    {
        *("LATIN", "GREEK", "MATHEMATICAL", "DOUBLE-STRUCK", "SCRIPT", "BLACK-LETTER"),
        *("SUPERSCRIPT", "SUBSCRIPT", "MODIFIER", "MICRO", "OHM", "PLANCK"),
    }
)
"""Scripts that are never foreign: Latin, and those of formulas."""


@dataclass(frozen=True)
class Figures:
    """The figures of one step that detectors compare with their thresholds.

    Attributes:
        non_finite: whether the loss, its gradient or a sampled log-prob was NaN or infinite.
        mean_tokens: mean completion length.
        sampled_entropy: mean of −log p over sampled tokens, in nats; None where it is not finite.
        loop_share: share of token n-grams that occurred earlier in the same completion.
        foreign_script_share: share of letters in scripts that do not occur in the training questions.
        kl: mean KL estimate in nats per token; None where it is not finite.
    """

    non_finite: bool
    mean_tokens: float
    sampled_entropy: float | None
    loop_share: float
    foreign_script_share: float
    kl: float | None


class Detectors:
    """The detectors of one run, which remember the first lengths and, for each detector, consecutive bad steps.

    Args:
        spec: thresholds and policies.
    """

    def __init__(self, spec: StabilitySpec) -> None:
        self._spec = spec
        self._streaks: dict[str, int] = {}
        self._lengths: list[float] = []

    def state(self) -> dict[str, Any]:
        """The detectors' state for a checkpoint, as JSON."""
        return {
            "streaks": {k: v for k, v in self._streaks.items() if v},
            "first_lengths": list(self._lengths),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned; an empty mapping resets the detectors."""
        self._streaks = dict(state.get("streaks", {}))
        self._lengths = list(state.get("first_lengths", []))

    def bad_steps(self, alarm: Alarm) -> int:
        """Consecutive steps that the alarm's detector has found bad, the last one included."""
        return max(1, self._streaks.get(alarm.detector, 1))

    def check(self, figures: Figures) -> list[Alarm]:
        """Alarms of one step, to be called once for each step in order.

        A detector raises an alarm at its `patience`-th consecutive bad step (`non_finite` at the first). Under the
        policies `rollback` and `stop` it does so at every further bad step too.
        """
        alarms = []
        for detector, alarm in self._violations(figures).items():
            streak = self._streaks[detector] = self._streaks.get(detector, 0) + 1 if alarm else 0
            patience = 1 if detector == "non_finite" else self._spec.patience
            if alarm and (streak == patience or (streak > patience and alarm.policy != "continue")):
                alarms.append(alarm)
        return alarms

    def _violations(self, f: Figures) -> dict[str, Alarm | None]:
        """The alarm that each detector would raise at once, without patience."""
        s = self._spec
        low, high = self._length_bounds(f.mean_tokens)
        words = "the loss, its gradient or a sampled log-prob is NaN or infinite"
        found = {
            "non_finite": Alarm("non_finite", None, None, s.non_finite.policy, words)
            if f.non_finite
            else None
        }
        for detector, figure, lowest, highest, policy, unit in (
            ("length", f.mean_tokens, low, high, s.length.policy, "tokens a completion"),
            (
                "entropy",
                f.sampled_entropy,
                s.entropy.minimum,
                s.entropy.maximum,
                s.entropy.policy,
                "nats of entropy",
            ),
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
        ):
            found[detector] = _violation(detector, figure, lowest, highest, policy, unit)
        return found

    def _length_bounds(self, mean_tokens: float) -> tuple[float, float]:
        """Bounds of the mean length, relative to the first `reference_steps` steps; none during those."""
        spec = self._spec
        if len(self._lengths) < spec.reference_steps:
            self._lengths.append(mean_tokens)
            return 0.0, math.inf
        first = sum(self._lengths) / len(self._lengths)
        return spec.length.collapse_ratio * first, spec.length.explosion_ratio * first


def _violation(
    detector: str, figure: float | None, low: float, high: float, policy: Policy, unit: str
) -> Alarm | None:
    """The alarm for a figure outside `[low, high]`."""
    if figure is None or low <= figure <= high:
        return None
    side, threshold = ("below", low) if figure < low else ("above", high)
    return Alarm(detector, figure, threshold, policy, f"{figure:.4g} {unit}, {side} {threshold:.4g}")


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
