"""What a report says about how files of results were read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

_MOST = 4

Parts = tuple[tuple[str, tuple[str, ...]], ...]
"""Titles, each with its sentences."""


@dataclass
class ReadingNotes:
    """Notes on what was read, collected while files are read.

    Attributes:
        files: whose results each file holds.
        measured: by what was chosen, the benchmarks that it was chosen for.
        left_out: by reason, what is left out.
        beware: what a reader must know to trust a comparison.
    """

    files: list[str] = field(default_factory=list)
    measured: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    beware: list[str] = field(default_factory=list)

    def leave_out(self, what: str, reason: str) -> None:
        """Notes that `what` is left out."""
        listed = self.left_out.setdefault(reason, [])
        if what not in listed:
            listed.append(what)

    def parts(self) -> Parts:
        """Title and sentences of every part that has any."""
        listed = [
            ("Files read", self.files),
            ("Metric of each benchmark", [f"{few(names)}: {how}" for how, names in self.measured.items()]),
            ("Left out", [f"{few(what)}: {reason}" for reason, what in self.left_out.items()]),
            ("Beware", self.beware),
        ]
        return tuple((title, tuple(sentences)) for title, sentences in listed if sentences)


def few(names: Iterable[str]) -> str:
    """The names; of many the first ones, and how many more there are."""
    listed = list(dict.fromkeys(names))
    more = len(listed) - _MOST
    return ", ".join(listed) if more <= 1 else f"{', '.join(listed[:_MOST])} and {more} more"
