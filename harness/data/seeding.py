"""Random generators derived from named parts, the same on every machine and in every process."""

from __future__ import annotations

import hashlib
import random


def seeded_rng(*parts: str | int) -> random.Random:
    """A generator seeded by `parts`: `seeded_rng("order", seed, epoch)`."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))
