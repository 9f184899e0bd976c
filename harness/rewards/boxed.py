"""Finding the final answer in a completion."""

from __future__ import annotations

import re

END_OF_THOUGHT = "</think>"
_OPENING = re.compile(r"\\(?:boxed|fbox)\{")


def final_answer(text: str) -> str | None:
    """Content of the last complete `\\boxed{…}`, braces balanced; after the last `</think>` where there is one.

    None where no box is closed. Runs in linear time whatever the text.
    """
    after = text.rpartition(END_OF_THOUGHT)[2]
    end = len(after)
    for opening in reversed(list(_OPENING.finditer(after))):
        # What follows `end` was scanned before and closed nothing, so no character is read twice.
        if (content := _balanced(after, opening.end(), end)) is not None:
            return content.strip()
        end = opening.start()
    return None


def _balanced(text: str, start: int, end: int) -> str | None:
    depth, position = 1, start
    while position < end:
        character = text[position]
        if character == "\\":
            position += 2
            continue
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[start:position]
        position += 1
    return None
