"""Questions as words, for telling whether two are the same or share a passage."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(
    r"[^\W_]+|[-+*/^=<>±¬|%°(){}\[\]\u2190-\u230b\u27c0-\u2bff]"
    # A factorial or a derivative belongs to a number, a letter or a bracket; after a word they are punctuation.
    r"|(?:(?<=[\d)}\]])|(?<=\b\w))[!']+"
)
_SIGNS = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*", "÷": "/", "⁄": "/", "′": "'"})
_FORMS = (
    (re.compile(r"[¹²³⁰-ⁿ]+"), r"^\g<0>"),
    (re.compile(r"[¼-¾⅐-⅞]"), r" \g<0>"),
    (re.compile(r"\\(?:[()\[\]]|(?:left|right)\b)"), " "),
    (re.compile(r"\{\s*([-+−]?[^\W_]+)\s*\}"), r" \1 "),
)
"""Powers and fractions are not to melt into the number before them; LaTeX's delimiters, and its braces around one
word, are dressing."""


def words(text: str) -> tuple[str, ...]:
    """Words, numbers, operators and brackets of a text: compatibility forms unified, case folded, punctuation gone.

    `Find $12 + x$!` gives `find 12 + x`.
    """
    for form, plain in _FORMS:
        text = form.sub(plain, text)
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).translate(_SIGNS).casefold()))


def compared(text: str) -> tuple[str, ...]:
    """What tells whether two questions are the same: their words, or the text where it has none."""
    return words(text) or (text,)


def ngrams(sequence: tuple[str, ...], n: int) -> set[tuple[str, ...]]:
    """Its runs of n words; the whole of it where it is shorter; none of nothing."""
    if not sequence:
        return set()
    return {sequence[i : i + n] for i in range(max(1, len(sequence) - n + 1))}
