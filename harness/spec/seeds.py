"""Every random draw comes from a run's seed through here, without state: resuming needs no generator."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed for the draw that `parts` name, such as `(run_seed, "rollout", step, prompt, sample)`."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
