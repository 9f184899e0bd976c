"""What stands behind a number: `5\\text{ km}` is `5000 m`, and `5\\text{ million}` is no five."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction

from harness.rewards.spelling import DEGREE
from harness.rewards.unit_table import (
    FACTORS,
    METRIC,
    NAMED,
    PLAIN,
    PREFIXES,
    QUALIFIERS,
    Dimensions,
)

MAX_UNIT = 80
"""Characters of a unit at most."""

_TOKEN = re.compile(
    r"\\text\{(?P<text>(?:[^{}]|\^\{[^{}]*\})*)\}|\^\s*\{?\s*(?P<power>[+-]?\d)\s*\}?|(?P<times>\\cdot|\\times|\*|-(?=[A-Za-z\\]))|(?P<over>/)"
    r"|(?P<sign>\\\$|\\%|°\s*(?:[CF](?![A-Za-z])|\\text\{\s*[CF]\s*\})|°|[€£¥₹¢])|(?P<omega>\\Omega|Ω)|(?P<mu>\\mu|μ)"
    r"|(?P<word>[A-Za-zμÅ]+\.?)|(?P<digit>(?<=[A-Za-z])[23](?!\d))|(?P<space>\s+|[()])"
)
_FRAC = re.compile(r"\\frac\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")


@dataclass(frozen=True)
class Unit:
    """What stands behind a number.

    Attributes:
        scale: a factor in words, which counts with or without a unit: 10⁶ of `million`.
        size: of the unit, in base units.
        dimensions: powers of the base units.
        nouns: what is counted, in words that are no unit of measurement.
    """

    scale: Fraction = Fraction(1)
    size: Fraction = Fraction(1)
    dimensions: tuple[tuple[str, int], ...] = ()
    nouns: frozenset[str] = frozenset()

    @property
    def kind(self) -> str:
        """`percent`, `degree`, `radian`, `celsius` or `fahrenheit` where it is that alone; else empty."""
        return self.dimensions[0][0] if len(self.dimensions) == 1 and self.dimensions[0][1] == 1 else ""

    @property
    def bare(self) -> bool:
        """Whether there is no unit, only a factor or nothing."""
        return not self.dimensions and not self.nouns


@dataclass
class _Reading:
    scale: Fraction = Fraction(1)
    size: Fraction = Fraction(1)
    dimensions: dict[str, int] = field(default_factory=dict)
    nouns: set[str] = field(default_factory=set)
    last: tuple[Fraction, Dimensions] | None = None
    sign: int = 1
    power: int = 1  # of the next unit, by `square` or `cubic`

    def add(self, size: Fraction, dimensions: Dimensions, times: int) -> None:
        self.size *= size**times
        for name, count in dimensions.items():
            self.dimensions[name] = self.dimensions.get(name, 0) + count * times


def read_unit(text: str) -> Unit | None:
    """The unit in a spelled text that holds nothing else; None where something in it is no unit."""
    if len(text) > MAX_UNIT:
        return None
    text = _FRAC.sub(r"\1/\2", text)
    reading, position = _Reading(), 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None or not _take(reading, token):
            return None
        position = token.end()
    if reading.power != 1:  # a square of nothing: `square units` without a unit
        return None
    dimensions = tuple(sorted((n, c) for n, c in reading.dimensions.items() if c))
    if len(reading.nouns) > 4:
        return None
    return Unit(reading.scale, reading.size, dimensions, frozenset(reading.nouns))


def _take(reading: _Reading, token: re.Match[str]) -> bool:
    kind = token.lastgroup
    if kind in ("times", "space"):
        return True
    if kind == "over":
        reading.sign = -1
        return True
    if kind in ("power", "digit"):
        if reading.last is None:
            return False
        power = int(token[kind])
        size, dimensions = reading.last
        reading.add(size, dimensions, reading.sign * (power - 1))
        reading.last = None
        return True
    if kind == "text":
        words = [
            part
            for part in re.split(
                r"(/|\^\{?-?\d\}?|[\s·.,()*]+|-)", re.sub(r"\\(?:cdot|times)(?![a-z])", " ", token["text"])
            )
            if part and part.strip(" ·.,()*-")
        ]
        return (bool(words) and all(_inner(reading, word) for word in words)) or not token["text"].strip()
    if kind == "word":
        return _word(reading, token["word"].rstrip("."), upright=False)
    symbol = {"omega": "Ω", "mu": "μ"}.get(kind or "", "") or re.sub(
        r"\\text\{\s*(.)\s*\}", r"\1", token[kind or 0]
    ).replace(" ", "")
    return _word(reading, symbol, upright=True)


def _inner(reading: _Reading, word: str) -> bool:
    """A piece of the content of `\\text{…}`."""
    if word == "/":
        reading.sign = -1
        return True
    if power := re.fullmatch(r"\^\{?(-?\d)\}?", word):
        if reading.last is None:
            return False
        reading.add(*reading.last, reading.sign * (int(power[1]) - 1))
        reading.last = None
        return True
    if power := re.fullmatch(r"([A-Za-z]+)([23])", word):
        return _inner(reading, power[1]) and _inner(reading, f"^{power[2]}")
    if word.startswith(DEGREE):
        return _word(reading, word.replace(" ", ""), upright=True)
    return bool(re.fullmatch(r"[A-Za-zμΩÅ$%€£']+|\\[$%]", word)) and _word(reading, word, upright=True)


def _word(reading: _Reading, word: str, *, upright: bool) -> bool:
    lower = word.casefold()
    if lower == "per":
        reading.sign = -1
        return True
    if lower in ("square", "sq", "cubic", "cu"):
        reading.power = 3 if lower in ("cubic", "cu") else 2
        return True
    if lower in ("squared", "cubed"):
        if reading.last is None:
            return False
        reading.add(*reading.last, reading.sign * (1 if lower == "squared" else 2))
        return True
    if (factor := _factor(word, upright)) is not None:
        reading.scale *= factor
        return True
    if (known := _known(word)) is not None:
        size, dimensions = known
        if reading.dimensions and dimensions in ({"degree": 1},):
            return False
        if reading.dimensions == {"degree": 1} and dimensions in (
            {"celsius": 1},
            {"fahrenheit": 1},
            {"A": 1, "s": 1},
        ):
            reading.dimensions = {}  # degrees Celsius
            size, dimensions = Fraction(1), {"celsius": 1} if word[0] in "cC" else {"fahrenheit": 1}
        times = reading.sign * reading.power
        reading.add(size, dimensions, times)
        reading.last = (
            size**reading.power,
            {name: count * reading.power for name, count in dimensions.items()},
        )
        reading.power = 1
        return True
    if not _is_noun(lower) or (reading.power != 1 and not upright):
        return False
    reading.nouns.add(("per " if reading.sign < 0 else "") + _singular(lower))
    return True


def _is_noun(lower: str) -> bool:
    return (
        len(lower) > 2
        and not {lower, _singular(lower)} & (QUALIFIERS | FACTORS.keys())
        and bool(re.search(r"[aeiouy]", lower))
    )


def _factor(word: str, upright: bool) -> int | None:
    if len(word) == 1:
        return 1000 if upright and word == "k" else None
    lower = word.casefold()
    return FACTORS.get(lower) or FACTORS.get(_singular(lower))


def _known(word: str) -> tuple[Fraction, Dimensions] | None:
    if word in ("$", "%"):
        word = f"\\{word}"
    if word in METRIC:
        return METRIC[word][:2]
    if word in PLAIN:
        return PLAIN[word]
    if len(word) > 1 and word[0] in PREFIXES and word[1:] in METRIC:
        size, dimensions, _ = METRIC[word[1:]]
        return size * Fraction(10) ** PREFIXES[word[0]], dimensions
    lower = word.casefold()
    for name in (lower, _singular(lower)):
        if name in PLAIN and len(name) > 1:
            return PLAIN[name]
        if name in NAMED:
            return NAMED[name]
    return None


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if re.search(r"(?:ss|sh|ch|x)es$", word):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


_START = re.compile(
    r"\\text\{|\\%|\\\$|°|\\frac\{\s*\\text|[€£¥₹¢]|(?<=[\d}\s)!.])[A-Za-zμΩÅ]|\\mu(?=\s*\\text)|\\Omega|(?<=\d)\s*/\s*\\text"
)
_LETTER = re.compile(r"\\text\{\s*([A-Za-z])\s*\}|([A-Za-z])")
_UNITS = re.compile(r"units?\b")
_ATTACHED = frozenset("msgL")
"""Bare letters that may be a unit where they touch the number."""
_FRONT = re.compile(
    r"([+-]?)\s*(?:(\\\$|[€£¥₹])|(?:\\text\{\s*)?(Rs|USD|US\\\$|EUR)\.?(?:\s*\})?)\s*([+-]?)(?=[\d.(\\])"
)
_THOUSANDS = re.compile(r"(.*\d)\s*(?:[kK]|\\text\{\s*[kK]\s*\})")
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_NAMES_OF_NUMBERS = re.compile(r"\\(?:frac|sqrt|pi|cdot|times|pm|binom|ldots)(?![A-Za-z])")


def split_unit(
    text: str, *, attached: bool = True, symbols: frozenset[str] = frozenset()
) -> tuple[str, Unit | None]:
    """A spelled answer without the unit at its end, or the currency at its front; None where it has none.

    The longest end that is a unit is taken.

    Args:
        text: in one spelling.
        attached: whether a bare letter that touches the number may be a unit, as in `5m`; a factor otherwise.
        symbols: letters that are no units.
    """
    text = text.strip()
    if front := _FRONT.match(text):
        return _currency(text, front, attached)
    for match in _START.finditer(text, max(0, len(text) - MAX_UNIT)):
        body, rest = text[: match.start()], text[match.start() :]
        letter = _LETTER.fullmatch(rest.strip())
        if letter is not None and (letter[1] or letter[2]) in symbols:
            continue
        if not re.search(r"[\w})\]!]\s*$", body) or not _may_follow(body, rest, attached):
            continue
        unit = read_unit(rest)
        if unit is not None and (not unit.bare or unit.scale != 1 or _UNITS.search(rest)):
            return re.sub(r"\\(?:cdot|times)\s*$", "", body.rstrip()).rstrip(), unit
    return text, None


def _currency(text: str, front: re.Match[str], attached: bool) -> tuple[str, Unit | None]:
    unit = read_unit(front[2] or {"US\\$": "\\$"}.get(front[3], front[3]))
    body, behind = split_unit((front[1] or front[4]) + text[front.end() :], attached=attached)
    if thousands := _THOUSANDS.fullmatch(body):
        body, behind = thousands[1], behind or Unit(scale=Fraction(1000))
    if unit is None or behind is None:
        return body, unit
    if behind.dimensions not in ((), unit.dimensions):
        return text, None
    return body, Unit(behind.scale, unit.size, unit.dimensions, behind.nouns)


def _may_follow(body: str, rest: str, attached: bool) -> bool:
    """Whether an end that reads as a unit may be one behind `body`, rather than factors of an expression."""
    if rest.startswith("°") and _FUNCTION.search(body):
        return False  # the angle's, not the sine's
    if not re.match(r"[A-Za-zμÅ]", rest):
        return True
    # Bare letters are a unit behind a plain number alone: a m is a product.
    if re.search(r"[A-Za-z]", _NAMES_OF_NUMBERS.sub("", body)):
        return False
    if body[-1].isspace():
        return True
    letters = re.match(r"[A-Za-zμÅ]+", rest)
    assert letters is not None
    if len(letters[0]) == 1:
        return attached and letters[0] in _ATTACHED
    return _known(letters[0]) is not None or letters[0].casefold() in FACTORS
