"""Whether an answer is the reference: form against form, down to plain numbers and, below them, expressions.

What is accepted, what is not and why stands in docs/answers.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import product
from typing import Protocol

from harness.rewards.choices import read_choice, same_time
from harness.rewards.exact import agree, as_number, as_words, normalised, scattered, spaced, value_of
from harness.rewards.forms import (
    Based,
    Combined,
    Form,
    Matrix,
    Named,
    Quantity,
    Ratio,
    Relation,
    Several,
    Span,
    Words,
    is_variable,
    letters,
)
from harness.rewards.meanings import meanings, without_clause
from harness.rewards.reading import read
from harness.rewards.spelling import spelled
from harness.rewards.unit_table import PERCENT
from harness.rewards.units import Unit

_DECIMAL = re.compile(r"[+-]?\d{1,300}(?:\.\d{1,300})?", re.ASCII)
"""The commonest answers, which need no reading."""
_SPACED_COMMA = re.compile(r",\s")
"""Where some commas have a space behind them, those without one may group thousands: 1,000, 2,000."""


class NeedsAlgebra(Exception):
    """The verdict takes computer algebra."""


class Algebra(Protocol):
    """What compares expressions: the module `harness.rewards.solutions`."""

    def equal(self, gold: str, given: str) -> bool: ...

    def is_number(self, text: str) -> bool: ...

    def near(self, first: str, second: str) -> bool: ...

    def same_equation(self, gold: Relation, given: Relation) -> bool: ...

    def same_sets(self, gold: Form, given: Form) -> bool: ...


def decide(gold: str, answer: str) -> bool | None:
    """Whether an answer equals the reference, or None where that takes computer algebra."""
    try:
        return same(gold, answer, None)
    except NeedsAlgebra:
        return None


def same(gold: str, answer: str, algebra: Algebra | None) -> bool:
    """Whether an answer equals the reference.

    Args:
        gold: the reference.
        answer: the content of the box.
        algebra: compares expressions.

    Raises:
        NeedsAlgebra: there is no `algebra`, and the verdict takes it.
        algebra.Unreadable: an expression cannot be read; its argument is the expression.
    """
    if _DECIMAL.fullmatch(gold) and _DECIMAL.fullmatch(answer):
        return Fraction(gold) == Fraction(answer)
    if (verdict := _by_choice(gold, answer, algebra)) is not None:
        return verdict
    if scattered(gold) or scattered(answer):
        # Spaces tell the entries apart here.
        return spaced(gold) == spaced(answer)
    gold, answer = without_clause(gold, answer)
    return any(_same_text(*pair, algebra) for pair in product(meanings(gold), meanings(answer)))


def _same_text(gold: str, answer: str, algebra: Algebra | None) -> bool:
    left, right = _squashed(gold), _squashed(answer)
    if left == right:
        return left != ""
    if (verdict := same_time(left, right)) is not None:
        return verdict
    comparison = _Comparison(algebra)
    reference = read(gold, attached=False)
    # In a reference 5m is a product, and then its letter is no unit in the answer either.
    symbols = letters(reference)
    if isinstance(reference, Several) and "," in answer:
        if comparison.same(reference, read(answer, listed=True, symbols=symbols)):
            return True
        if not _SPACED_COMMA.search(answer):
            return False
    return comparison.same(reference, read(answer, symbols=symbols))


def _squashed(text: str) -> str:
    """The text without the spaces that mean nothing: those in words do."""
    text = spelled(text)
    bare = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    return " ".join(bare.split()) if as_words(text) is not None else bare.replace(" ", "")


def _by_choice(gold: str, answer: str, algebra: Algebra | None) -> bool | None:
    """The verdict where the reference is a choice, or the answer names one beside its text; None elsewhere."""
    wanted, chosen = read_choice(gold), read_choice(answer)
    if wanted is None:
        plain = as_number(normalised(gold)) is not None
        return same(gold, chosen.beside, algebra) if plain and chosen is not None and chosen.beside else None
    if chosen is not None:
        if chosen.letter != wanted.letter or not (chosen.beside and wanted.beside):
            return chosen.letter == wanted.letter
        return same(wanted.beside, chosen.beside, algebra)
    if wanted.beside:
        return same(wanted.beside, answer, algebra)
    bare = normalised(answer)
    # Alone, e and i are numbers.
    return bare.upper() == wanted.letter and bare not in ("e", "i")


class _Comparison:
    def __init__(self, algebra: Algebra | None) -> None:
        self._algebra = algebra

    @property
    def algebra(self) -> Algebra:
        if self._algebra is None:
            raise NeedsAlgebra
        return self._algebra

    def same(self, gold: Form, given: Form) -> bool:
        if gold == given:
            return True
        for approximate in (self._approximate_gold, self._approximate):
            if (verdict := approximate(gold, given)) is not None:
                return verdict
        if isinstance(gold, Relation) or isinstance(given, Relation):
            return self._relations(gold, given)
        if isinstance(gold, Words) or isinstance(given, Words):
            return isinstance(gold, Words) and isinstance(given, Words) and gold.text == given.text
        if isinstance(gold, Based) or isinstance(given, Based):
            return False
        if isinstance(gold, Ratio) or isinstance(given, Ratio):
            return self._ratios(gold, given)
        if isinstance(gold, Matrix) and isinstance(given, Matrix):
            shapes = [[len(row) for row in side.rows] for side in (gold, given)]
            cells = [[cell for row in side.rows for cell in row] for side in (gold, given)]
            return shapes[0] == shapes[1] and self._in_order(*cells)
        if isinstance(gold, Quantity) and isinstance(given, Quantity):
            return self._quantities(gold, given)
        if isinstance(gold, Several) and isinstance(given, Several):
            return self._several(gold, given)
        return self._sets(gold, given)

    # Relations

    def _approximate_gold(self, gold: Form, given: Form) -> bool | None:
        if not (isinstance(gold, Relation) and "\\approx" in gold.signs) or isinstance(given, Relation):
            return None
        return any(self.same(side, given) for side in gold.sides if not _variable(side))

    def _approximate(self, gold: Form, given: Form) -> bool | None:
        """Of `\\sqrt2 \\approx 1.414` either side may be the reference; the other must come near it."""
        if not isinstance(given, Relation) or "\\approx" not in given.signs:
            return None
        if isinstance(gold, Relation) and "\\approx" in gold.signs:
            return len(gold.sides) == len(given.sides) and self._in_order(gold.sides, given.sides)
        sides = [side for side in given.sides if not _variable(side)]
        if isinstance(gold, Relation):
            if not (gold.signs == ("=",) and _variable(gold.sides[0]) and gold.sides[0] == given.sides[0]):
                return False
            gold = gold.sides[-1]
        if not any(self.same(gold, side) for side in sides):
            return False
        texts = [side.text for side in sides if isinstance(side, Quantity)]
        return all(self.algebra.near(texts[0], text) for text in texts[1:])

    def _relations(self, gold: Form, given: Form) -> bool:
        if isinstance(gold, Relation) and isinstance(given, Relation):
            return self._two_relations(gold, given)
        if isinstance(given, Relation):
            if set(given.signs) == {"="}:
                return self._last_side(gold, given)
            if given.signs == ("\\in",) and _variable(given.sides[0]):
                return self.same(gold, given.sides[1])
            return self._sets(gold, given)
        assert isinstance(gold, Relation)
        if gold.signs in (("=",), ("\\in",)) and _variable(gold.sides[0]):
            return self.same(gold.sides[1], given)
        if set(gold.signs) == {"="}:
            numbers = all(isinstance(s, Quantity) and self.algebra.is_number(s.text) for s in gold.sides)
            if numbers or _variable(gold.sides[0]):
                return self.same(gold.sides[-1], given)
            return gold.signs == ("=",) and _variable(gold.sides[1]) and self.same(gold.sides[0], given)
        if isinstance(given, Quantity | Words | Based | Ratio | Matrix):
            return False
        return self._sets(gold, given)

    def _last_side(self, gold: Form, given: Relation) -> bool:
        """Of `a + b = 5` the last side counts; numbers before it must be the same, `6 = 5` is no way to say 5."""
        sides = given.sides
        if _variable(sides[-1]) and not _variable(gold):
            sides = sides[::-1]  # 5 = x
        if not self.same(gold, sides[-1]):
            return False
        for side in sides[:-1]:
            if isinstance(side, Quantity) and not _variable(side) and isinstance(sides[-1], Quantity):
                plain = value_of(side.text)
                if plain is None and not self.algebra.is_number(side.text):
                    continue
                if not self._quantities(replace(sides[-1], unit=None), replace(side, unit=None)):
                    return False
        return True

    def _two_relations(self, gold: Relation, given: Relation) -> bool:
        if gold.signs == given.signs and len(gold.sides) == len(given.sides):
            if _variable(gold.sides[0]) and gold.signs in (("=",), ("\\in",)):
                if gold.sides[0] == given.sides[0]:
                    return self.same(gold.sides[1], given.sides[1])
                if _variable(given.sides[0]) and not isinstance(given.sides[1], Quantity):
                    return False
            elif all(not isinstance(side, Quantity) for side in (*gold.sides, *given.sides)):
                return self._in_order(gold.sides, given.sides)
        if set(gold.signs) == {"="} == set(given.signs):
            if len(gold.sides) == len(given.sides) == 2:
                return self.algebra.same_equation(gold, given)
            if _variable(gold.sides[0]):  # x = 2 + 3 = 5
                return gold.sides[0] == given.sides[0] and self.same(gold.sides[-1], given.sides[-1])
            return len(gold.sides) == len(given.sides) and self._in_order(gold.sides, given.sides)
        known = {"<", ">", "\\leq", "\\geq", "\\neq", "=", "\\in"}
        if not set(gold.signs) | set(given.signs) <= known:
            return gold.signs == given.signs and self._in_order(gold.sides, given.sides)
        if len(gold.sides) == len(given.sides) == 2 and "\\in" not in (*gold.signs, *given.signs):
            if self.algebra.same_equation(gold, given):
                return True
            if "=" in (*gold.signs, *given.signs):
                return False
        return self._sets(gold, given)

    def _sets(self, gold: Form, given: Form) -> bool:
        if isinstance(gold, Span) and isinstance(given, Span):
            return gold.left_open == given.left_open and self._in_order(
                (gold.low, gold.high), (given.low, given.high)
            )
        if isinstance(gold, Combined) and isinstance(given, Combined):
            if gold.operator == given.operator and self._in_order(gold.parts, given.parts):
                return True
            return self.algebra.same_sets(gold, given)
        single = [form for form in (gold, given) if isinstance(form, Several) and form.brackets in ("", "{}")]
        if len(single) == 1 and len(single[0].items) == 1 and isinstance(single[0].items[0], Quantity):
            (item,) = single[0].items
            return self.same(item, given) if single[0] is gold else self.same(gold, item)
        plural = (Several, Span, Combined, Named, Relation)
        if not (isinstance(gold, plural) and isinstance(given, plural)):
            return False
        if isinstance(gold, Named) and isinstance(given, Named):
            return gold.name == given.name
        return self.algebra.same_sets(gold, given)

    # Lists

    def _in_order(self, gold: Sequence[Form], given: Sequence[Form]) -> bool:
        return len(gold) == len(given) and all(map(self.same, gold, given))

    def _several(self, gold: Several, given: Several) -> bool:
        loose = ("", "{}")
        if gold.brackets in loose and given.brackets in loose:
            names = {
                item.sides[0] for item in gold.items if isinstance(item, Relation) and item.signs == ("=",)
            }
            bare = not any(isinstance(item, Relation) for item in given.items)
            if gold.dotted or given.dotted or (len(names) > 1 and bare):
                return self._in_order(gold.items, given.items)
            return self._in_any_order(gold, given)
        ordered = {gold.brackets, given.brackets} - {""}
        if ordered in ({"()"}, {"[]"}, {"<>"}, {"()", "<>"}):
            return self._in_order(gold.items, given.items)
        return False

    def _in_any_order(self, gold: Several, given: Several) -> bool:
        first, second = list(gold.items), list(given.items)
        if "{}" in (gold.brackets, given.brackets):
            return all(any(self.same(a, b) for b in second) for a in first) and all(
                any(self.same(a, b) for a in first) for b in second
            )
        for item in first:
            match = next((other for other in second if self.same(item, other)), None)
            if match is None:
                return False
            second.remove(match)
        return not second

    def _ratios(self, gold: Form, given: Form) -> bool:
        if isinstance(gold, Ratio) and isinstance(given, Ratio):
            if len(gold.terms) != len(given.terms):
                return False
            terms = [*gold.terms, *given.terms]
            if not all(isinstance(term, Quantity) for term in terms):
                return self._in_order(gold.terms, given.terms)
            first, second = (
                [t.text for t in side.terms if isinstance(t, Quantity)] for side in (gold, given)
            )
            return all(
                self._equal(f"({a}) \\cdot ({second[0]})", f"({b}) \\cdot ({first[0]})")
                for a, b in zip(first[1:], second[1:], strict=True)
            )
        ratio, other = (gold, given) if isinstance(gold, Ratio) else (given, gold)
        if not isinstance(ratio, Ratio) or not isinstance(other, Quantity) or len(ratio.terms) != 2:
            return False
        if not all(isinstance(term, Quantity) for term in ratio.terms):
            return False
        above, below = (term.text for term in ratio.terms if isinstance(term, Quantity))
        return self._equal(f"\\frac{{{above}}}{{{below}}}", other.text)

    # Numbers

    def _quantities(self, gold: Quantity, given: Quantity) -> bool:
        first, second = gold.unit or Unit(), given.unit or Unit()
        scales = first.scale, second.scale
        if first.bare or second.bare:
            if PERCENT in (first.kind, second.kind) and first.kind != second.kind:
                factor = Fraction(1, 100)
                whole = (
                    (scales[0] * factor, scales[1])
                    if first.kind == PERCENT
                    else (scales[0], scales[1] * factor)
                )
                if self._scaled(gold, given, *whole):
                    return True
            angle = {first.kind, second.kind} & {"degree", "radian"} and "\\pi" in gold.text + given.text
            if angle and self._scaled(_in_radians(gold), _in_radians(given), *scales):
                return True
            return self._scaled(gold, given, *scales)
        if first.nouns and second.nouns and not (first.nouns <= second.nouns or second.nouns <= first.nouns):
            return False
        kinds = {first.kind, second.kind}
        if kinds == {"degree", "radian"}:
            return self._scaled(_in_radians(gold), _in_radians(given), *scales)
        if kinds == {"celsius", "fahrenheit"} or kinds == {"celsius", "K"} or kinds == {"fahrenheit", "K"}:
            return self._equal(_in_kelvin(gold), _in_kelvin(given))
        if "degree" in kinds and kinds & {"celsius", "fahrenheit"}:
            return self._scaled(gold, given, *scales)
        if first.dimensions != second.dimensions and first.dimensions and second.dimensions:
            return False
        if not (first.dimensions and second.dimensions):  # `5 \text{ apples}` and `5 \text{ m}`
            return bool(first.nouns and second.nouns) and self._scaled(gold, given, *scales)
        return self._scaled(gold, given, scales[0] * first.size, scales[1] * second.size)

    def _scaled(self, gold: Quantity, given: Quantity, first: Fraction, second: Fraction) -> bool:
        if first == second:
            return self._equal(gold.text, given.text)
        factor = second / first
        plain = value_of(gold.text), value_of(given.text)
        if plain[0] is not None and plain[1] is not None:
            return agree(plain[0][0], plain[1][0] * factor, plain[0][1], plain[1][1])
        return self._equal(
            gold.text, f"\\frac{{{factor.numerator}}}{{{factor.denominator}}} \\cdot ({given.text})"
        )

    def _equal(self, gold: str, given: str) -> bool:
        if gold == given:
            return True
        first, second = value_of(gold), value_of(given)
        if first is None or second is None:
            return self.algebra.equal(gold, given)
        return agree(first[0], second[0], first[1], second[1])


def _variable(form: Form) -> bool:
    return isinstance(form, Quantity) and form.unit is None and is_variable(form.text)


def _in_radians(quantity: Quantity) -> Quantity:
    if quantity.unit is not None and quantity.unit.kind == "degree":
        return Quantity(f"({quantity.text}) \\cdot \\frac{{\\pi}}{{180}}")
    return Quantity(quantity.text)


def _in_kelvin(quantity: Quantity) -> str:
    kind = quantity.unit.kind if quantity.unit else ""
    if kind == "celsius":
        return f"({quantity.text}) + \\frac{{27315}}{{100}}"
    if kind == "fahrenheit":
        return f"\\frac{{5}}{{9}} \\cdot (({quantity.text}) - 32) + \\frac{{27315}}{{100}}"
    return quantity.text
