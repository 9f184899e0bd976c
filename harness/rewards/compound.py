"""Numbers in words, `twenty-five`, and amounts in two units, `2\\text{ h }30\\text{ min}` or `30^\\circ 15'`."""

from __future__ import annotations

import re
from fractions import Fraction

from harness.rewards.exact import as_number, normalised
from harness.rewards.units import Unit, split_unit

_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
    *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SPOKEN = {
    **{word: number for number, word in enumerate(_SMALL)},
    **{word: 10 * number for number, word in enumerate(_TENS, start=2)},
    **{
        f"{ten} {joint}{one}": 10 * tens + ones
        for tens, ten in enumerate(_TENS, start=2)
        for ones, one in enumerate(_SMALL[1:10], start=1)
        for joint in ("", "- ")
    },
    **dict.fromkeys(("hundred", "one hundred", "a hundred"), 100),
    **dict.fromkeys(("thousand", "one thousand", "a thousand"), 1000),
}
"""Whole numbers by name, as `as_words` gives it."""
_CUSTOMARY = ({"s": 1}, {"month": 1}, {"dollar": 1}, {"m": 1}, {"kg": 1})
"""Dimensions of which amounts are told in two units, one after the other."""
_PART = re.compile(
    r"(?P<body>[+-]?(?:\\\$\s*)?\d+(?:\.\d+)?)\s*(?P<unit>\\text\{[^{}\d]*\}|[A-Za-z][A-Za-z]+)\s*(?:\\text\{\s*,?\s*and\s*\}|and\s+|,)?\s*"
)
_SEXAGESIMAL = re.compile(
    r"(?P<sign>-?)(?P<degrees>\d+)\s*°\s*(?P<minutes>\d{1,2})\s*(?:['′]|\^\{?\\prime\}?)"
    r"(?:\s*(?P<seconds>\d{1,2}(?:\.\d+)?)\s*(?:''|\"|″|′′|\^\{?\\prime\s*\\prime\}?))?",
    re.ASCII,
)


def compound(text: str) -> tuple[str, Unit] | None:
    """Value in base units, and their unit, of an amount told in two or three units; None for anything else.

    Each unit must be smaller than the one before it and hold less than one of that: `2 m and 3 m` are two lengths.
    The value stands in base units, seconds or metres, so that no bare number equals it by accident.

    Args:
        text: in one spelling.
    """
    if angle := _SEXAGESIMAL.fullmatch(text):
        minutes, seconds = int(angle["minutes"]), Fraction(angle["seconds"] or 0)
        if minutes >= 60 or seconds >= 60:
            return None
        value = int(angle["degrees"]) + Fraction(minutes, 60) + seconds / 3600
        return _written(-value if angle["sign"] else value), Unit(dimensions=(("degree", 1),))
    parts, position = [], 0
    while match := _PART.match(text, position):
        parts.append((match["body"], match["unit"]))
        position = match.end()
    if position != len(text) or not 2 <= len(parts) <= 3:
        return None
    total, size = Fraction(0), Fraction(0)
    dimensions: tuple[tuple[str, int], ...] = ()
    for body, unit_text in parts:
        bare, unit = split_unit(f"{body} {unit_text}")
        amount = as_number(normalised(bare))
        if amount is None or unit is None or unit.nouns or dict(unit.dimensions) not in _CUSTOMARY:
            return None
        if size and (
            unit.dimensions != dimensions or unit.size >= size or not 0 <= amount * unit.size < size
        ):
            return None
        dimensions, size = unit.dimensions, unit.size
        total += amount * unit.scale * unit.size
    return _written(total), Unit(dimensions=dimensions)


def _written(value: Fraction) -> str:
    return (
        str(value.numerator)
        if value.denominator == 1
        else f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    )
