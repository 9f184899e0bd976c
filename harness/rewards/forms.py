"""What an answer is: a quantity, a number in a base, a choice, words, a list, a set, an interval, a relation, …"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.rewards.units import Unit

EMPTY, REALS, INTEGERS, RATIONALS, NATURALS, COMPLEXES = (
    "empty",
    "reals",
    "integers",
    "rationals",
    "naturals",
    "complexes",
)


@dataclass(frozen=True)
class Quantity:
    """An expression in one spelling of LaTeX, and the unit behind it."""

    text: str
    unit: Unit | None = None


@dataclass(frozen=True)
class Based:
    """Digits in a stated base other than ten."""

    digits: str
    base: int


@dataclass(frozen=True)
class Words:
    """A verbal answer, in comparable form."""

    text: str


@dataclass(frozen=True)
class Choice:
    """The letter of a choice, capital, and what is written beside it."""

    letter: str
    beside: str = ""


@dataclass(frozen=True)
class Named:
    """A set with a name: `empty`, `reals`, `integers`, …"""

    name: str


@dataclass(frozen=True)
class Several:
    """Entries between brackets `{}`, `()`, `[]`, `<>`, or without any (""); with dots among them order counts."""

    items: tuple[Form, ...]
    brackets: str = ""

    @property
    def dotted(self) -> bool:
        """Whether entries are left out."""
        return Dots() in self.items


@dataclass(frozen=True)
class Dots:
    """Entries left out of a list."""


@dataclass(frozen=True)
class Span:
    """A half-open interval; open and closed ones are `Several` of two in `()` and `[]`."""

    low: Form
    high: Form
    left_open: bool


@dataclass(frozen=True)
class Combined:
    """Sets joined by ∪, ∩ or ∖."""

    operator: str
    parts: tuple[Form, ...]


@dataclass(frozen=True)
class Relation:
    """Sides and the signs between them: `=`, `<`, `\\leq`, `\\in`, `\\approx`, …"""

    sides: tuple[Form, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Matrix:
    """Rows of a matrix or a column vector."""

    rows: tuple[tuple[Form, ...], ...]


@dataclass(frozen=True)
class Ratio:
    """Terms with colons between them."""

    terms: tuple[Form, ...]


Form = (
    Quantity | Based | Words | Choice | Named | Several | Dots | Span | Combined | Relation | Matrix | Ratio
)


def is_variable(text: str) -> bool:
    return bool(re.fullmatch(r"\\?[A-Za-z]+(?:_(?:\w|\{\w+\}))?|[A-Za-z]\([A-Za-z]\)", text.replace(" ", "")))


_POINT = re.compile(
    r"(?:\\text\{\s*(?P<upright>[A-Z])\s*\}|(?P<letter>[A-Z]))(?P<index>'|_(?:\w|\{\w+\}))?\s*(?P<ends>\((?:[^()]|\([^()]*\))+\))"
)
_COUNTED = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)")


def point_named(text: str) -> str | None:
    """`D(0, 2)` as `D = (0, 2)`; None for other texts, among them numbers of combinations such as C(5, 2)."""
    match = _POINT.fullmatch(text.strip())
    if match is None or "," not in match["ends"]:
        return None
    letter = match["upright"] or match["letter"]
    if letter in "CP":  # C(n+1, 2m+1) and C(5, 2) count, C(2, 5) and C(-1, 0) are points
        counted = _COUNTED.fullmatch(match["ends"])
        symbols = re.search("[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", match["ends"]))
        if symbols or (counted and int(counted[1]) >= int(counted[2])):
            return None
    return f"{letter}{match['index'] or ''} = {match['ends']}"


def letters(form: Form) -> frozenset[str]:
    """The symbols of one letter in the expressions of a form."""
    if isinstance(form, Quantity):
        bare = re.sub(r"\\text\{[^{}]*\}", "", form.text)
        return frozenset(name for name in re.findall(r"\\[A-Za-z]+|[A-Za-z]", bare) if len(name) == 1)
    parts: tuple[Form, ...] = ()
    if isinstance(form, Several):
        parts = form.items
    elif isinstance(form, Relation):
        parts = form.sides
    return frozenset().union(*map(letters, parts))
