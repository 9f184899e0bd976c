"""Answers that have the right value because they leave the question's own work to be done.

To computer algebra `7 - 8` is −1, whatever was asked. A policy that is rewarded for it learns to copy the question:
its accuracy rises to 100 % without a sum having been added.
"""

from __future__ import annotations

import re
from fractions import Fraction

from harness.rewards.exact import normalised, plain_number

_OPERATOR = r"(?:[-+*/×·÷]|\\(?:cdot|times|div)(?![A-Za-z]))"
_OPERATION = re.compile(rf"[\w)}}\]!%]{_OPERATOR}\\?[\w({{\[+-]|\)\(|\\[dt]?frac|\\sqrt")
"""Work to be done, in an answer without spaces."""
_NUMBER = re.compile(r"(?<![\w)}\]!%])-?\d+(?:\.\d+)?|\d+(?:\.\d+)?")
"""A number; with its sign where that is no minus between two terms."""
_QUOTIENT = re.compile(r"[+-]?(?:(\d+)/(\d+)|\\frac(?:\{[+-]?(\d+)\}\{(\d+)\}|(\d)(\d)))", re.ASCII)


def undone(question: str, gold: str, answer: str) -> bool:
    """Whether an answer of the reference's value leaves to be done what the question asks for.

    So it is where the answer has an operation left and stands in the question as it is; or where the reference is a
    number, and the answer an operation on numbers of the question of which none is that number. A quotient of whole
    numbers is an operation unless it is in lowest terms. A reference in the same words is always met.

    Args:
        question: without the prompt around it.
        gold: the reference answer.
        answer: a final answer that equals it.
    """
    mine = normalised(answer)
    if mine == normalised(gold) or not _OPERATION.search(mine) or _final(mine):
        return False
    asked = normalised(question)
    if mine.strip("=()") in asked:
        return True
    value = plain_number(gold)
    if value is None:
        return False
    numbers = _numbers(mine)
    return value not in numbers and bool(numbers & _numbers(asked))


def _final(normal: str) -> bool:
    """Whether a plain number is written as one: not 6/3, nor 2/4."""
    if match := _QUOTIENT.fullmatch(normal):
        above, below = (int(digits) for digits in match.groups() if digits is not None)
        return below > 1 and Fraction(above, below).denominator == below
    return plain_number(normal) is not None


def _numbers(normal: str) -> set[Fraction]:
    return {Fraction(number) for number in _NUMBER.findall(normal)}
