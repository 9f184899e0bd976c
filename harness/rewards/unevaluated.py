"""Answers that have the right value because they leave the question's own work to be done.

To computer algebra `7 - 8` is −1, whatever was asked. A policy that is rewarded for it learns to copy the question:
its accuracy rises to 100 % without a sum having been added.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

from harness.rewards.exact import normalised, plain_number
from harness.rewards.spelling import spelled
from harness.rewards.units import split_unit

_ARITHMETIC = re.compile(r"[\w)}\]!%](?:[-+*/×·÷]|\\(?:cdot|times|div)(?![A-Za-z]))\\?[\w({\[+-]|\)\(")
"""A sum, product or quotient that is left to be worked out, in an answer without spaces."""
_FORM = re.compile(r"\\[dt]?frac|\\sqrt")
"""What may be simplified, and is often left as it is."""
_NUMBER = re.compile(r"(?<![\w)}\]!%])-?\d+(?:\.\d+)?|\d+(?:\.\d+)?")
"""A number; with its sign where that is no minus between two terms."""
_POWER_OF_TEN = re.compile(r"(\d+(?:\.\d+)?)(?:\\times|\\cdot|[×*·])10\^\{?(-?\d{1,3})(?!\d)\}?", re.ASCII)
_QUOTIENT = re.compile(r"[+-]?(?:(\d+)/(\d+)|\\frac(?:\{[+-]?(\d+)\}\{(\d+)\}|(\d)(\d)))", re.ASCII)


def is_unevaluated(question: str, gold: str, answer: str) -> bool:
    """Whether an answer of the reference's value leaves to be done what the question asks for.

    So it is where the answer has an operation left and stands in the question as it is; or where the reference is a
    number, and the answer arithmetic on numbers of which none is that number: copied from elsewhere in the prompt, or
    varied. A quotient stands for a whole number nowhere, for a fraction anywhere but in the question's own terms. A
    reference in the same words is always met.

    Args:
        question: without the prompt around it.
        gold: the reference answer.
        answer: a final answer that equals it.
    """
    # A power of ten and a unit are no work: 3 \times 10^8 m/s.
    mine, theirs = (_without_unit(text) for text in (answer, gold))
    mine = _POWER_OF_TEN.sub(_written_out, mine)
    arithmetic = bool(_ARITHMETIC.search(mine))
    if mine == theirs or not (arithmetic or _FORM.search(mine)):
        return False
    value, quotient = plain_number(theirs), _QUOTIENT.fullmatch(mine)
    if quotient:
        above, below = (int(digits) for digits in quotient.groups() if digits is not None)
        if below > 1 and Fraction(above, below).denominator == below:
            return False  # lowest terms
        if value is not None and value.denominator == 1:
            return True
    elif plain_number(mine) is not None:
        return False
    asked = normalised(question)
    if any(written.strip("=()") in asked for written in (mine, normalised(answer))):
        return True
    numbers = map(Fraction, _NUMBER.findall(mine))
    return value is not None and arithmetic and not quotient and value not in numbers


def _without_unit(text: str) -> str:
    return normalised(split_unit(spelled(text), attached=False)[0])


def _written_out(power: re.Match[str]) -> str:
    return format(Decimal(power[1]).scaleb(int(power[2])), "f")
