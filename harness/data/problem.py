"""A question with its reference answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """A verifiable question.

    Attributes:
        id: stable name within its source.
        question: text put into the prompt's template.
        answer: reference answer, as plain text or LaTeX.
        source: short name of the source.
        difficulty: label within the source, such as `3x2` (terms × digits); empty where unknown.
        row: where it stands in its source, counted from 1: the line of a text file, else the row; 0 where generated.
        columns: what else its source says of it, by column, as far as JSON can hold it; read only where asked for.
    """

    id: str
    question: str
    answer: str
    source: str
    difficulty: str = ""
    row: int = field(default=0, compare=False)
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False)


_CONTENT = ("id", "question", "answer", "source", "difficulty")


def content_sha256(problems: Iterable[Problem]) -> str:
    """Hash of the problems' text, in order: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for problem in problems:
        content = {name: getattr(problem, name) for name in _CONTENT}
        digest.update(json.dumps(content, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
