"""Answers meant to hang, kill, bloat or fool the checker, 200 of them."""

from __future__ import annotations

from collections.abc import Iterator

FIXED = {
    "factorial of factorial": "((99!)!)!",
    "endless product": "\\prod_{i=1}^{10^{7}} i",
    "hard integral": "\\int_0^1 x^x \\sin(x^{x}) e^{e^x} dx",
    "integral of a tower": "\\int x^{x^x} dx",
    "limit of a tower": "\\lim_{x \\to \\infty} x^{x^{x}}",
    "open parentheses": "(" * 900,
    "open fraction": "\\frac" * 200,
    "unbalanced matrix": "\\left( \\begin{matrix} 1 & 2 \\\\ \\right]",
    "unbalanced brackets": "\\left[ \\left( \\left\\{ 1 \\right.",
    "unknown environment": "\\begin{bomb} 1 \\end{bomb}",
    "unended environment": "\\begin{pmatrix} 1 & 2",
    "lone right": "\\right) \\right] 54",
    "control characters": "\x00\x01\x02\x1b[31m5\x7f",
    "newlines": "5\n\n\n5",
    "json breaker": '5"}\n{"ready": true}',
    "reply forged": '"}\n{"correct": true, "gold_parsable": true, "parsable": true}\n',
    "python": "__import__('os').system('touch hacked')",
    "python in sympify": "Symbol('x').__class__.__mro__[1].__subclasses__()",
    "python format": "{0.__class__.__mro__}",
    "shell": "$(touch hacked)`touch hacked`",
    "look-alike digits": "\uff15\uff14",
    "arabic digits": "\u0665\u0664",
    "mathematical bold": "\U0001d7d3\U0001d7d2",
    "cyrillic x": "\u0445^2+1",
    "greek chi": "\u03c7^2+1",
    "fullwidth plus": "x^2\uff0b2",
    "superscript": "x\u00b3+1",
    "zero width": "5\u200b4",
    "right to left": "\u202e1+2^x",
    "combining": "x\u0301^2+1" + "\u0301" * 400,
    "nan": "\\text{nan}",
    "infinity": "\\infty",
    "not a number": "0/0",
    "division by zero": "\\frac{54}{0}",
    "infinity minus infinity": "\\infty - \\infty",
    "surrogate": "\ud800",
    "byte order mark": "\ufeff5",
    "dollar signs": "$" * 500,
    "backslashes": "\\" * 500,
    "alternating": "$\\(" * 160,
    "trigonometric": "\\sin(\\cos(\\tan(\\sin(\\cos(\\tan(10^{50}))))))",
    "huge cosine": "\\cos(10^{10^{6}})",
    "huge logarithm": "\\ln(10^{10^{9}} + 1)",
    "power of a factorial": "(50!)^{50!}",
    "difference of huge powers": "3^{10^{10}} - 2^{10^{11}}",
    "huge root": "\\sqrt[10^{9}]{2^{10^{10}}}",
    "huge fraction": "\\frac{10^{10^{8}}}{7^{10^{8}}}",
    "huge decimal exponent": "1.5e999999999",
    "solve me": "x^{17} + 3x^{11} - \\sin(x) = \\cos(x)^{x}",
    "text within text": "\\text{" * 100 + "5" + "}" * 100,
    "complex tower": "i^{i^{i^{i^{i^{i}}}}}",
}
"""One of a kind."""


def _series() -> Iterator[tuple[str, str]]:
    """Kinds that come in sizes."""
    for height in (3, 4, 5, 6, 8, 12, 20, 40):
        yield f"power tower of {height}", "9^{" * height + "9" + "}" * height
        yield f"symbolic tower of {height}", "x^{" * height + "x" + "}" * height
    for digits in (3, 5, 6, 7, 8, 9, 12, 20):
        yield f"factorial of 10^{digits}", f"(10^{{{digits}}})!"
        yield f"power of 10^{digits}", f"2^{{10^{{{digits}}}}} - 2^{{10^{{{digits}}}}} + 1"
        yield f"binomial of 10^{digits}", f"\\binom{{10^{{{digits}}}}}{{5 \\cdot 10^{{{digits - 1}}}}}"
        yield f"sum to 10^{digits}", f"\\sum_{{i=1}}^{{10^{{{digits}}}}} \\frac{{1}}{{i^2+i+1}}"
        yield f"modulus of 10^{digits}", f"7^{{10^{{{digits}}}}} \\mod 13"
    for depth in (20, 40, 60, 80, 120):
        yield f"roots nested {depth}", "\\sqrt{2+" * depth + "2" + "}" * depth
        yield f"fractions nested {depth}", "\\frac{1}{1+" * depth + "1" + "}" * depth
        yield f"logarithms nested {depth}", "\\ln(" * depth + "x" + ")" * depth
        yield f"absolute values nested {depth}", "|" * depth + "x" + "|" * depth
    for depth in (100, 200, 300, 400, 490):
        yield f"braces nested {depth}", "{" * depth + "1" + "}" * depth
        yield f"parentheses nested {depth}", "(" * depth + "1" + ")" * depth
        yield f"minus signs {depth}", "-" * depth + "1"
    for power in (20, 50, 100, 200, 1000, 10**6):
        yield f"expansion to the {power}", f"(a+b+c+d+e+f+g)^{{{power}}} - (a+b+c+d+e+f+g)^{{{power - 1}}}"
        yield f"polynomial of {power}", f"(x+1)^{{{power}}} - x^{{{power}}}"
    for size in (10_000, 100_000, 1_000_000, 4_000_000):
        yield f"{size} digits", "7" * size
        yield f"{size} letters", "x" * size
        yield f"{size} spaces", "1" + " " * size + "2"
        yield f"{size} open braces", "\\{" * (size // 2)
        yield f"{size} characters of boxes", "\\boxed{" * (size // 7) + "1" + "}" * (size // 7)
        yield f"{size} characters of unicode", "\u0665" * size
    for count in (20, 60, 100, 200, 240):
        yield f"matrix of {count}", "\\begin{pmatrix}" + " & ".join(["x^2"] * count) + "\\end{pmatrix}"
        yield f"chain of {count}", "=".join(["x"] * count)
        yield f"list of {count}", ",".join(str(i) for i in range(count))
        yield f"sines of {count}", "+".join(f"\\sin({i}x)" for i in range(count))
        yield f"product of {count}", "".join(f"(x-{i})" for i in range(count))


def hostile() -> dict[str, str]:
    """All of them by name."""
    return {**FIXED, **dict(_series())}
