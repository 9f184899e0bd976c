"""References inside solutions: found by a source's pattern, and told where a source has none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.data.problem import Problem
from harness.rewards.answers import MAX_ANSWER_CHARACTERS
from harness.rewards.boxed import final_answer

FEW = 20
"""One in so many references may be bad before a source is: exports have a few broken rows."""
_MOST_ROWS = 10
_AFTER_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_BRACELESS = re.compile(r"\\(?:boxed|fbox)\s+([^\s{}$\\][^{}$\\]*)\$")
"""The box without braces that MATH writes, `$\\boxed 2$`."""
_BOX = re.compile(r"\\(?:boxed|fbox)\b")
_ANNOUNCED = re.compile(r"\b(?:answer|result)\s+is\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9$\\])|(?<=[。！？])|\n+")
_BARE_BOX = re.compile(r"[\s$.()\[\]\\]*(?:boxed|fbox)\s*\{?\s*\}?[\s$.()\[\]\\]*")
_WORD = re.compile(r"(?<![\\\w])[^\W\d_]{2,}")
_MOST_WORDS = 15
"""No final answer says more: a longer reference could only be met word for word."""
_LEAST_WORDS = 3
"""Words that make a sentence: `A. Paris` is none."""


def find_reference(pattern: str, text: str) -> str | None:
    """The reference in a solution: where the pattern matches last; None where it doesn't, or only emptiness.

    Args:
        pattern: `gsm8k`, `boxed` or a regular expression with one group.
        text: the solution.
    """
    if pattern == "boxed":
        bare = _last(_BRACELESS, text)
        closed = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
        found = final_answer(text) if bare is None or bare.start() < closed else bare[1]
    else:
        match = _last(_AFTER_HASHES if pattern == "gsm8k" else re.compile(pattern), text)
        found = None if match is None else match[1]
    return (found or "").strip() or None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(reversed(list(pattern.finditer(text))), None)


def not_found(pattern: str) -> str:
    """What a text lacks in which the pattern finds nothing."""
    named = {"gsm8k": "no `####` with an answer behind it", "boxed": "no closed, filled \\boxed{}"}
    return named.get(pattern, f"no match for {pattern!r}")


def solution_mark(text: str) -> str | None:
    """Why a reference is a whole solution, which no final answer can equal; None where it may be an answer."""
    if _AFTER_HASHES.search(text):
        return "an answer behind `####`"
    if _BOX.search(text) and not _is_box(text):
        return "a \\boxed{} within other text"
    if len(text) > MAX_ANSWER_CHARACTERS:
        return f"more than the {MAX_ANSWER_CHARACTERS:,} characters that an answer may have"
    sentences = [part for part in _SENTENCE_END.split(text) if _is_sentence(part)]
    if len(sentences) > 1:
        return "several sentences"
    if len(_WORD.findall(text)) > _MOST_WORDS:
        return f"more than {_MOST_WORDS} words"
    if _ANNOUNCED.search(text):
        return "a sentence that announces the answer"
    return None


def _is_box(text: str) -> bool:
    """Whether nothing but mathematics' own marks stands around the box."""
    before, _, after = text.rpartition(find_reference("boxed", text) or "\n")
    return _BARE_BOX.fullmatch(before + after) is not None


def _is_sentence(text: str) -> bool:
    wide = sum("\u3040" <= character <= "\u9fff" for character in text)
    return len(_WORD.findall(text)) >= _LEAST_WORDS or wide > _LEAST_WORDS


@dataclass(frozen=True)
class WholeSolutions:
    """References of a source that are whole solutions, so that no final answer can equal them.

    Attributes:
        count: how many.
        of: of how many references.
        effect: what will happen, in a sentence.
        instead: the field to set.
    """

    count: int
    of: int
    effect: str
    instead: str

    @property
    def grave(self) -> bool:
        """Whether they are more than a few."""
        return self.count > self.of // FEW


def whole_solutions(
    problems: Sequence[Problem], *, column: str, unit: str, pattern: str | None
) -> WholeSolutions | None:
    """Which references of a stored source are whole solutions; None where none is.

    Args:
        problems: the source's.
        column: that the references stand in.
        unit: what the problems' places count: `line` or `row`.
        pattern: the source's pattern.
    """
    marks = {problem.row: mark for problem in problems if (mark := solution_mark(problem.answer)) is not None}
    if not marks:
        return None
    first = next(problem.answer for problem in problems if problem.row in marks)
    common = Counter(marks.values()).most_common(1)[0][0]
    effect = (
        f"{len(marks):,} of {len(problems):,} references in column {column!r} are whole solutions ({common}), "
        f"such as {shortened(first)}: no final answer equals them ({listed_rows(unit, list(marks))})"
    )
    return WholeSolutions(len(marks), len(problems), effect, _instead(common, pattern))


def _instead(mark: str, pattern: str | None) -> str:
    if pattern is not None:
        return f"an `answer_pattern:` that finds the answer alone: {pattern!r} finds more"
    if "####" in mark:
        return "set `answer_pattern: gsm8k`: the reference is then what follows `####`"
    if "boxed" in mark:
        return "set `answer_pattern: boxed`: the reference is then what stands in the box"
    return (
        "name the column that holds the answer alone (`answer: …`), or set `answer_pattern:` to a regular expression "
        "whose one group is the answer, such as `'answer is (\\S+)'`"
    )


def shortened(text: str) -> str:
    """The first characters of a text, for a message."""
    return repr(text if len(text) <= 40 else text[:40] + "…")


def listed_rows(unit: str, rows: Sequence[int]) -> str:
    """`line 3`, or `lines 3, 7 and 12 more`."""
    first = ", ".join(map(str, rows[:_MOST_ROWS]))
    more = f" and {len(rows) - _MOST_ROWS:,} more" if len(rows) > _MOST_ROWS else ""
    return f"{unit}{'s' if len(rows) > 1 else ''} {first}{more}"
