"""One door to every source of questions: load it, check it without loading, and say what it holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.data import champ, generated, hub, stored
from harness.data.errors import SourceNotFound, UnusableData
from harness.data.generated import Split
from harness.data.problem import Problem
from harness.data.seeding import seeded_rng
from harness.data.stored import InvalidRow, Stored
from harness.spec.data import ChampSource, FileSource, HubSource, ReasoningGymSource, SourceSpec, SumsSource
from harness.spec.source import nearest

__all__ = [
    "Loaded",
    "SourceNotFound",
    "Split",
    "UnusableData",
    "check_rows",
    "check_source",
    "dropped_rows",
    "load_source",
    "read_source",
    "source_fingerprint",
    "usable",
]


@dataclass(frozen=True)
class Loaded:
    """What was taken of a source, and what was not.

    Attributes:
        problems: distinct questions.
        repeats: rows whose question an earlier row has, each with that row's id and answer.
        stored: everything that a file or hub dataset holds, its rows that cannot be used among them; None for others.
    """

    problems: list[Problem]
    repeats: list[tuple[Problem, str, str]] = field(default_factory=list)
    stored: Stored | None = None

    @property
    def invalid(self) -> list[InvalidRow]:
        """The rows that cannot be used."""
        return [] if self.stored is None else self.stored.invalid


def load_source(
    spec: SourceSpec, *, split: Split, count: int | None, seed: int, extra: bool = False
) -> list[Problem]:
    """Distinct questions of a source, the same for the same arguments; fewer than `count` where there are fewer.

    Generated sources draw by `seed` from the part of their questions that belongs to `split`. Stored sources
    have one list, whichever the split: training takes a seeded sample of it, a test its first questions in order.

    Args:
        spec: the source.
        split: training questions or held-out ones.
        count: how many; None for all.
        seed: seed of the draw.
        extra: also keep what the source says of a question besides, in `Problem.columns`.

    Raises:
        SourceNotFound: something the source needs is missing, or it has no end and `count` is None.
        UnusableData: it cannot be read, lacks a column, or has a row that cannot be used and is not to be dropped.
    """
    return usable(spec, read_source(spec, split=split, count=count, seed=seed, extra=extra)).problems


def usable(spec: SourceSpec, loaded: Loaded) -> Loaded:
    """What was loaded, where none of it is invalid or such rows are to be dropped.

    Raises:
        UnusableData: a row cannot be used and is not to be dropped, or no row can be used.
    """
    if loaded.stored is not None and isinstance(spec, FileSource | HubSource):
        loaded.stored.check_usable(spec)
    return loaded


def read_source(
    spec: SourceSpec, *, split: Split, count: int | None, seed: int, extra: bool = False
) -> Loaded:
    """As `load_source`, with an account of what was not taken: a row that cannot be used is no error.

    Raises:
        SourceNotFound: as `load_source`.
        UnusableData: it cannot be read, or lacks a column.
    """
    whole: Stored | None = None
    match spec:
        case SumsSource():
            return Loaded(generated.load_sums(spec, split=split, count=count, seed=seed))
        case ReasoningGymSource():
            return Loaded(
                generated.load_reasoning_gym(spec, split=split, count=count, seed=seed, extra=extra)
            )
        case FileSource() | HubSource():
            whole = _stored(spec, extra=extra)
            problems = in_band(whole.problems, spec)
        case ChampSource():
            problems = in_band(champ.load_champ(), spec)
    first: dict[str, Problem] = {}
    repeats = []
    for problem in problems:
        if (twin := first.setdefault(problem.question, problem)) is not problem:
            repeats.append((problem, twin.id, twin.answer))
    # A question stands where its last row does, with what its first row says: the order that runs on file have.
    distinct = [first[question] for question in dict.fromkeys(p.question for p in reversed(problems))][::-1]
    if split == "train":
        seeded_rng("stored", seed).shuffle(distinct)
    return Loaded(distinct[:count], repeats, whole)


def _stored(spec: FileSource | HubSource, *, extra: bool = False) -> Stored:
    return (
        stored.load_file(spec, extra=extra)
        if isinstance(spec, FileSource)
        else hub.load_hub(spec, extra=extra)
    )


def check_rows(spec: SourceSpec) -> Stored | None:
    """Reads a file or a hub dataset's local copy in full, so that a row that cannot be used is told before anything
    runs; None for other sources, and for a hub dataset that is yet to be downloaded.

    Raises:
        SourceNotFound: there is no such file or dataset.
        UnusableData: it cannot be read, lacks a column, or has a row that cannot be used and is not to be dropped.
    """
    match spec:
        case FileSource():
            whole = stored.load_file(spec)
        case HubSource():
            if (copy := hub.cached_rows(spec)) is None:
                return None
            whole = copy
        case _:
            return None
    whole.check_usable(spec)
    return whole


def dropped_rows(spec: SourceSpec) -> str | None:
    """How many rows a source drops, why, and where they stand, in a sentence; None where it drops none.

    Raises:
        SourceNotFound: the source isn't there.
    """
    if isinstance(spec, FileSource | HubSource) and spec.drop_invalid:
        return _stored(spec).dropped()
    return None


def in_band(problems: list[Problem], spec: FileSource | HubSource | ChampSource) -> list[Problem]:
    """The problems of the source's difficulty band, in order.

    Raises:
        SourceNotFound: a label that is asked for does not occur, or a difficulty is no number where a range is
            asked for.
    """
    if spec.difficulty is not None:
        labels = {problem.difficulty for problem in problems}
        for label in spec.difficulty:
            if label not in labels:
                raise SourceNotFound(
                    f"source `{spec.source}` has no difficulty {label!r}", nearest(label, sorted(labels)[:20])
                )
        problems = [problem for problem in problems if problem.difficulty in spec.difficulty]
    if isinstance(spec, ChampSource) or spec.difficulty_range is None:
        return problems
    low, high = spec.difficulty_range
    try:
        return [problem for problem in problems if low <= float(problem.difficulty) <= high]
    except ValueError as error:
        raise SourceNotFound(
            f"source `{spec.source}`: `difficulty_range` wants numbers: {error}",
            "give the `difficulty_column` that holds them, or labels in `difficulty`",
        ) from None


def check_source(spec: SourceSpec) -> None:
    """Whether a source is there, without reading it in full and without torch.

    Raises:
        SourceNotFound: a file, package, family, parameter or column is missing, a family cannot be judged, or a hub
            dataset is neither cached nor reachable.
    """
    match spec:
        case SumsSource():
            pass
        case ReasoningGymSource():
            generated.reasoning_gym_dataset(spec, size=1, seed=0)
        case FileSource():
            stored.check_file(spec)
        case HubSource():
            hub.check_hub(spec)
        case ChampSource():
            champ.champ_fingerprint()


def source_fingerprint(spec: SourceSpec) -> str:
    """What a source holds, as text that changes when its questions may: a file's hash, a package's version, a
    hub commit. The source's parameters are not part of it; they are part of the recipe.

    Raises:
        SourceNotFound: the source isn't there.
    """
    match spec:
        case SumsSource():
            return generated.sums_fingerprint()
        case ReasoningGymSource():
            return generated.reasoning_gym_fingerprint()
        case FileSource():
            return stored.file_fingerprint(spec)
        case HubSource():
            return hub.hub_fingerprint(spec)
        case ChampSource():
            return champ.champ_fingerprint()
