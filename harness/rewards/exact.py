"""What takes no computer algebra: plain numbers and their roundings, digits in a base, and words."""

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
    r"([+-]?\d+(?:\.\d+)?)(?:\\times|\\cdot|×|·|\*)10\^(?:\{([+-]?\d{1,4})\}|(\d))", re.ASCII
)
_RATIO = re.compile(r"([+-]?\d+)/(\d+)", re.ASCII)
_FRAC = re.compile(r"([+-]?)\\frac(?:\{([+-]?\d+)\}\{(\d+)\}|(\d)(\d))", re.ASCII)
_WORD = re.compile(r"(?<![\\A-Za-z])(?:[A-Za-z]{3,}|(?i:no|if|is)(?![A-Za-z]))")
_TOKEN = re.compile(r"\w+|[^\w\s\\${},;:?\"'`°]")
_PRODUCT = re.compile(
    r"\\(?:angle|triangle|overline|widehat|overrightarrow|arc|square)\s*\{?\s*[A-Z]+|"
    r"(?:[+=^]|\\frac\{|\\sqrt\{|\}\{)\s*[A-Za-z]{3,4}(?!\s*[A-Za-z])"
    r"|(?<![\\A-Za-z])(?<![A-Za-z]\s)[A-Za-z]{3,4}(?=\s*[+=^])"
)
_NOT_VERBAL = frozenset(
    {
        *("and", "or"),
        *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh"),
        *("log", "exp", "sqrt", "floor", "ceil", "max", "min", "gcd", "lcm", "mod", "binom", "choose"),
        *("sum", "prod", "lim", "det", "deg", "inf", "sup"),
    }
)


_BASES = {
    **{"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10},
    **{
        "eleven": 11,
        "twelve": 12,
        "sixteen": 16,
        "binary": 2,
        "octal": 8,
        "decimal": 10,
        "hexadecimal": 16,
        "hex": 16,
    },
}
_BASED = re.compile(
    r"[{(]?\s*(?:\\text\{\s*(?P<text>-?[0-9A-Za-z.]+)\s*\}|(?P<plain>-?[0-9A-Za-z.](?:[0-9A-Za-z.,\s]*[0-9A-Za-z])?))\s*[})]?\s*"
    r"(?:_\s*[{(]*\s*(?:\\text\{)?\s*\(?\s*(?:base[\s}]*)?(?P<number>\d+|[A-Za-z]+)\s*[})\s]*"
    r"|(?:\\text\{)?\s*\(?(?:in\s+)?base[\s}~-]*(?P<spoken>\d+|[A-Za-z]+)\s*\)?\s*\}?)",
    re.ASCII,
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


def spaced(text: str) -> list[str]:
    """The pieces of an answer whose spaces count."""
    return _bare(text).split()


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
    spoken = " ".join(_TOKEN.findall(_TEXT.sub(r"\1", laid_out).casefold())).rstrip(". ")
    spoken = re.sub(r"(?<=[a-z]{3}) !$", "", spoken)
    return "does not exist" if spoken == "dne" else re.sub(r"^(?:an?|the) (?=[a-z]{3})", "", spoken)


def as_number(normal: str) -> Fraction | None:
    """The exact value of a normalised integer, decimal or fraction of integers; None for anything else."""
    if not normal or len(normal) > MAX_DIGITS:
        return None
    if normal[0] == "(" and normal[-1] == ")" and "(" not in normal[1:]:
        normal = normal[1:-1]
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


def is_rounding(shown: Fraction, exact: Fraction, *, endless: bool | None = None) -> bool:
    """Whether a decimal is another number rounded, or cut off, where it may be.

    It may be where the exact expansion never ends, from six significant digits on; where it ends after more than
    fifteen, from fifteen on. Of a number close to a whole one, three digits of what lies between must be right.

    Args:
        shown: the decimal.
        exact: the other number.
        endless: whether its expansion never ends, where `exact` is only close to it; of `exact` itself by default.
    """
    if not terminates(shown) or (shown == exact and not endless):
        return shown == exact
    ends = terminates(exact) if endless is None else not endless
    places = _last_place(shown)
    digits = len(str(abs(shown.numerator * 10**places // shown.denominator)))
    unit = Fraction(1, 10**places)
    least = 6
    if ends:
        least = 15
        if exact.denominator == 1 or len(str(abs(exact * 10 ** _last_place(exact)).numerator)) <= least:
            return False
    error, rest = abs(shown - exact), abs(exact - round(exact))
    if digits < least or (round(exact) and rest < Fraction(1, 1000) and error * 1000 > rest):
        return False
    if digits >= 15 and error <= abs(exact) / 10**14:
        return True
    return 2 * error <= unit or (abs(shown) < abs(exact) and error < unit)


def value_of(text: str) -> tuple[Fraction, bool] | None:
    """The value of a plain number, and whether it is a decimal; None for anything else."""
    number = as_number(normalised(text))
    return None if number is None else (number, "." in text or "10^{-" in text)


def agree(first: Fraction, second: Fraction, first_decimal: bool, second_decimal: bool) -> bool:
    """Whether two plain numbers are the same, or the decimal among them a rounding of the other."""
    if first == second or first_decimal == second_decimal:
        return first == second
    return is_rounding(first, second) if first_decimal else is_rounding(second, first)


def _last_place(value: Fraction) -> int:
    """Decimal places of a number whose expansion ends."""
    below = value.denominator
    twos = fives = 0
    while below % 2 == 0:
        below, twos = below // 2, twos + 1
    while below % 5 == 0:
        below, fives = below // 5, fives + 1
    return max(twos, fives)


def base_of(text: str) -> tuple[str, int] | None:
    """Digits and base of a number in a stated base, `1011_2` or `(1011)_{\\text{two}}`; None where there is none."""
    match = _BASED.fullmatch(text.strip())
    if match is None:
        return None
    digits = re.sub(r"[\s,]|\\[,!]", "", match["text"] or match["plain"])
    base = match["number"] or match["spoken"]
    base = int(base) if base.isdigit() else _BASES.get(base.casefold(), 0)
    symbols = re.sub(r"[-.]", "", digits)
    if not 2 <= base <= 36 or not symbols:
        return None
    if not re.search(r"\d", symbols) and not (
        base > 10 and (match["text"] or re.fullmatch(r"[A-Z]{2,}", symbols))
    ):
        return None  # a_2 is a variable
    if re.search(r"[A-Za-z]", symbols) and (base < 11 or any(int(c, 36) >= base for c in symbols)):
        return None
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    return sign + (digits.lstrip("0") or "0").upper(), base
