"""Sources that make questions: sums, and the families of reasoning-gym.

A question belongs to the train or the test split by a hash of its text (`harness.models.tiny.sums.held_out`), so
the two splits are disjoint whatever the seeds, and the embedded model's warm start has seen no test question.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import itertools
import math
from collections.abc import Iterator
from typing import Any, Literal

from harness.data.errors import SourceNotFound
from harness.data.problem import Problem
from harness.data.seeding import seeded_rng
from harness.data.stored import is_json
from harness.models.tiny.sums import HELD_OUT_SHARE, draw_sum, held_out, sum_question, sum_terms
from harness.spec.data import ReasoningGymSource, SumsSource
from harness.spec.source import nearest

Split = Literal["train", "test"]

_SEVERAL_RIGHT = frozenset(
    [
        *("boxnet", "countdown", "cryptarithm", "graph_color", "group_anagrams", "intermediate_integration"),
        *("jugs", "kakurasu", "knight_swap", "n_queens", "palindrome_generation", "palindrome_partitioning"),
        *("propositional_logic", "puzzle24", "quantum_lock", "rubiks_cube", "rush_hour", "shortest_path"),
        *("sokoban", "tower_of_hanoi", "word_ladder"),
    ]
)
_FORM_MATTERS = frozenset(
    [
        "prime_factorization",  # the number itself has its factors' value
        # Digits that are letters and times of day: algebra takes them for products and quotients.
        *("base_conversion", "bitwise_arithmetic", "time_intervals"),
    ]
)
UNJUDGED = _SEVERAL_RIGHT | _FORM_MATTERS
"""Families of reasoning-gym whose answers cannot be judged by comparison with the one on file. Their own scoring is
no way out: much of it evaluates what the model wrote as Python."""

SUMS_VERSION = 1
"""Raised when the same `sums` source would give other questions than before."""
ENUMERABLE = 20_000
"""Spaces of sums up to this size are listed in full; larger ones are sampled without repeats."""
FRUITLESS_DRAWS = 2_000
"""Draws in a row that bring no new question, after which a space counts as exhausted."""


def load_sums(spec: SumsSource, *, split: Split, count: int | None, seed: int) -> list[Problem]:
    """Distinct sums: the number of terms and of digits uniform, as long as a combination has questions left.

    Raises:
        SourceNotFound: `count` is None and there are too many questions to list.
    """
    kinds = list(itertools.product(sorted(set(spec.terms)), sorted(set(spec.digits))))
    if count is None:
        if any(_space(*kind) > ENUMERABLE for kind in kinds):
            raise SourceNotFound(
                f"source `sums` with terms {list(spec.terms)} and digits {list(spec.digits)} has no end",
                "say how many `questions` to take",
            )
        count = sum(_space(*kind) for kind in kinds)
    streams = {kind: _sums_of_kind(*kind, split=split, seed=seed) for kind in kinds}
    rng = seeded_rng("sums", split, seed)
    problems: list[Problem] = []
    while streams and len(problems) < count:
        kind = rng.choice(list(streams))
        question = next(streams[kind], None)
        if question is None:
            del streams[kind]
        else:
            problems.append(_sum_problem(question, *kind))
    return problems


def _space(terms: int, digits: int) -> int:
    return 10 ** (digits * terms) - 10 ** ((digits - 1) * terms) * (digits > 1)


def _sums_of_kind(terms: int, digits: int, *, split: Split, seed: int) -> Iterator[str]:
    """Distinct questions of one number of terms and digits, in seeded order, until there are no more."""
    rng = seeded_rng("sums", terms, digits, split, seed)
    if _space(terms, digits) <= ENUMERABLE:
        questions = list(_listed(terms, digits, split))
        rng.shuffle(questions)
        yield from questions
        return
    seen: set[str] = set()
    fruitless = 0
    while fruitless < FRUITLESS_DRAWS:
        question = draw_sum(rng, terms, digits)
        if question in seen or held_out(question) != (split == "test"):
            fruitless += 1
            continue
        seen.add(question)
        fruitless = 0
        yield question


@functools.cache
def _listed(terms: int, digits: int, split: Split) -> tuple[str, ...]:
    """All questions of a space that is small enough, in order; a plan asks for the same ones again and again."""
    every = (
        sum_question(numbers)
        for numbers in itertools.product(range(10**digits), repeat=terms)
        if len(str(max(numbers))) == digits
    )
    return tuple(q for q in every if held_out(q) == (split == "test"))


def _sum_problem(question: str, terms: int, digits: int) -> Problem:
    answer = str(sum(sum_terms(question)))
    return Problem(f"sums:{question}", question, answer, "sums", f"{terms}x{digits}")


def sums_fingerprint() -> str:
    """Changes when the generator's questions do."""
    return f"sums:{SUMS_VERSION}"


def load_reasoning_gym(
    spec: ReasoningGymSource, *, split: Split, count: int | None, seed: int, extra: bool = False
) -> list[Problem]:
    """Distinct questions of a family, with the family's metadata as columns where `extra`.

    Raises:
        SourceNotFound: as `reasoning_gym_dataset`, or `count` is None.
    """
    if count is None:
        raise SourceNotFound(
            f"reasoning-gym family {spec.family!r} has no end", "say how many `questions` to take"
        )
    derived = seeded_rng("reasoning_gym", spec.family, split, seed).randrange(2**31)
    share = HELD_OUT_SHARE if split == "test" else HELD_OUT_SHARE / (HELD_OUT_SHARE - 1)
    size = math.ceil(count * share) + 64
    problems: dict[str, Problem] = {}
    offset = fruitless = 0
    while len(problems) < count and fruitless < FRUITLESS_DRAWS:
        # Items depend on seed + index, so the next batch of items starts at a seed beyond the last one's.
        items = reasoning_gym_dataset(spec, size=size, seed=(derived + offset) % 2**31)
        for index in range(size):
            item = items[index]
            question = str(item["question"])
            if question in problems or held_out(question) != (split == "test"):
                fruitless += 1
                continue
            problems[question] = _gym_problem(spec.family, item, extra=extra)
            fruitless = 0
            if len(problems) == count:
                break
        offset += size
    return list(problems.values())


def reasoning_gym_dataset(spec: ReasoningGymSource, *, size: int, seed: int) -> Any:
    """The family's dataset, with errors that a user can mend.

    Raises:
        SourceNotFound: the package or the family is missing, its answers cannot be judged, or a parameter is
            unknown or out of range.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise SourceNotFound(
            "source `reasoning_gym` needs the package reasoning-gym", "pip install reasoning-gym"
        ) from None
    if spec.family not in DATASETS:
        raise SourceNotFound(
            f"reasoning-gym has no family {spec.family!r}", _short(nearest(spec.family, sorted(DATASETS)))
        )
    if spec.family in UNJUDGED:
        raise SourceNotFound(
            f"reasoning-gym family {spec.family!r} cannot be judged: answers are compared with the one on file, and "
            "here others are right too, or equal ones wrong",
            "take a family with one right answer, such as chain_sum",
        )
    known = [name for name in DATASETS[spec.family][1].__dataclass_fields__ if name not in ("seed", "size")]
    for name in spec.params:
        if name not in known:
            raise SourceNotFound(
                f"reasoning-gym family {spec.family!r} has no parameter {name!r}", nearest(name, known)
            )
    try:
        return reasoning_gym.create_dataset(spec.family, size=size, seed=seed, **spec.params)
    except (AssertionError, ValueError, TypeError) as error:
        raise SourceNotFound(
            f"reasoning-gym family {spec.family!r} rejects {spec.params}: {error or 'invalid parameters'}",
            f"its parameters: {', '.join(known)}",
        ) from None


def _short(hint: str) -> str:
    return hint if len(hint) < 200 else hint[:200].rsplit(",", 1)[0] + ", …"


def _gym_problem(family: str, item: dict[str, Any], *, extra: bool) -> Problem:
    question, metadata = str(item["question"]), item.get("metadata") or {}
    terms, digits = metadata.get("num_terms"), metadata.get("num_digits")
    difficulty = f"{terms}x{digits}" if isinstance(terms, int) and isinstance(digits, int) else ""
    name = f"{family}:{hashlib.sha256(question.encode()).hexdigest()[:16]}"
    columns = {key: value for key, value in metadata.items() if is_json(value)} if extra else {}
    return Problem(name, question, str(item["answer"]), family, difficulty, columns=columns)


def reasoning_gym_fingerprint() -> str:
    """The package's version: the same version generates the same questions.

    Raises:
        SourceNotFound: the package is missing.
    """
    try:
        return f"reasoning-gym:{importlib.metadata.version('reasoning-gym')}"
    except importlib.metadata.PackageNotFoundError:
        raise SourceNotFound(
            "source `reasoning_gym` needs the package reasoning-gym", "pip install reasoning-gym"
        ) from None
