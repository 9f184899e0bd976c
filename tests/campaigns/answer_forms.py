"""Reference answers with ways to write them, and with answers that come near and are wrong."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.data.problem import Problem
from harness.rewards.exact import as_number, as_words, normalised
from harness.rewards.to_latex import latex_of


@dataclass(frozen=True)
class Gold:
    """A reference answer.

    Attributes:
        kind: of answer.
        text: as the reference has it.
        right: at least five distinct forms that say the same.
        wrong: at least three that do not.
        times: how many questions have it.
    """

    kind: str
    text: str
    right: list[str]
    wrong: list[str]
    times: int = 1


Golds = Sequence[Gold]


def number_forms(value: int) -> list[str]:
    """Ways to write an integer, the last two for the algebra system."""
    sign, size = ("-", -value) if value < 0 else ("", value)
    return [
        f"{value}.0",
        f"${value}$",
        f"\\text{{{value}}}",
        f"{sign}\\frac{{{3 * size}}}{{3}}",
        f" {sign}{size:,} ".replace(",", "{,}"),
        f"x = {value}",
        f"{value - 7} + 7",
        f"\\frac{{{2 * value}}}{{2}} + 0",
    ]


def number_perturbed(value: int) -> list[str]:
    """Other numbers than `value`."""
    return [str(value + 1), str(-value - 1), f"{value}.5", f"{value} + 10^{{-2}}", f"{value + 1} = {value}"]


def expression_forms(latex: str) -> list[str]:
    """Ways to write an expression."""
    return [
        latex,
        f"\\({latex}\\)",
        f"\\left({latex}\\right)",
        f"0 + \\left({latex}\\right)",
        f"\\frac{{2 \\cdot \\left({latex}\\right)}}{{2}}",
        f"1 \\cdot \\left({latex}\\right)",
    ]


def expression_perturbed(latex: str) -> list[str]:
    """Other expressions than `latex`."""
    return [
        f"\\left({latex}\\right) + 1",
        f"3 \\cdot \\left({latex}\\right) + 2",
        f"-\\left({latex}\\right) - 5",
    ]


def word_forms(text: str) -> list[str]:
    """Ways to write an answer in words."""
    return [
        text,
        f"\\text{{{text}}}",
        f"\\textbf{{{text}}}",
        f"{text}.",
        text.upper(),
        f"\\mathrm{{{text}}}",
    ]


def statement_forms(text: str) -> list[str]:
    """Ways to lay out a list, an equation or an interval."""
    return [
        text,
        f"${text}$",
        f"\\({text}\\)",
        f"\\[{text}\\]",
        text.replace(" ", "").replace(",", ",\\, "),
        f"\\displaystyle {text}",
        f"{text}.",
    ]


def statement_perturbed(text: str) -> list[str]:
    """Lists, equations and intervals with another number, an item less and an item more."""
    *_, last = re.finditer(r"\d+", text)
    other = f"{text[: last.start()]}{int(last[0]) + 1}{text[last.end() :]}"
    return [other, f"{text}, 77", "77", f"77, {text}"]


def champ(problems: Sequence[Problem]) -> list[Gold]:
    """CHAMP's distinct answers."""
    return [_champ(text, times) for text, times in sorted(Counter(p.answer for p in problems).items())]


def _champ(text: str, times: int) -> Gold:
    if as_words(text) is not None:
        return Gold("CHAMP, words", text, word_forms(text), [f"not {text}", "17", "perhaps"], times)
    value = None if ", " in text else as_number(normalised(text))
    if value is not None and value.denominator == 1:
        whole = int(value)
        return Gold("CHAMP, integers", text, number_forms(whole), number_perturbed(whole), times)
    # Lists, equations, intervals, ± and dots: no value that arithmetic can be done on.
    if any(mark in text for mark in ("=", ",", "±", "...", "[")) and not text.startswith("C("):
        return Gold("CHAMP, statements", text, statement_forms(text), statement_perturbed(text), times)
    latex = latex_of(text)
    return Gold("CHAMP, expressions", text, expression_forms(latex), expression_perturbed(latex), times)


def generated(rng: random.Random, *, per_kind: int) -> list[Gold]:
    """References of every kind, in seeded draws."""
    return [make(rng) for make in KINDS for _ in range(per_kind)]


def _integer(rng: random.Random) -> Gold:
    value = rng.randint(-(10 ** rng.randint(1, 7)), 10 ** rng.randint(1, 7))
    return Gold("integers", str(value), number_forms(value), number_perturbed(value))


def _fraction(rng: random.Random) -> Gold:
    below = rng.randint(2, 60)
    above = rng.choice([n for n in range(1, 200) if n % below])
    factor = rng.randint(2, 9)
    right = [
        f"\\frac{{{above}}}{{{below}}}",
        f"\\dfrac{{{factor * above}}}{{{factor * below}}}",
        f"${above}/{below}$",
        f"\\frac{{-{above}}}{{-{below}}}",
        f"{above} \\cdot {below}^{{-1}}",
        f"1 - \\frac{{{below - above}}}{{{below}}}",
    ]
    whole, rest = divmod(above, below)
    if whole:
        right.append(f"{whole}\\frac{{{rest}}}{{{below}}}")
        right.append(f"{whole} {rest}/{below}")
    wrong = [
        f"\\frac{{{above + below}}}{{{below}}}",
        f"\\frac{{{above}}}{{{below + 1}}}",
        f"-{above}/{below}",
    ]
    if above * above != below * below:
        wrong.append(f"\\frac{{{below}}}{{{above}}}")
    return Gold("fractions", f"{above}/{below}", right, wrong)


def _decimal(rng: random.Random) -> Gold:
    places = rng.randint(1, 4)
    digits = rng.randint(1, 10**5) * 10 + rng.randint(1, 9)
    text = f"{digits / 10**places:.{places}f}"
    right = [
        f"{text}0",
        f"${text}$",
        f"\\frac{{{digits}}}{{{10**places}}}",
        f"{digits} \\cdot 10^{{-{places}}}",
        f"x = {text}",
        f"\\text{{{text}}}",
    ]
    wrong = [f"{(digits + 1) / 10**places:.{places}f}", f"-{text}", str(digits), f"{text}1"]
    return Gold("decimals", text, right, wrong)


def _surd(rng: random.Random) -> Gold:
    inside, outside = rng.choice([2, 3, 5, 6, 7, 10, 11, 13, 14, 15]), rng.randint(2, 12)
    text = f"{outside}\\sqrt{{{inside}}}"
    right = [
        f"\\sqrt{{{outside * outside * inside}}}",
        f"\\sqrt{{{inside}}} \\cdot {outside}",
        f"{outside} \\cdot {inside}^{{1/2}}",
        f"\\frac{{{outside * inside}}}{{\\sqrt{{{inside}}}}}",
        f"{outside}\\cdot\\sqrt {inside}" if inside < 10 else f"${text}$",
        f"{outside - 1}\\sqrt{{{inside}}} + \\sqrt{{{inside}}}",
    ]
    wrong = [
        f"{outside + 1}\\sqrt{{{inside}}}",
        f"{inside}\\sqrt{{{outside}}} + 1",
        f"-{text}",
        f"{outside * inside}",
    ]
    return Gold("surds", text, right, wrong)


def _power(rng: random.Random) -> Gold:
    base, exponent = rng.randint(2, 9), rng.randint(3, 9)
    value = base**exponent
    right = [
        f"{base}^{{{exponent}}}",
        str(value),
        f"{base} \\cdot {base}^{{{exponent - 1}}}",
        f"\\frac{{{base}^{{{exponent + 2}}}}}{{{base * base}}}",
        f"({base}^{{{exponent - 1}}}) \\cdot {base}",
        f"{value:,}".replace(",", "{,}"),
    ]
    wrong = [f"{base}^{{{exponent + 1}}}", f"{base + 1}^{{{exponent}}}", f"{base * exponent}", str(value + 1)]
    return Gold("powers", f"{base}^{{{exponent}}}", right, wrong)


def _polynomial(rng: random.Random) -> Gold:
    a, b, c = rng.randint(1, 9), rng.randint(1, 9), rng.randint(2, 5)
    # (cx + a)(x + b) = cx² + (cb + a)x + ab
    text = f"{c}x^2+{c * b + a}x+{a * b}"
    right = [
        f"({c}x+{a})(x+{b})",
        f"(x+{b})({c}x+{a})",
        f"{a * b}+{c * b + a}x+{c}x^{{2}}",
        f"x({c}x+{c * b + a})+{a * b}",
        f"{c}x^2 + {c * b}x + {a}x + {a * b}",
        f"y = {text}",
    ]
    wrong = [
        f"{c}x^2+{c * b + a}x+{a * b + 1}",
        f"{c}x^2-{c * b + a}x+{a * b}",
        f"({c}x+{a})(x-{b})",
        f"{c + 1}x^2+{c * b + a}x+{a * b}",
    ]
    return Gold("polynomials", text, right, wrong)


def _multiple_of_pi(rng: random.Random) -> Gold:
    above, below = rng.randint(1, 30), rng.randint(2, 12)
    text = f"\\frac{{{above}\\pi}}{{{below}}}"
    right = [
        f"\\frac{{{above}}}{{{below}}}\\pi",
        f"{above}\\pi/{below}",
        f"\\pi \\cdot \\frac{{{above}}}{{{below}}}",
        f"\\frac{{{2 * above}\\pi}}{{{2 * below}}}",
        f"\\frac{{{above} \\cdot \\pi}}{{{below}}}",
        f"${text}$",
    ]
    wrong = [
        f"\\frac{{{above + 1}\\pi}}{{{below}}}",
        f"\\frac{{{above}}}{{{below}}}",
        f"\\frac{{{above}\\pi^2}}{{{below}}}",
        f"-{text}",
    ]
    return Gold("multiples of π", text, right, wrong)


def _binomial(rng: random.Random) -> Gold:
    upper, lower = rng.randint(6, 14), rng.randint(2, 4)
    text = f"\\binom{{{upper}}}{{{lower}}}"
    falling = " \\cdot ".join(str(upper - i) for i in range(lower))
    right = [
        text,
        f"C({upper}, {lower})",
        f"\\binom{{{upper}}}{{{upper - lower}}}",
        f"\\frac{{{upper}!}}{{{lower}! \\cdot {upper - lower}!}}",
        f"\\frac{{{falling}}}{{{lower}!}}",
        f"\\dbinom{{{upper}}}{{{lower}}}",
    ]
    wrong = [
        f"\\binom{{{upper + 1}}}{{{lower}}}",
        f"\\frac{{{upper}!}}{{{lower}!}}",
        f"\\binom{{{upper}}}{{{lower}}} + 1",
    ]
    return Gold("binomials", text, right, wrong)


def _logarithm(rng: random.Random) -> Gold:
    a, b = rng.sample(range(2, 12), 2)
    text = f"\\ln {a} + \\ln {b}"
    right = [
        f"\\ln {b} + \\ln {a}",
        f"\\ln({a}) + \\ln({b})",
        f"\\ln({a * b})",
        f"\\ln {a * b}",
        f"2\\ln(\\sqrt{{{a * b}}})",
        f"${text}$",
    ]
    wrong = [f"\\ln({a * b + 1})", f"\\ln({a + b}) + 1", f"-\\ln({a * b})"]
    return Gold("logarithms", text, right, wrong)


def _set(rng: random.Random) -> Gold:
    items = rng.sample(range(-30, 60), rng.randint(2, 4))
    text = ", ".join(map(str, items))
    turned = items[1:] + items[:1]
    right = [
        ", ".join(map(str, turned)),
        ",".join(map(str, items)),
        f"\\{{{text}\\}}",
        f"\\left\\{{{', '.join(map(str, turned))}\\right\\}}",
        f"${text}$",
        " \\text{ and } ".join([", ".join(map(str, items[:-1])), str(items[-1])]),
    ]
    wrong = [
        ", ".join(map(str, items[:-1])) or "0",
        f"{text}, 99",
        ", ".join(map(str, [items[0] + 100, *items[1:]])),
    ]
    return Gold("sets", text, right, wrong)


def _pair(rng: random.Random) -> Gold:
    a, b = rng.sample(range(-20, 40), 2)
    text = f"({a}, {b})"
    right = [
        f"({a},{b})",
        f"\\left({a}, {b}\\right)",
        f"$({a}, {b})$",
        f"(\\frac{{{2 * a}}}{{2}}, {b})",
        f"({a}.0, {b})",
        f"({a},\\, {b})",
    ]
    wrong = [f"({b}, {a})", f"({a}, {b + 1})", f"({a}, {b}, 1)", f"{a + b}"]
    return Gold("pairs", text, right, wrong)


def _interval(rng: random.Random) -> Gold:
    low = rng.randint(-20, 20)
    high = low + rng.randint(1, 30)
    text = f"[{low}, {high})"
    right = [
        f"[{low},{high})",
        f"\\left[{low}, {high}\\right)",
        f"$[{low}, {high})$",
        f"[{low}, \\frac{{{2 * high}}}{{2}})",
        f"[{low}.0, {high})",
        f"[{low},\\; {high})",
    ]
    wrong = [f"[{low}, {high}]", f"({low}, {high})", f"[{low}, {high + 1})", f"[{low - 1}, {high})"]
    return Gold("intervals", text, right, wrong)


def _scientific(rng: random.Random) -> Gold:
    digits, exponent = rng.randint(11, 99), rng.randint(3, 9)
    if digits % 10 == 0:
        digits += 1
    value = digits * 10 ** (exponent - 1)
    mantissa = f"{digits / 10:.1f}"
    text = f"{mantissa} \\times 10^{{{exponent}}}"
    right = [
        f"{mantissa} \\cdot 10^{{{exponent}}}",
        str(value),
        f"{value:,}".replace(",", "{,}"),
        f"{digits} \\times 10^{{{exponent - 1}}}",
        f"${text}$",
        f"10^{{{exponent}}} \\times {mantissa}",
    ]
    wrong = [f"{mantissa} \\times 10^{{{exponent + 1}}}", str(value + 1), mantissa, f"-{value}"]
    return Gold("scientific", text, right, wrong)


def _equation(rng: random.Random) -> Gold:
    value = rng.randint(-99, 99)
    text = f"x={value}"
    right = [
        f"x = {value}",
        str(value),
        f"$x={value}$",
        f"x = {value}.0",
        f"x = \\frac{{{3 * value}}}{{3}}",
        f"({value})",
    ]
    wrong = [f"x={value + 1}", f"x > {value}", f"{value + 1} = {value}", f"x = {value}.5"]
    return Gold("equations", text, right, wrong)


def _trigonometric(rng: random.Random) -> Gold:
    degrees, text, value = rng.choice(
        [
            (30, "\\frac{1}{2}", "0.5"),
            (45, "\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}"),
            (60, "\\frac{\\sqrt{3}}{2}", "\\frac{3}{2\\sqrt{3}}"),
        ]
    )
    scale = rng.randint(2, 40)
    gold = f"{scale} \\cdot {text}"
    right = [
        f"{scale}\\sin(\\frac{{{degrees}\\pi}}{{180}})",
        f"{scale} \\cdot {value}",
        f"{scale}\\cos(\\frac{{{90 - degrees}\\pi}}{{180}})",
        f"\\frac{{{2 * scale}}}{{2}} \\cdot {text}",
        f"${gold}$",
        f"{text} \\cdot {scale}",
    ]
    wrong = [f"{scale + 1} \\cdot {text}", f"-{scale} \\cdot {text}", f"{scale} \\cdot {text} + 1"]
    return Gold("trigonometric", gold, right, wrong)


KINDS: tuple[Callable[[random.Random], Gold], ...] = (
    _integer,
    _fraction,
    _decimal,
    _surd,
    _power,
    _polynomial,
    _multiple_of_pi,
    _binomial,
    _logarithm,
    _set,
    _pair,
    _interval,
    _scientific,
    _equation,
    _trigonometric,
)
"""Fifteen kinds; 200 of each are the campaign."""
