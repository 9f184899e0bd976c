"""A finding: what will happen that its author does not expect, where it stands, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

Severity = Literal["error", "warning", "info"]

ORDER: tuple[Severity, ...] = ("error", "warning", "info")

RULES = {
    "unknown-key": "a key that nobody reads",
    "unread-key": "a key that nothing reads under these settings",
    "duplicate-key": "a key that stands twice, of which the last counts",
    "setting-type": "a value that trl takes for something else than its author",
    "setting-value": "a value that trl does not know",
    "unexpanded-variable": "a `${VARIABLE}` that nothing expands",
    "learning-rate": "a rate of full training on adapters, or one of adapters on all weights",
    "warmup-checkpoint": "a checkpoint from within warm-up, or at its very end",
    "unfinished-schedule": "a checkpoint of a schedule that has not come to its end",
    "inert-clipping": "clipping where the importance ratio is always 1",
    "inert-kl": "KL settings with no KL term",
    "same-run": "cells that resolve to the same run, or differ in what has no effect",
    "logprob-temperature": "log-probs of another distribution than was sampled from",
    "top-p": "log-probs of tokens that nucleus sampling could not draw",
    "group-of-one": "groups without a spread, hence without an advantage",
    "batch-shape": "a batch that does not come out in whole groups",
    "serial-generation": "generation in small calls while the trainers wait",
    "cap-context": "prompt and completion beyond the model's context",
    "cap-short": "a length cap below what the model writes",
    "evaluation-cap": "evaluation that cuts off what training allows",
    "reward-inverted": "a reward that runs against its stated direction",
    "reward-not-monotone": "a reward that rises and falls over the range of lengths",
    "reward-characters": "a length reward that counts characters",
    "reward-prefers-wrong": "a wrong answer that earns as much as a right one",
    "reward-swapped": "an answer check with answer and reference in each other's place",
    "reward-unparsable": "reward for a question whose reference cannot be parsed",
    "reward-unknown": "a reward of the author's own, which is not judged",
    "reward-failing": "a reward that fails on an ordinary completion",
    "reward-columns": "a reward that looks at the data's columns, and is not judged without them",
    "chat-template": "a chat template that is not there, or does not render the prompt as it was meant",
    "system-moved": "a system message inside the user's turn",
    "prompt-date": "a prompt that holds the date of the day",
    "opened-thought": "a format reward under a prompt that opens or closes the thought itself",
    "gold-unparsable": "reference answers that do not parse",
    "gold-solution": "reference answers that are whole solutions",
    "train-test-overlap": "benchmark questions among the training questions",
    "small-benchmark": "a benchmark too small for the effect asked about",
    "one-sample": "evaluation with one sample a question",
    "best-of-checkpoints": "selection of the best among checkpoints",
    "unknown-waiver": "a waiver of a rule that is not there, or that found nothing",
}
"""Every rule, and what it finds."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a setting stands.

    Attributes:
        key: its dotted name in the file.
        line: 1-based; None where the file leaves it at its default.
    """

    key: str
    line: int | None = None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding.

    Attributes:
        rule: one of `RULES`.
        severity: an error makes the result wrong, a warning makes it say less than it seems to, an info explains.
        file: the file.
        place: the key, and its line.
        effect: what will happen.
        instead: what to write instead.
        waived: the author's reason for it to stay; None where there is none.
    """

    rule: str
    severity: Severity
    file: str
    place: Place
    effect: str
    instead: str
    waived: str | None = None

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"`rule` must be one of RULES, got {self.rule!r}")

    def __str__(self) -> str:
        where = f"{self.file}:{self.place.line}" if self.place.line else self.file
        if self.waived is not None:
            return f"{where}: waived[{self.rule}] {self.place.key}: {self.effect}\n  because: {self.waived}"
        return f"{where}: {self.severity}[{self.rule}] {self.place.key}: {self.effect}\n  instead: {self.instead}"

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {
            "rule": self.rule,
            "severity": self.severity,
            "file": self.file,
            "line": self.place.line,
            "key": self.place.key,
            "effect": self.effect,
            "instead": self.instead,
            "waived": self.waived,
        }


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Distinct findings: errors first, waived ones last, by line within."""
    return sorted(
        dict.fromkeys(findings),
        key=lambda f: (f.waived is not None, ORDER.index(f.severity), f.place.line or 0, f.rule, f.effect),
    )


def with_waivers(
    findings: Iterable[Finding], waivers: Mapping[str, str], *, file: str, place: Place
) -> list[Finding]:
    """The findings with the author's reasons, and a finding for every waiver that waives nothing.

    Args:
        findings: what was found.
        waivers: reason by rule.
        file: the file.
        place: where the waivers stand.
    """
    found = [replace(f, waived=waivers[f.rule]) if f.rule in waivers else f for f in findings]
    idle = [rule for rule in waivers if rule not in {f.rule for f in found}]
    for rule in idle:
        known = rule in RULES
        found.append(
            Finding(
                rule="unknown-waiver",
                severity="info" if known else "warning",
                file=file,
                place=Place(key=f"{place.key}.{rule}", line=place.line),
                effect="nothing was found that it waives" if known else "there is no such rule",
                instead="remove it" if known else f"one of {', '.join(RULES)}",
            )
        )
    return ordered(found)


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Those that make the result wrong and are not waived."""
    return [f for f in findings if f.severity == "error" and f.waived is None]


def clean(findings: Iterable[Finding]) -> bool:
    """Whether every error and warning is waived."""
    return all(f.waived is not None or f.severity == "info" for f in findings)
