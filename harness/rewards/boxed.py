"""Finding the final answer in a completion."""

from __future__ import annotations

import re

END_OF_THOUGHT = "</think>"
MAX_NESTING = 10
"""Boxes in boxes whose braces are taken off."""
MAX_CHARACTERS = 10_000
"""Content of more is no answer, and left as it is."""
_TOKEN = re.compile(
    r"\\(?:boxed|fbox)\s*\{|\\(?:boxed|fbox)(?![A-Za-z{])\s*(?P<unbraced>[^\s{}$]+)?|\\.|[{}]", re.DOTALL
)
_UNBRACED = re.compile(
    r"[+-]?\\(?:frac\{[^{}]*\}\{[^{}]*\}|sqrt\{[^{}]*\}|pi|infty)|[+-]?\d[\d.,/]*|[A-Za-z](?![A-Za-z])"
)
_INNER = re.compile(r"\\(?:boxed|fbox)\s*\{")


def final_answer(text: str) -> str | None:
    """Content of the last box that is closed, after the last `</think>` where there is one; None where there is none.

    A box is `\\boxed{…}` or `\\fbox{…}`, its braces balanced, with or without a space before them; or `\\boxed 7`,
    which holds a number or a letter. A box in a box counts as its content. Of a box that is never closed, as where a
    completion was cut off, boxes within it count. Runs in linear time whatever the text.
    """
    after = text.rpartition(END_OF_THOUGHT)[2]
    opened: list[int | None] = []  # of each open brace, where the content of its box starts
    closed: list[tuple[int, int]] = []  # outermost closed boxes, from left to right
    position = 0
    while match := _TOKEN.search(after, position):
        position = match.end()
        token = match[0]
        if token == "{":
            opened.append(None)
        elif token == "}":
            start = opened.pop() if opened else None
            if start is not None:
                _close(closed, start, match.start())
        elif token.endswith("{") and len(token) > 2:
            opened.append(match.end())
        elif match["unbraced"] is not None:
            position = match.start("unbraced")
            if content := _UNBRACED.match(after, position):
                _close(closed, position, content.end())
    if not closed:
        return None
    start, end = closed[-1]
    return _without_boxes(after[start:end].strip())


def _close(closed: list[tuple[int, int]], start: int, end: int) -> None:
    while closed and closed[-1][0] > start:
        closed.pop()
    closed.append((start, end))


def _without_boxes(content: str) -> str:
    """Content whose inner boxes have become braces, and without braces around the whole."""
    content, count = _INNER.subn("{", content)
    for _ in range(min(count, MAX_NESTING) if len(content) < MAX_CHARACTERS else 0):
        if not content.startswith("{") or _closing(content) != len(content) - 1:
            break
        content = content[1:-1].strip()
    return content


def _closing(text: str) -> int:
    """Where the brace that a text starts with is closed."""
    depth = 0
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        depth += (match[0] == "{") - (match[0] == "}")
        if depth == 0 and match[0] == "}":
            return match.start()
    return -1
