"""Questions as words, for telling whether two are the same or share a passage."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+|[+\-*/^=<>]")
_MINUS = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*", "÷": "/"})


def words(text: str) -> tuple[str, ...]:
    """Words, numbers and operators of a text: compatibility forms unified, case folded, other punctuation gone.

    `Find $12 + x$!` gives `find 12 + x`.
    """
    plain = unicodedata.normalize("NFKC", text).translate(_MINUS).casefold()
    return tuple(_WORD.findall(plain))


def ngrams(sequence: tuple[str, ...], n: int) -> set[tuple[str, ...]]:
    """Its runs of n words; the whole of it where it is shorter; none of nothing."""
    if not sequence:
        return set()
    return {sequence[i : i + n] for i in range(max(1, len(sequence) - n + 1))}
