"""A question with its reference answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Problem:
    """A verifiable question.

    Attributes:
        id: stable name within its source.
        question: text put into the prompt's template.
        answer: reference answer, as plain text or LaTeX.
        source: short name of the source.
        difficulty: label within the source, such as `3x2` (terms × digits); empty where unknown.
    """

    id: str
    question: str
    answer: str
    source: str
    difficulty: str = ""


def content_sha256(problems: Iterable[Problem]) -> str:
    """Hash of the problems' text, in order: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps(asdict(problem), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
