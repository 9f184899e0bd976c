"""From sampled tokens to the text that rewards and scoring read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from harness.rollout.engine import Completion


def completion_texts(
    tokenizer: Any, completions: Sequence[Completion], end_ids: Collection[int]
) -> list[str]:
    """The completions as text, without special tokens and without the token that ended them.

    That need not be a special one: `generation_config.json` may name any token.
    """
    rows = [list(c.token_ids) for c in completions]
    for row in rows:
        if row and row[-1] in end_ids:
            row.pop()
    texts: list[str] = tokenizer.batch_decode(rows, skip_special_tokens=True)
    return texts
