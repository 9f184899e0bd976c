"""What flows through the funnel: items, and what a stage decides about each."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.data.problem import Problem
from harness.store.atomic import write_atomic
from harness.store.errors import StoreError
from harness.store.records.form import JsonObject


@dataclass(frozen=True)
class Item:
    """A candidate.

    Attributes:
        id: stable name within its source.
        question: its text.
        answer: reference answer.
        source: short name of the source.
        difficulty: the source's own label; empty where there is none.
        pass_rate: share of a model's samples that were right; None before it was measured.
        band: name of the range that the pass rate lies in; empty where there is none.
    """

    id: str
    question: str
    answer: str
    source: str
    difficulty: str = ""
    pass_rate: float | None = None
    band: str = ""

    @classmethod
    def of(cls, problem: Problem) -> Item:
        """The item of a problem."""
        return cls(problem.id, problem.question, problem.answer, problem.source, problem.difficulty)

    def problem(self) -> Problem:
        """The problem of an item."""
        return Problem(self.id, self.question, self.answer, self.source, self.difficulty)


@dataclass(frozen=True)
class Decision:
    """What a stage decides about an item.

    Attributes:
        reason: why it is dropped, in a few words that are counted; empty where it is kept.
        detail: what in particular, such as the item that it repeats.
        changes: fields of the item that the stage sets.
    """

    reason: str = ""
    detail: str = ""
    changes: JsonObject = field(default_factory=dict)

    @property
    def keep(self) -> bool:
        """Whether the item goes on."""
        return not self.reason


KEEP = Decision()


def applied(item: Item, decision: Decision) -> Item:
    """The item with the decision's changes."""
    return dataclasses.replace(item, **decision.changes) if decision.changes else item


def to_line(data: JsonObject) -> str:
    """A JSON line; the same data always gives the same bytes."""
    return json.dumps(data, ensure_ascii=False) + "\n"


def item_lines(items: Iterable[Item]) -> str:
    """Items as JSON lines, in order."""
    return "".join(to_line(dataclasses.asdict(item)) for item in items)


def content_sha256(items: Iterable[Item]) -> str:
    """Hash of the items in order: 64 hexadecimal digits."""
    return hashlib.sha256(item_lines(items).encode()).hexdigest()


def write_lines(path: Path, lines: str) -> None:
    """Writes a file of JSON lines, whole or not at all."""
    write_atomic(path, lambda file: file.write(lines.encode()))


def read_lines(path: Path) -> list[JsonObject]:
    """The lines of a file that was written whole.

    Raises:
        StoreError: it holds something else.
    """
    try:
        # Not splitlines: questions may hold line separators that JSON leaves as they are.
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot be read: {error}", path) from None


def read_items(path: Path) -> list[Item]:
    """Items of a file that `item_lines` made."""
    return [Item(**row) for row in read_lines(path)]


def decision_lines(items: Sequence[Item], decisions: Sequence[Decision]) -> str:
    """Decisions as JSON lines, each with its item's id."""
    return "".join(
        to_line({"id": item.id, **dataclasses.asdict(decision)})
        for item, decision in zip(items, decisions, strict=True)
    )


def read_decisions(path: Path) -> list[Decision]:
    """Decisions of a file that `decision_lines` made."""
    return [Decision(row["reason"], row["detail"], row["changes"]) for row in read_lines(path)]
