"""Looks at a study: when it was judged, and on how much."""

from __future__ import annotations

from dataclasses import dataclass

from harness.store.records.form import Count, Number, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class LookRecord(Record):
    """A report on a finished matrix that could give verdicts.

    Attributes:
        at: when, ISO 8601.
        seeds: of the matrix.
        answered: questions answered by trained checkpoints, each as often as checkpoints were asked it: the
            information at this look.
        level: error rate at which it was judged.
    """

    at: str
    seeds: Count
    answered: Count
    level: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class LooksRecord(Record):
    """`looks.json`: the looks at a study, in their order."""

    looks: tuple[LookRecord, ...]
