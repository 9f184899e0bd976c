"""Noisy and multi-part questions that need no model to be seen."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from harness.curation.items import KEEP, Decision, Item
from harness.spec.curation import RulesStage

_PART = r"(?:^|[\s:;.])(?<!\b[a-z]\s)"
"""What a part's mark stands after: not a letter, as the argument of `f (a)` does."""
_PARTS = (
    re.compile(_PART + r"\(?a\)\s.*?" + _PART + r"\(?b\)\s", re.DOTALL),
    re.compile(_PART + r"\(?i\)\s.*?" + _PART + r"\(?ii\)\s", re.DOTALL),
    re.compile(r"(?:^|\n)\s*1[.)]\s.*?\n\s*2[.)]\s", re.DOTALL),
    re.compile(r"\bpart\s+\(?(?:a|1|i)\)?\b.*?\bpart\s+\(?(?:b|2|ii)\)?\b", re.DOTALL),
)
_PROOF = re.compile(r"\b(?:prove|show)\s+that\b|\bgive\s+a\s+proof\b")
_FIGURE = re.compile(
    r"\[asy\]|!\[|\\includegraphics|\b(?:figure|diagram|picture|image|graph)\s+(?:below|above|shown)\b"
    r"|\b(?:in|see|from)\s+the\s+(?:figure|diagram|picture|image)\b|\bas\s+shown\b"
)
_LINK = re.compile(r"https?://|\bwww\.")
# A choice's mark follows no word: `sin(A)` is an argument.
_CHOICES = re.compile(".*".join(rf"(?<![\w(}}])\(?{letter}[).]" for letter in "ABC"), re.DOTALL)


def _unprintable(text: str) -> bool:
    return "�" in text or any(unicodedata.category(c) == "Cc" and c not in "\n\t\r" for c in text)


RULES: dict[str, tuple[str, Callable[[str], bool]]] = {
    "multi_part": ("several parts", lambda text: any(p.search(text.lower()) for p in _PARTS)),
    "several_questions": ("several questions", lambda text: text.count("?") > 1),
    "proof": ("asks for a proof", lambda text: _PROOF.search(text.lower()) is not None),
    "figure": ("needs a figure", lambda text: _FIGURE.search(text.lower()) is not None),
    "link": ("holds a link", lambda text: _LINK.search(text.lower()) is not None),
    "choices": ("multiple choice", lambda text: _CHOICES.search(text) is not None),
    "unprintable": ("broken characters", _unprintable),
}
"""What each rule calls what it finds, and whether it finds it."""


def by_rules(items: Sequence[Item], spec: RulesStage) -> list[Decision]:
    """Drops items that a rule finds, or whose length is out of bounds."""
    return [_decide(item.question, spec) for item in items]


def _decide(text: str, spec: RulesStage) -> Decision:
    if len(text) < spec.shortest:
        return Decision("too short", f"{len(text)} characters")
    if len(text) > spec.longest:
        return Decision("too long", f"{len(text)} characters")
    for rule in spec.drop:
        reason, found = RULES[rule]
        if found(text):
            return Decision(reason)
    return KEEP
