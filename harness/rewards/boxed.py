"""Finding the final answer in a completion."""

from __future__ import annotations

END_OF_THOUGHT = "</think>"
_OPENINGS = ("\\boxed{", "\\fbox{")


def final_answer(text: str) -> str | None:
    """Content of the last complete `\\boxed{…}`, braces balanced; after the last `</think>` where there is one.

    None where no box is closed. Runs in linear time whatever the text.
    """
    after = text.rpartition(END_OF_THOUGHT)[2]
    end = len(after)
    while (found := max(((after.rfind(o, 0, end), o) for o in _OPENINGS), key=lambda pair: pair[0]))[0] >= 0:
        start, opening = found
        # A box that closes before `end` is complete; scanning stops there, so that no character is read twice.
        if (content := _balanced(after, start + len(opening), end)) is not None:
            return content.strip()
        end = start
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
