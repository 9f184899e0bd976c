"""CHAMP, 270 competition problems (https://arxiv.org/abs/2401.06961), from the package `champ-dataset`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path

from harness.data.errors import SourceNotFound
from harness.data.problem import Problem

ANSWERS_VERSION = 1
"""Raised when the same package would give other answers than before."""

_ASIDE = re.compile(r"\s*\((?:i\.e\.|no\b|none\b).*\)$", re.DOTALL)
_EQUIVALENT = re.compile(r",? or (?:equivalently|an equivalent form such as) (.+)$", re.DOTALL)
_APPROXIMATE = re.compile(r",? or approximately .+$", re.DOTALL)
_SENTENCES = (
    re.compile(r"The limit exists and is equal to (.+)", re.DOTALL),
    re.compile(r"The only possible value for the limit is (.+)", re.DOTALL),
    re.compile(r"(.+?) is the only possible value", re.DOTALL),
    re.compile(r"(\S+) (?:times|pairs|roots|values|inequalities)"),
    re.compile(r"Exactly (\S+)(?: sequence)?"),
)
_NUMERALS = {"one": "1"}


def load_champ() -> list[Problem]:
    """All problems in order; the difficulty label is the category.

    Raises:
        SourceNotFound: the package is missing.
    """
    entries = json.loads(_file().read_text(encoding="utf-8"))["problems"]
    return [
        Problem(name, entry["_text"].strip(), plain_answer(entry["_raw_answer"]), "champ", entry["category"])
        for name, entry in entries.items()
    ]


def plain_answer(raw: str) -> str:
    """The value in an answer that is worded as a sentence, without asides and second forms.

    `@@2*C(10, 5)@@, or equivalently @@504@@` becomes `504`; an answer in words stays as it is.
    """
    answer = _ASIDE.sub("", raw.strip())
    answer = _APPROXIMATE.sub("", answer)
    if match := _EQUIVALENT.search(answer):
        answer = match[1]
    for sentence in _SENTENCES:
        if match := sentence.fullmatch(answer):
            answer = _NUMERALS.get(match[1], match[1])
    answer = answer.replace("@@", "").strip()
    return (
        ", ".join(re.split(r",\s*|\s+and\s+", answer))
        if re.fullmatch(r"[\d,\s]+ and \d+", answer)
        else answer
    )


def champ_fingerprint() -> str:
    """The package's version, and that of the answers' reading.

    Raises:
        SourceNotFound: the package is missing.
    """
    _file()
    return f"champ-dataset:{importlib.metadata.version('champ-dataset')}:{ANSWERS_VERSION}"


def _file() -> Path:
    # Found, not imported: the package's own imports are not needed for reading its file.
    module = importlib.util.find_spec("champ_dataset")
    for folder in (module.submodule_search_locations or []) if module else []:
        if (path := Path(folder) / "dataset_files" / "v0.json").is_file():
            return path
    raise SourceNotFound("source `champ` needs the package champ-dataset", "pip install champ-dataset")
