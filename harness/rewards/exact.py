"""Answers that can be judged without computer algebra: plain numbers, identical text, and words."""

from __future__ import annotations

import re
from fractions import Fraction

MAX_DIGITS = 2000
"""Numbers of more characters than this are not read as numbers here."""

_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))
_SPACING = re.compile(r"\\[,;:! ]|\\q?quad\b|\\(?:left|right)(?![A-Za-z])|\\displaystyle\b|~")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|operatorname|mbox)\s*\{([^{}]*)\}")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[^{}]*\}")
_APART = re.compile(r"(?<![_^])\d\s+\d", re.ASCII)
_LISTED = re.compile(r"\d,\s+\d", re.ASCII)
_GROUPED = re.compile(r"(?<![\d.])\d{1,3}(?:\s\d{3})+(?!\d)", re.ASCII)
_MIXED = re.compile(r"(?<![\d.])(\d+)\s+(\d+/\d+)(?!\d)", re.ASCII)
_NUMBER = re.compile(r"([+-]?)(\d+|\d{1,3}(?:,\d{3})+)?(\.\d+)?", re.ASCII)
_SCIENTIFIC = re.compile(
    r"([+-]?\d+(?:\.\d+)?)(?:\\times|\\cdot|×|·|\*)10\^(?:\{([+-]?\d{1,3})\}|(\d))", re.ASCII
)
_RATIO = re.compile(r"([+-]?\d+)/(\d+)", re.ASCII)
_FRAC = re.compile(r"([+-]?)\\frac(?:\{([+-]?\d+)\}\{(\d+)\}|(\d)(\d))", re.ASCII)
_WORD = re.compile(r"(?<![\\A-Za-z])(?:[A-Za-z]{3,}|(?i:no|if|is)(?![A-Za-z]))")
_TOKEN = re.compile(r"\w+|[^\w\s\\${},;:?\"'`°]")
_PRODUCT = re.compile(
    r"(?:[+=^]|\\frac\{|\\sqrt\{|\}\{)\s*[A-Za-z]{3,4}(?!\s*[A-Za-z])"
    r"|(?<![\\A-Za-z])(?<![A-Za-z]\s)[A-Za-z]{3,4}(?=\s*[+=^])"
)
_UNIT = re.compile(rf"(?:{_TEXT.pattern}|\b[A-Za-z]{{3,}}|\s)+$")
_NO_UNIT = re.compile(r"\b(?:no|not|or|and|if|is|for|when|more|less|mod)\b", re.IGNORECASE)
_NOT_VERBAL = frozenset(
    {
        *("and", "or"),
        *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh"),
        *("log", "exp", "sqrt", "floor", "ceil", "max", "min", "gcd", "lcm", "mod", "binom", "choose"),
        *("sum", "prod", "lim", "det", "deg", "inf", "sup"),
    }
)


def scattered(text: str) -> bool:
    """Whether digits stand side by side with spaces between them that no way of writing a number has: `1 2`."""
    bare = _SPACING.sub(" ", text.replace("\\,", ""))
    return bool(_APART.search(_GROUPED.sub("", _MIXED.sub("", bare))))


def as_sum(text: str) -> str:
    """Mixed numbers as sums: 2 1/3 is 2 + 1/3, neither 21/3 nor 2/3."""
    return _MIXED.sub(r"(\1+\2)", text)


def normalised(text: str) -> str:
    """The same answer without dollar signs, spacing commands, text commands and spaces."""
    return "".join(_bare(text).split()).rstrip(".")


def _bare(text: str) -> str:
    text = text.strip()
    for opening, closing in _WRAPPERS:
        if text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing):
            text = text[len(opening) : len(text) - len(closing)].strip()
            break
    text = (
        text.replace("−", "-").replace("{,}", ",").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    )
    return as_sum(_TEXT.sub(r"\1", _SPACING.sub(" ", text)))


def as_words(text: str) -> str | None:
    """A verbal answer in comparable form; None where the text is an expression.

    A run of three letters that is neither a function's name nor a factor makes an answer verbal, and so does a word
    such as `no`. Computer algebra would read `Yes` as a product of three symbols, and call it equal to `seY`.
    """
    laid_out = _SPACING.sub(" ", _ENVIRONMENT.sub(" ", text))
    words = _WORD.findall(_TEXT.sub(r"\1", _PRODUCT.sub(" ", laid_out)))
    if all(word.lower() in _NOT_VERBAL for word in words):
        return None
    return " ".join(_TOKEN.findall(_TEXT.sub(r"\1", laid_out).casefold())).rstrip(". ")


def is_quantity(text: str) -> bool:
    """Whether a number comes first and a unit in words last: `5 \\text{ cm}`, not `5 \\text{ or more}`."""
    unit = _UNIT.search(text)
    if unit is None or _NO_UNIT.search(unit[0]):
        return False
    number = re.sub(r"\\[A-Za-z]+", "", text[: unit.start()])
    return bool(re.search(r"\d", number)) and not re.search(r"[A-Za-z]", number)


def as_number(normal: str) -> Fraction | None:
    """The exact value of a normalised integer, decimal or fraction of integers; None for anything else."""
    if not normal or len(normal) > MAX_DIGITS:
        return None
    if (match := _NUMBER.fullmatch(normal)) and (match[2] or match[3]):
        return Fraction(f"{match[1]}{(match[2] or '0').replace(',', '')}{match[3] or ''}")
    if match := _SCIENTIFIC.fullmatch(normal):
        return Fraction(match[1]) * Fraction(10) ** int(match[2] or match[3])
    if match := _RATIO.fullmatch(normal):
        return _ratio(match[1], match[2])
    if match := _FRAC.fullmatch(normal):
        value = _ratio(match[2] or match[4], match[3] or match[5])
        return None if value is None else -value if match[1] == "-" else value
    return None


def plain_number(text: str) -> Fraction | None:
    """The exact value of an answer that is one plain number, as 376,625 is and 376, 625 is not; else None."""
    return None if _LISTED.search(text) else as_number(normalised(text))


def _ratio(numerator: str, denominator: str) -> Fraction | None:
    below = int(denominator)
    return Fraction(int(numerator), below) if below else None


def terminates(value: Fraction) -> bool:
    """Whether a number has a finite decimal expansion."""
    below = value.denominator
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    return below == 1


def decide(gold: str, answer: str) -> bool | None:
    """Whether an answer equals the reference, or None where that takes computer algebra."""
    if scattered(gold) or scattered(answer):
        # Spaces tell the entries apart here.
        return _bare(gold).split() == _bare(answer).split()
    words = as_words(gold)
    if words is not None:
        same = words == as_words(answer)
        return None if not same and is_quantity(gold) else same
    left, right = normalised(gold), normalised(answer)
    if left == right:
        return left != ""
    first, second = plain_number(gold), plain_number(answer)
    if first is None or second is None:
        return None
    # A rounded decimal for a fraction such as 1/3 is a matter of precision, which the algebra system settles.
    if first != second and terminates(first) != terminates(second):
        return None
    return first == second
