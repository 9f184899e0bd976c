"""Equations, inequalities and sets of real numbers compared by sympy, besides expressions (`algebra`)."""

from __future__ import annotations

from typing import Any

from harness.rewards.algebra import (
    DIGITS,
    LIMIT_OF_DIGITS,
    POINTS,
    Unreadable,
    equal,
    expression,
    is_number,
    near,
    point_of,
    same_values,
)
from harness.rewards.forms import Combined, Form, Named, Quantity, Relation, Several, Span

__all__ = ["equal", "is_number", "near", "same_equation", "same_sets"]


def same_equation(gold: Relation, given: Relation) -> bool:
    """Whether two equations or inequalities say the same: their sides' differences are in a fixed ratio."""
    from sympy import solve

    first, second = _difference(gold), _difference(given)
    strict, other = _direction(gold.signs[0]), _direction(given.signs[0])
    if abs(strict) != abs(other) or first.free_symbols != second.free_symbols:
        return False
    ratio = _fixed_ratio(first, second)
    if ratio is not None:
        return ratio != 0 and (strict == 0 or strict == 3 or bool(ratio * strict * other > 0))
    if strict != 0 or not first.free_symbols:
        return False
    symbol = min(first.free_symbols, key=lambda s: s.name)
    roots = [solve(side, symbol) for side in (first, second)]
    return bool(roots[0]) and _same_collections(*roots)


def _same_collections(first: list[Any], second: list[Any]) -> bool:
    rest = list(second)
    for item in first:
        match = next((other for other in rest if same_values(item, other)), None)
        if match is None:
            return False
        rest.remove(match)
    return not rest


def _direction(sign: str) -> int:
    return {"=": 0, "<": -1, ">": 1, "\\leq": -2, "\\geq": 2, "\\neq": 3}[sign]


def _difference(relation: Relation) -> Any:
    left, right = (expression(_text(side))[0] for side in relation.sides)
    return left - right


def _fixed_ratio(first: Any, second: Any) -> Any:
    """The ratio of two expressions where it is the same at every point; None where it is not."""
    symbols = sorted(first.free_symbols, key=lambda symbol: symbol.name)
    ratios = []
    for number in range(0, POINTS, 2):
        point = point_of(symbols, number)
        above, below = (side.evalf(DIGITS, subs=point, maxn=LIMIT_OF_DIGITS) for side in (first, second))
        if not below.is_number or below == 0:
            return None
        ratios.append(above / below)
    spread = max(abs(ratio - ratios[0]) for ratio in ratios)
    return ratios[0] if spread <= abs(ratios[0]) * 10 ** (10 - DIGITS) else None


def _text(form: Form) -> str:
    if isinstance(form, Quantity) and (form.unit is None or form.unit.bare):
        return form.text
    raise Unreadable(str(form))


def same_sets(gold: Form, given: Form) -> bool:
    """Whether two forms are the same set of real numbers: intervals, unions, inequalities in one variable.

    Raises:
        Unreadable: one is no such set.
    """
    names = [_variable(form) for form in (gold, given)]
    if all(names) and names[0] != names[1]:
        return False
    first, second = _as_set(gold), _as_set(given)
    if first == second:
        return True
    return bool(first.symmetric_difference(second).is_empty)


def _variable(form: Form) -> str:
    if isinstance(form, Relation):
        names = {
            s.name
            for side in form.sides
            if isinstance(side, Quantity)
            for s in expression(side.text)[0].free_symbols
        }
        return min(names, default="")
    if isinstance(form, Combined):
        return max(map(_variable, form.parts))
    return ""


def _as_set(form: Form) -> Any:
    from sympy import Complement, FiniteSet, Intersection, Interval, S, Union

    if isinstance(form, Named):
        names = {"empty": S.EmptySet, "reals": S.Reals, "integers": S.Integers, "rationals": S.Rationals}
        return {**names, "naturals": S.Naturals, "complexes": S.Complexes}[form.name]
    if isinstance(form, Span):
        low, high = (expression(_text(end))[0] for end in (form.low, form.high))
        return Interval(low, high, form.left_open, not form.left_open)
    if isinstance(form, Combined):
        one, two = map(_as_set, form.parts)
        if form.operator == "\\cap":
            common = Intersection(one, two)
            # "x < 1 and x > 3" is how some write a union.
            return (
                Union(one, two)
                if common is S.EmptySet and all(isinstance(p, Relation) for p in form.parts)
                else common
            )
        return Union(one, two) if form.operator == "\\cup" else Complement(one, two)
    if isinstance(form, Relation):
        return _solutions(form)
    if isinstance(form, Several):
        if form.brackets in ("()", "[]") and len(form.items) == 2:
            low, high = (expression(_text(end))[0] for end in form.items)
            opened = form.brackets == "()"
            return Interval(low, high, opened, opened)
        if form.items and all(isinstance(item, Relation) for item in form.items):
            return Union(*map(_as_set, form.items))
        if form.brackets in ("", "{}"):
            return FiniteSet(*(expression(_text(item))[0] for item in form.items))
    raise Unreadable(str(form))


def _solutions(relation: Relation) -> Any:
    from sympy import Complement, Eq, Ge, Gt, Intersection, Le, Lt, S, solve_univariate_inequality, solveset

    if relation.signs == ("\\in",):
        return _as_set(relation.sides[1])
    kinds = {"<": Lt, ">": Gt, "\\leq": Le, "\\geq": Ge}
    sides = [expression(_text(side))[0] for side in relation.sides]
    symbols = set().union(*(side.free_symbols for side in sides))
    if len(symbols) != 1:
        raise Unreadable(str(relation))
    (symbol,) = symbols
    found = []
    for left, sign, right in zip(sides, relation.signs, sides[1:], strict=False):
        if sign in ("=", "\\neq"):
            roots = solveset(Eq(left, right), symbol, S.Reals)
            found.append(roots if sign == "=" else Complement(S.Reals, roots))
        elif sign in kinds:
            found.append(solve_univariate_inequality(kinds[sign](left, right), symbol, relational=False))
        else:
            raise Unreadable(str(relation))
    return Intersection(*found)
