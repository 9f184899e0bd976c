"""One door to every source of questions: load it, check it without loading, and say what it holds."""

from __future__ import annotations

from harness.data import champ, generated, stored
from harness.data.errors import SourceNotFound
from harness.data.generated import Split
from harness.data.problem import Problem
from harness.data.seeding import seeded_rng
from harness.spec.data import ChampSource, FileSource, HubSource, ReasoningGymSource, SourceSpec, SumsSource
from harness.spec.source import nearest

__all__ = ["SourceNotFound", "Split", "check_source", "load_source", "source_fingerprint"]


def load_source(spec: SourceSpec, *, split: Split, count: int | None, seed: int) -> list[Problem]:
    """Distinct questions of a source, the same for the same arguments; fewer than `count` where there are fewer.

    Generated sources draw by `seed` from the part of their questions that belongs to `split`. Stored sources
    have one list, whichever the split: training takes a seeded sample of it, a test its first questions in order.

    Args:
        spec: the source.
        split: training questions or held-out ones.
        count: how many; None for all.
        seed: seed of the draw.

    Raises:
        SourceNotFound: something the source needs is missing, or it has no end and `count` is None.
    """
    match spec:
        case SumsSource():
            return generated.load_sums(spec, split=split, count=count, seed=seed)
        case ReasoningGymSource():
            return generated.load_reasoning_gym(spec, split=split, count=count, seed=seed)
        case FileSource():
            problems = in_band(stored.load_file(spec), spec)
        case HubSource():
            problems = in_band(stored.load_hub(spec), spec)
        case ChampSource():
            problems = in_band(champ.load_champ(), spec)
    distinct = list({problem.question: problem for problem in reversed(problems)}.values())[::-1]
    if split == "train":
        seeded_rng("stored", seed).shuffle(distinct)
    return distinct[:count]


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
            stored.check_hub(spec)
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
            return stored.hub_fingerprint(spec)
        case ChampSource():
            return champ.champ_fingerprint()
