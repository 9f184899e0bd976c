"""Exact and near duplicates. MinHash finds candidates, their similarity is then computed exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.curation.items import KEEP, Decision, Item
from harness.curation.text import compared, ngrams
from harness.spec.curation import DuplicatesStage

if TYPE_CHECKING:
    from datasketch import MinHash

SEED = 1
"""Of the hash functions."""
MISS_WEIGHT = 0.9
"""How much more a missed duplicate weighs than a candidate too many, in choosing the bands of the index: candidates
are verified, so that a false one costs a moment alone."""


def jaccard(first: set[tuple[str, ...]], second: set[tuple[str, ...]]) -> float:
    """|A ∩ B| / |A ∪ B|; 1 for two empty sets."""
    union = len(first | second)
    return len(first & second) / union if union else 1.0


def signature(shingles: set[tuple[str, ...]], permutations: int) -> MinHash:
    """MinHash of a set of shingles (Broder 1997); the same in every process."""
    from datasketch import MinHash

    made = MinHash(num_perm=permutations, seed=SEED)
    # A set's order differs between processes, the minimum does not.
    made.update_batch([" ".join(shingle).encode() for shingle in shingles])
    return made


def find_duplicates(items: Sequence[Item], spec: DuplicatesStage) -> list[Decision]:
    """Drops items whose words are those of an earlier kept one, or nearly so."""
    from datasketch import MinHashLSH

    near = spec.threshold < 1
    weights = (1 - MISS_WEIGHT, MISS_WEIGHT)
    index = (
        MinHashLSH(threshold=spec.threshold, num_perm=spec.permutations, weights=weights) if near else None
    )
    exact: dict[tuple[str, ...], int] = {}
    shingles: dict[int, set[tuple[str, ...]]] = {}
    decisions = []
    for number, item in enumerate(items):
        text = compared(item.question)
        if text in exact:
            decisions.append(Decision("exact duplicate", f"of {items[exact[text]].id}"))
            continue
        own = ngrams(text, spec.shingle)
        if index is not None:
            made = signature(own, spec.permutations)
            similar = [(jaccard(own, shingles[c]), -c) for c in index.query(made)]
            likeness, earliest = max(similar, default=(0.0, 0))
            if similar and likeness >= spec.threshold:
                decisions.append(
                    Decision("near duplicate", f"of {items[-earliest].id}, similarity {likeness:.3f}")
                )
                continue
            index.insert(number, made)
            shingles[number] = own
        exact[text] = number
        decisions.append(KEEP)
    return decisions
