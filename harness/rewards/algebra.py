"""Expressions, equations and sets of numbers compared by sympy; what latex2sympy cannot read whole is refused.

Nothing here bounds time or memory: `worker` does. Decimals are read as the exact fractions they are. Two values are
the same where their difference vanishes, exactly for rationals and to hundreds of digits for the rest, never within a
tolerance; math-verify's own comparison rounds to six decimal places and fifteen digits, to which 10^-19 is 0.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from typing import Any

from harness.rewards.exact import is_rounding
from harness.rewards.forms import Form, Quantity, Relation, Several
from harness.rewards.to_latex import latex_of

DIGITS = 40
"""Significant digits to which expressions are evaluated."""
LIMIT_OF_DIGITS = 600
"""Working precision at most, where a difference cancels."""
POINTS = 8
"""Points at which expressions in symbols are compared."""
MAX_FACTORIAL = 10**5

MAX_NESTING = 60
"""Brackets within brackets that are handed to the parser, whose time grows with every one."""

_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_TRIGONOMETRIC = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?|[A-Za-z])\s*°")
_POWER_OF_FACTORIAL = re.compile(r"(\d+|[A-Za-z]|\([^()]*\))!\s*\^")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*\\%")
_RENAMED = {
    "I": "\\iota ",
    "E": "\\Upsilon ",
    "e": "\\upsilon ",
    "\\gamma": "\\varrho ",
    "\\Gamma": "\\varpi ",
}
"""Symbols that the parser takes for i, e (which is one where it has an index) and for Euler's constant."""
_IS_CALL = re.compile(r"\s*\(")
_LETTERS = re.compile(r"\\[A-Za-z]+|I|E|e(?=\s*_)")
_ACCENTED = re.compile(r"\\(d?dot|hat|bar|vec|tilde)\s*\{\s*([A-Za-z])\s*\}\s*_\s*\{?(\w+)\}?")
_FUNCTIONS = re.compile(
    r"(?<![\\A-Za-z])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp)(?![A-Za-z])"
)
_REFUSED = re.compile(
    r"(?<![A-Za-z_\\{])\d+\s*_|[)}]\s*_(?!\{?\\infty)\s*[\d{]|!\s*!|\\ldots|\\mathbb|\\[$%]|[#@\"`'°]|\\begin\{cases\}|\\approx|\.\s*\.|\\to(?![a-z])"
)
_SUBSCRIPT = re.compile(r"_\{\\text\{\s*([A-Za-z0-9 ]+?)\s*\}\}|_\\text\{\s*([A-Za-z0-9 ]+?)\s*\}")
_PRIME = re.compile(r"(?<![A-Za-z\\])([A-Za-z])'")


class Unreadable(Exception):
    """A text that is no expression."""


@lru_cache(maxsize=4096)
def expression(text: str) -> tuple[Any, bool]:
    """The expression that a spelled text is, evaluated, and whether decimals stand in it.

    Raises:
        Unreadable: it is none, or a part of it cannot be read.
    """
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex
    from sympy import Expr, Float, I, MatrixBase, MatrixExpr, Rational, Symbol
    from sympy.core.function import AppliedUndef

    latex = _cleaned(text)
    how = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
    )
    try:
        found = latex2sympy(
            normalize_latex(latex, how),
            is_real=True,
            normalization_config=None,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
    except RecursionError:
        raise
    except Exception as error:  # the parser raises bare exceptions, and sympy whatever it likes
        raise Unreadable(text) from error
    if not isinstance(found, Expr | MatrixBase | MatrixExpr):
        raise Unreadable(text)
    floats = found.atoms(Float)
    imaginary = {s: I for s in found.free_symbols if s.name == "i"}
    unknown = {call: Symbol(str(call), real=True) for call in found.atoms(AppliedUndef)}
    found = found.xreplace(
        {**{number: Rational(str(number)) for number in floats}, **imaginary, **unknown}
    ).doit()
    if found.has(*_undefined()):
        raise Unreadable(text)
    return found, bool(floats)


def _undefined() -> tuple[Any, ...]:
    from sympy import nan, zoo

    return nan, zoo


def _cleaned(text: str) -> str:
    text = _SUBSCRIPT.sub(lambda m: f"_{{{(m[1] or m[2]).replace(' ', '')}}}", text)
    if _nesting(text) > MAX_NESTING:
        raise Unreadable(text)
    for content in _TEXT.findall(text):
        if not re.fullmatch(r"\s*[A-Za-zα-ω]?\s*", content):
            raise Unreadable(text)
    text = _TEXT.sub(r" \1 ", text)
    in_radians = bool(_TRIGONOMETRIC.search(text))
    text = _DEGREES.sub(r"(\\frac{\1 \\pi}{180})" if in_radians else r"\1", text)
    text = _POWER_OF_FACTORIAL.sub(r"(\1!)^", text)
    text = _PERCENT.sub(r"(\\frac{\1}{100})", text)
    text = _FUNCTIONS.sub(r"\\\1 ", _ACCENTED.sub(r"\2_{\1\3}", text))
    text = _PRIME.sub(r"\\tilde{\1}", text)
    if _REFUSED.search(text) or not text.strip():
        raise Unreadable(text)
    if any(name.strip() in text for name in _RENAMED.values()):
        raise Unreadable(text)
    text = _LETTERS.sub(_renamed, text)
    return latex_of(text)


def _nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _renamed(match: re.Match[str]) -> str:
    is_function = match[0] == "\\Gamma" and _IS_CALL.match(match.string, match.end())
    return match[0] if is_function else _RENAMED.get(match[0], match[0])


def equal(gold: str, given: str) -> bool:
    """Whether two expressions are the same.

    A decimal equals a value whose own expansion never ends where it is that value rounded (`exact.is_rounding`).

    Raises:
        Unreadable: one is none; its argument is the text.
    """
    first, first_decimal = expression(gold)
    second, second_decimal = expression(given)
    return same_values(first, second, first_decimal, second_decimal)


def same_values(first: Any, second: Any, first_decimal: bool = False, second_decimal: bool = False) -> bool:
    from sympy import MatrixBase, MatrixExpr

    if first == second:
        return True
    matrices = [isinstance(side, MatrixBase | MatrixExpr) for side in (first, second)]
    if any(matrices):
        if not all(matrices) or first.shape != second.shape:
            return False
        pairs = zip(first.as_explicit(), second.as_explicit(), strict=True)
        return all(same_values(a, b, first_decimal, second_decimal) for a, b in pairs)
    if first.free_symbols or second.free_symbols:
        return _same_function(first, second)
    if not (first.is_finite is not False and second.is_finite is not False):
        return False
    if _vanishes(first, second):
        return True
    if first_decimal == second_decimal:
        return False
    exact, shown = (second, first) if first_decimal else (first, second)
    return all(_is_shown(a, b) for a, b in zip(exact.as_real_imag(), shown.as_real_imag(), strict=True))


def _is_shown(exact: Any, shown: Any) -> bool:
    return shown.is_Rational and is_rounding(
        _fraction(shown), _fraction(exact), endless=None if exact.is_Rational else True
    )


def _fraction(value: Any) -> Fraction:
    from sympy import Rational

    if not value.is_Rational:
        value = Rational(str(value.evalf(DIGITS, maxn=LIMIT_OF_DIGITS)))
    return Fraction(int(value.p), int(value.q))


def _vanishes(first: Any, second: Any) -> bool:
    """Whether two constants are the same: their difference has no digit within the limit of precision."""
    difference = first - second
    if difference.is_Rational:
        return bool(difference == 0)
    return _is_zero(difference.evalf(10, maxn=LIMIT_OF_DIGITS))


def _is_zero(number: Any) -> bool:
    """Whether an evaluated difference has no significant digit."""
    parts = number.as_real_imag()
    if not all(part.is_Number for part in parts):
        raise Unreadable(str(number))
    return all(part == 0 or (part.is_Float and part._prec <= 1) for part in parts)


def _same_function(first: Any, second: Any) -> bool:
    """Whether expressions in symbols agree wherever both have a real meaning."""
    from sympy import expand

    symbols = sorted(first.free_symbols | second.free_symbols, key=lambda symbol: symbol.name)
    difference = first - second
    if difference == 0 or (difference.is_polynomial(*symbols) and expand(difference) == 0):
        return True
    tried = 0
    for number in range(POINTS):
        point = point_of(symbols, number)
        if number % 2 and not (_is_real_at(first, point) and _is_real_at(second, point)):
            continue
        values = [side.evalf(DIGITS, subs=point, maxn=LIMIT_OF_DIGITS) for side in (first, second)]
        if not all(part.is_Float or part.is_Integer for value in values for part in value.as_real_imag()):
            continue
        scale = max(abs(value) for value in values)
        if abs(values[0] - values[1]) > scale * 10 ** (10 - DIGITS):
            return False
        tried += 1
    if tried < 2:
        from sympy import simplify

        return bool(simplify(difference) == 0)
    return True


def point_of(symbols: Iterable[Any], number: int) -> dict[Any, Any]:
    """Values of symbols that their names decide: positive at even points, of either sign at odd ones."""
    from sympy import Rational

    point = {}
    for symbol in symbols:
        seed = zlib.crc32(f"{symbol.name} {number}".encode())
        value = Rational(seed % 99991 + 30011, 40009)
        point[symbol] = -value if number % 2 and seed >> 20 & 1 else value
    return point


def _is_real_at(side: Any, point: dict[Any, Any]) -> bool:
    """Whether no root or logarithm of a negative number is taken at a point."""
    from sympy import Pow, log, preorder_traversal

    for part in preorder_traversal(side):
        inside = None
        if isinstance(part, Pow) and not part.exp.is_Integer:
            inside = part.base
        elif isinstance(part, log):
            inside = part.args[0]
        if inside is not None and not inside.evalf(15, subs=point).is_positive:
            return False
    return True


def value(text: str) -> tuple[float, float] | None:
    """Real and imaginary part of an expression, its symbols at points that their names decide; None for the rest."""
    import cmath

    try:
        found, _ = expression(text)
        point = {symbol: 1 + zlib.crc32(symbol.name.encode()) / 2**32 for symbol in found.free_symbols}
        number = complex(found.evalf(subs=point))
    except (Unreadable, TypeError, AttributeError):
        return None
    return (number.real, number.imag) if cmath.isfinite(number) else None


def read_all(form: Form) -> None:
    """Reads every expression in a form.

    Raises:
        Unreadable: one is none.
    """
    if isinstance(form, Quantity):
        expression(form.text)
    elif isinstance(form, Several):
        for item in form.items:
            read_all(item)
    elif isinstance(form, Relation):
        for side in form.sides:
            read_all(side)


def is_number(text: str) -> bool:
    """Whether a text is an expression without symbols."""
    try:
        return not expression(text)[0].free_symbols
    except Unreadable:
        return False


def near(first: str, second: str) -> bool:
    """Whether two numbers lie within five percent: what an answer calls approximately equal."""
    one, two = (expression(text)[0] for text in (first, second))
    if one.free_symbols or two.free_symbols:
        return True
    return bool(abs(complex(one) - complex(two)) <= 0.05 * abs(complex(one)))
