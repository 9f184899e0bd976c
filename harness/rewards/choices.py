"""Answers that name a choice, `(C)\\ 12`, and times of day, `11:30 a.m.`."""

from __future__ import annotations

import re
from functools import lru_cache

from harness.rewards.forms import Choice
from harness.rewards.spelling import unwrapped

_CHOICE = re.compile(
    r"(?:\\text\{)?\s*(?:(?i:option|choice|answer)\s*:?\s*)?(?:\\text\{)?\s*(?:"
    r"[(\[]\s*(?:\\text\{\s*)?(?P<enclosed>[A-Za-z])\s*\}?\s*[)\]]|(?P<marked>[A-Za-z])\s*(?:\}\s*)?[.:)](?![.\d])|(?P<alone>[A-Z])(?=\s*\}?\s*$))"
    r"\s*[.:,]?\s*\}?\s*[.:,]?(?P<beside>.*)",
    re.DOTALL,
)
_OTHER_CHOICE = re.compile(
    r"\(\s*[A-J]\s*\)|(?:^|\b(?:and|or|,))\s*(?:\\text\{)?\s*\(?[A-J]\)?\s*\}?\s*$|\b(?:and|or)\b"
)
_BOLD_THEN_SPACE = re.compile(r"^\s*\\text(?:bf|it|rm)?\{\s*([A-J])\s*\}\s*(?:\\q?quad(?![A-Za-z])|\\ |~)")
_LETTERS = frozenset("ABCDEFGHIJ")


@lru_cache(maxsize=4096)
def read_choice(text: str) -> Choice | None:
    """The choice that an answer names, `(C)\\ 12`, `C. 5`, `\\text{C: } 5` `C`; None where it names none or two."""
    raw = _BOLD_THEN_SPACE.sub(r"(\1) ", unwrapped(text))
    raw = re.sub(r"\\[,;:! ]|~|\\q?quad", " ", raw)
    raw = re.sub(
        r"\\(?:text(?:bf|it|rm|sf)?|math(?:rm|bf|it|sf)|boldsymbol|bm|mbox|operatorname)\s*\{",
        r"\\text{",
        raw,
    )
    raw = re.sub(r"\\text\{\s*([.:)])\s*\}", r"\1 ", raw)
    for _ in range(2):
        raw = re.sub(r"\\text\{\s*\\text\{([^{}]*)\}\s*\}", r"\\text{\1}", raw)
    match = _CHOICE.fullmatch(raw.strip())
    if match is None:
        return None
    letter = match["enclosed"] or match["marked"] or match["alone"]
    beside = (match["beside"] or "").strip()
    if beside.count("{") < beside.count("}"):
        beside = beside[::-1].replace("}", "", 1)[::-1].strip()
    if letter.upper() not in _LETTERS or _OTHER_CHOICE.search(beside):
        return None
    return Choice(letter.upper(), beside)


_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?(?:\\text\{)?([ap])?\.?m?\.?\}?", re.IGNORECASE)


def same_time(gold: str, answer: str) -> bool | None:
    """The verdict where both are times of day, `9:05` or `11:00 a.m.`; None elsewhere."""
    first, second = _TIME.fullmatch(gold.replace(" ", "")), _TIME.fullmatch(answer.replace(" ", ""))
    if first is not None and second is None and (first[4] or first[2].startswith("0")):
        return None if re.search("[A-Za-z]", answer) else False
    if first is None or second is None:
        return None
    if not any(m[4] or m[2].startswith("0") for m in (first, second)):
        return None
    (early, known), (late, both_known) = _clock(first), _clock(second)
    if (known and both_known) or not (first[4] or second[4]):
        return early == late
    return (early - late) % HALF_DAY_SECONDS == 0


HALF_DAY_SECONDS = 12 * 3600


def _clock(match: re.Match[str]) -> tuple[int, bool]:
    """Seconds since midnight, and whether the half of the day is known: of 19:30 it is, of 7:30 it is not."""
    hours, half = int(match[1]), (match[4] or "").lower()
    seconds = int(match[2]) * 60 + int(match[3] or 0)
    if half and 1 <= hours <= 12:
        return (hours % 12 + 12 * (half == "p")) * 3600 + seconds, True
    return hours * 3600 + seconds, hours == 0 or hours > 12
