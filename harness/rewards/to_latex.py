"""Mathematics in plain text, `sqrt(2)*C(n, 4)/2^(n-1)`, as the LaTeX that the algebra system reads."""

from __future__ import annotations

import re

from harness.rewards.exact import as_sum, normalised

_SYMBOLS = {
    "×": "\\cdot ",
    "·": "\\cdot ",
    "÷": "/",
    "−": "-",
    "–": "-",
    "±": "\\pm ",
    "≤": "\\leq ",
    "≥": "\\geq ",
    "≠": "\\neq ",
    "∞": "\\infty ",
    "π": "\\pi ",
    "√": "\\sqrt ",
    "²": "^{2}",
    "³": "^{3}",
}
_CALLS = {
    "sqrt": ("\\sqrt{", "}"),
    "floor": ("{\\lfloor ", "\\rfloor}"),
    "ceil": ("{\\lceil ", "\\rceil}"),
}
_CALL = re.compile(r"(?<![\\A-Za-z])(sqrt|floor|ceil|C)\s*\(|([\^_])\s*\(")
_NAMES = re.compile(r"(?<![\\A-Za-z])(sin|cos|tan|log|ln|exp|pi|sum|gcd|lcm)(?![A-Za-z])")
_LISTED = re.compile(r"\s+(and|or)\s+")
_TIMES = re.compile(r"(?<![\w.^{_\\])(\d+(?:\.\d+)?)\s*(\\left\s*)?\(")
MAX_DEPTH = 50
"""Nesting beyond this is left as it stands."""


def latex_of(text: str) -> str:
    """LaTeX for an answer that may be plain text; LaTeX passes through."""
    text = text.strip()
    if "\\" not in text:
        text = as_sum(text)
        for symbol, latex in _SYMBOLS.items():
            text = text.replace(symbol, latex)
        text = _LISTED.sub(r" \\text{ \1 } ", text.replace("**", "^"))
        text = _NAMES.sub(r"\\\1 ", _converted(text, 0)).replace("*", "\\cdot ")
    elif text.startswith(("$", "\\(", "\\[")):
        text = normalised(text)
    # Two numbers side by side are a mixed number to the algebra system: 2(1/3) would be read as 7/3.
    text = _TIMES.sub(r"\1 \\cdot \2(", text)
    return text.strip().rstrip(".")


def _converted(text: str, depth: int) -> str:
    """Calls, powers and indices in parentheses become braces, from the outside in."""
    parts, position = [], 0
    while depth < MAX_DEPTH and (match := _CALL.search(text, position)):
        end = _closing(text, match.end())
        if end is None:
            break
        inside = _converted(text[match.end() : end], depth + 1)
        parts += [text[position : match.start()], _replacement(match, inside)]
        position = end + 1
    return "".join(parts) + text[position:]


def _replacement(match: re.Match[str], inside: str) -> str:
    if match[2]:
        return f"{match[2]}{{{inside}}}"
    if match[1] == "C":
        upper, comma, lower = inside.partition(",")
        return f"\\binom{{{upper.strip()}}}{{{lower.strip()}}}" if comma else f"C({inside})"
    opening, closing = _CALLS[match[1]]
    return f"{opening}{inside}{closing}"


def _closing(text: str, start: int) -> int | None:
    depth = 1
    for position in range(start, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if depth == 0:
            return position
    return None
