"""Training mixes and benchmarks: which questions, from which sources, in which shares."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from harness.data.problem import Problem, content_sha256
from harness.data.seeding import seeded_rng
from harness.data.sources import Loaded, load_source, read_source, usable
from harness.spec.data import DataSpec, SourceSpec
from harness.spec.errors import SpecError
from harness.spec.evaluation import BenchmarkSpec

MANIFEST_VERSION = 1


@dataclass(frozen=True)
class Mix:
    """Training questions, and an account of them.

    Attributes:
        problems: distinct questions in seeded order.
        manifest: JSON-ready: requested and actual size, quota, count and duplicates by source, counts by
            difficulty, and the hash of the content in order.
    """

    problems: list[Problem]
    manifest: dict[str, Any]


def quotas(weights: list[float], size: int) -> list[int]:
    """`size` split in proportion to `weights` by the largest-remainder method; ties go to the earlier weight.

    Raises:
        ValueError: there are no weights or one is not > 0.
    """
    if not weights or any(weight <= 0 for weight in weights):
        raise ValueError(f"`weights` must be > 0, got {weights}")
    exact = [size * weight / math.fsum(weights) for weight in weights]
    counts = [math.floor(share) for share in exact]
    order = sorted(range(len(weights)), key=lambda i: (counts[i] - exact[i], i))
    for index in order[: size - sum(counts)]:
        counts[index] += 1
    return counts


def shares_of(spec: DataSpec) -> list[int]:
    """How many questions each source is to give: its quota, or its share by weight of what the quotas leave."""
    weighted = [source.weight for source in spec.sources if source.quota is None]
    left = spec.size - sum(source.quota or 0 for source in spec.sources)
    rest = iter(quotas(weighted, left) if weighted else [])
    return [next(rest) if source.quota is None else source.quota for source in spec.sources]


def build_mix(spec: DataSpec, *, extra: bool = False) -> Mix:
    """The training questions of a recipe: the same for the same recipe, whatever the run's seed.

    A source with fewer questions than its quota gives all it has; the others are not stretched to fill the gap.
    A question that an earlier source already gave is not taken again.

    Args:
        spec: the recipe's sources.
        extra: keep the questions' other columns too, for reward functions that look at them.

    Raises:
        SourceNotFound: a source isn't there, or holds rows that cannot be used and are not to be dropped.
        SpecError: the sources hold no question at all.
    """
    seen: set[str] = set()
    chosen: list[Problem] = []
    accounts = []
    shares = shares_of(spec)
    for index, (source, quota) in enumerate(zip(spec.sources, shares, strict=True)):
        problems, duplicates, loaded = _fresh(
            source, quota, seen, seeded_rng("mix", spec.seed, index).randrange(2**63), extra=extra
        )
        seen.update(problem.question for problem in problems)
        chosen += problems
        accounts.append(
            {
                **source.model_dump(mode="json"),
                "quota": quota,
                "count": len(problems),
                "duplicates_removed": duplicates,
                **_not_taken(loaded),
                "difficulty": dict(sorted(Counter(problem.difficulty for problem in problems).items())),
            }
        )
    if not chosen:
        raise SpecError("the data sources hold no question", hint="check `data.sources` and `data.size`")
    seeded_rng("mix", spec.seed, "order").shuffle(chosen)
    manifest = {
        "version": MANIFEST_VERSION,
        "seed": spec.seed,
        "requested": spec.size,
        "count": len(chosen),
        "sources": accounts,
        "sha256": content_sha256(chosen),
    }
    return Mix(chosen, manifest)


def _fresh(
    source: SourceSpec, quota: int, seen: set[str], seed: int, *, extra: bool
) -> tuple[list[Problem], int, Loaded]:
    """Up to `quota` questions not in `seen`, how many had to be passed over, and all that was loaded."""
    ask = quota
    while quota:
        loaded = usable(source, read_source(source, split="train", count=ask, seed=seed, extra=extra))
        problems = loaded.problems
        fresh = [problem for problem in problems if problem.question not in seen]
        if len(fresh) >= quota or len(problems) < ask:
            return fresh[:quota], len(problems) - len(fresh), loaded
        ask += max(quota - len(fresh), ask // 4)
    return [], 0, Loaded([])


def _not_taken(loaded: Loaded) -> dict[str, Any]:
    """Of a stored source: the columns it was read from, and its rows that could not be used or repeat others."""
    if loaded.stored is None:
        return {}
    return {
        "read_from": {"question": loaded.stored.columns.question, "answer": loaded.stored.columns.answer},
        "rows": loaded.stored.rows,
        "invalid_rows_dropped": len(loaded.invalid),
        "invalid_rows": loaded.stored.dropped(),
        "repeated_rows": len(loaded.repeats),
    }


def build_benchmark(spec: BenchmarkSpec) -> list[Problem]:
    """The held-out questions of a benchmark, in order.

    Raises:
        SourceNotFound: the source isn't there, or has no end and `questions` is not given.
        SpecError: the source has fewer questions than asked for.
    """
    problems = load_source(spec.source, split="test", count=spec.questions, seed=spec.seed)
    if spec.questions is not None and len(problems) < spec.questions:
        raise SpecError(
            f"benchmark {spec.name!r}: asks for {spec.questions} questions, its source has {len(problems)}",
            hint=f"set `questions: {len(problems)}`, or widen the source" if problems else "widen the source",
        )
    if not problems:
        raise SpecError(
            f"benchmark {spec.name!r}: its source has no held-out question", hint="widen the source"
        )
    return problems
