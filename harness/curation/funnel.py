"""The funnel: stages in order, each on file as soon as it is done, so that a killed curation goes on where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from harness.curation.items import (
    KEEP,
    Decision,
    Item,
    applied,
    content_sha256,
    decision_lines,
    item_lines,
    read_decisions,
    read_items,
    write_lines,
)
from harness.data.mix import build_benchmark
from harness.data.sources import Loaded, read_source, source_fingerprint
from harness.evaluation.benchmarks import benchmark
from harness.models.catalog import resolve_model
from harness.rewards.answers import AnswerChecker
from harness.spec.curation import (
    POOL_STAGES,
    AnswersStage,
    CurationRecipe,
    DecontaminateStage,
    DifficultyStage,
    DuplicatesStage,
    JudgeStage,
    QuotaStage,
    RulesStage,
    StageSpec,
)
from harness.spec.evaluation import BenchmarkSpec
from harness.store.atomic import make_folder, read_json
from harness.store.errors import StoreError
from harness.store.records.form import JsonObject
from harness.store.schema import load, write_record

VERSION = 2
"""Raised when a stage would decide otherwise than before from the same input and settings."""

T = TypeVar("T")
Log = Callable[[str], None]

INVALID, REPEATED = POOL_STAGES
"""Stages before those of the recipe: rows that cannot be used, and rows whose question an earlier row has."""


@dataclass(frozen=True)
class StageResult:
    """What a stage did.

    Attributes:
        name: its name in tables.
        settings: its settings, resolved, with the fingerprints of what they name.
        identity: hash of settings and input.
        entered: the items that came in.
        decisions: one for each.
    """

    name: str
    settings: JsonObject
    identity: str
    entered: list[Item]
    decisions: list[Decision]

    @property
    def left(self) -> list[Item]:
        """The items that went on, with the stage's changes."""
        return [applied(i, d) for i, d in zip(self.entered, self.decisions) if d.keep]


@dataclass(frozen=True)
class Funnel:
    """A finished curation.

    Attributes:
        recipe: its recipe.
        sources: settings, fingerprint and count of each source.
        pool: the candidates, and every row of the sources that can be none.
        stages: what each stage did, in order; the first two are `POOL_STAGES`.
    """

    recipe: CurationRecipe
    sources: list[JsonObject]
    pool: list[Item]
    stages: list[StageResult]

    @property
    def dataset(self) -> list[Item]:
        """What is left at the end."""
        return self.stages[-1].left

    def rejected(self) -> list[JsonObject]:
        """Every item that was dropped, in the order of the pool within each stage, with the reason."""
        return [
            {**dataclasses.asdict(applied(i, d)), "stage": s.name, "reason": d.reason, "detail": d.detail}
            for s in self.stages
            for i, d in zip(s.entered, s.decisions)
            if not d.keep
        ]


def run_funnel(recipe: CurationRecipe, out: Path, log: Log) -> Funnel:
    """Runs the stages that are not on file under `out/stages`; takes the others from there.

    A stage is done again where its settings, its input, a model or a benchmark is not what it was.

    Raises:
        SpecError: a source, benchmark or model isn't there.
    """
    folder = out / "stages"
    make_folder(folder)
    sources, pool, untaken = _pool(recipe, folder, log)
    stages: list[StageResult] = []
    items = pool
    for name in POOL_STAGES:
        stages.append(_pool_stage(name, items, untaken))
        items = stages[-1].left
    with AnswerChecker() as checker:
        for number, (spec, name) in enumerate(zip(recipe.stages, recipe.stage_names()), 1):
            stem = folder / f"{number:02d}-{name}"
            result = _stage(spec, name, items, stem, checker, log)
            stages.append(result)
            items = result.left
            log(f"{name}: {len(items):,} of {len(result.entered):,} kept")
    return Funnel(recipe, sources, pool, stages)


_Untaken = dict[str, dict[str, Decision]]
"""By stage, what is decided about items of the pool, by id."""


def _pool(recipe: CurationRecipe, folder: Path, log: Log) -> tuple[list[JsonObject], list[Item], _Untaken]:
    described = [
        {**s.model_dump(mode="json"), "fingerprint": source_fingerprint(s.source)} for s in recipe.sources
    ]
    identity = _identity({"pool": described, "seed": recipe.seed})
    path, mark = folder / "00-pool.jsonl", folder / "00-pool.json"
    if (known := _known(mark, identity)) is not None:
        items = _sound(read_items, path)
        if items is not None and content_sha256(items) == known["sha256"]:
            untaken = {
                stage: {id_: Decision(*decision) for id_, decision in decisions.items()}
                for stage, decisions in known["untaken"].items()
            }
            return known["sources"], items, untaken
    items, untaken = [], {name: {} for name in POOL_STAGES}
    for spec, row in zip(recipe.sources, described, strict=True):
        loaded = read_source(spec.source, split="train", count=spec.count, seed=recipe.seed)
        row["candidates"] = len(loaded.problems)
        row["invalid_rows"], row["repeated_rows"] = len(loaded.invalid), len(loaded.repeats)
        items += [Item.of(problem) for problem in loaded.problems]
        items += _untaken_items(loaded, untaken)
        log(f"pool: {len(items):,} candidates")
    write_lines(path, item_lines(items))
    decided = {
        stage: {id_: [d.reason, d.detail] for id_, d in decisions.items()}
        for stage, decisions in untaken.items()
    }
    # The mark comes last: while it is there, so are the items.
    known = {
        "identity": identity,
        "sha256": content_sha256(items),
        "sources": described,
        "untaken": decided,
    }
    write_record("output", known, mark)
    return described, items, untaken


def _known(mark: Path, identity: str) -> JsonObject | None:
    """What a stage's mark says; None where the stage is to be done: its mark is damaged, or of other settings."""
    if not mark.exists():
        return None
    known = _sound(partial(load, "output"), mark)
    if known is None:  # an early version's has neither schema nor checksum
        raw = _sound(read_json, mark)
        known = raw if isinstance(raw, dict) and not {"schema", "seal"} & raw.keys() else None
    return known if known is not None and known.get("identity") == identity else None


def _sound(read: Callable[[Path], T], path: Path) -> T | None:
    """What a file of a stage holds; None where it is damaged, and the stage is done again."""
    try:
        return read(path)
    except (StoreError, TypeError, KeyError):
        return None


def _untaken_items(loaded: Loaded, untaken: _Untaken) -> list[Item]:
    """The rows of a source that can be no candidates; what is decided about them is added to `untaken`."""
    items = []
    for problem, twin, answer in loaded.repeats:
        other = "" if problem.answer == answer else f", which has the answer {answer[:200]}"
        untaken[REPEATED][problem.id] = Decision("same question as an earlier row", f"of {twin}{other}")
        items.append(Item.of(problem))
    if loaded.stored is not None:
        for invalid in loaded.invalid:
            untaken[INVALID][invalid.id] = Decision(invalid.reason, loaded.stored.place(invalid))
            items.append(Item(invalid.id, "", "", invalid.id.rpartition(":")[0]))
    return items


def _pool_stage(name: str, items: list[Item], untaken: _Untaken) -> StageResult:
    settings = {"stage": name}
    identity = _identity({"stage": settings, "input": content_sha256(items)})
    return StageResult(name, settings, identity, items, [untaken[name].get(i.id, KEEP) for i in items])


def _stage(
    spec: StageSpec, name: str, items: list[Item], stem: Path, checker: AnswerChecker, log: Log
) -> StageResult:
    settings = _settings(spec)
    identity = _identity({"stage": settings, "input": content_sha256(items)})
    path, mark = stem.with_suffix(".jsonl"), stem.with_suffix(".json")
    if (known := _known(mark, identity)) is not None:
        decisions = _sound(read_decisions, path)
        if (
            decisions is not None
            and len(decisions) == len(items)
            and (_sha(decision_lines(items, decisions)) == known["sha256"])
        ):
            return StageResult(name, settings, identity, items, decisions)
    decisions = _decide(spec, items, stem, checker, lambda done, total: log(f"{name}: {done:,} of {total:,}"))
    lines = decision_lines(items, decisions)
    write_lines(path, lines)
    write_record("output", {"identity": identity, "sha256": _sha(lines)}, mark)
    return StageResult(name, settings, identity, items, decisions)


def _decide(
    spec: StageSpec,
    items: Sequence[Item],
    stem: Path,
    checker: AnswerChecker,
    progress: Callable[[int, int], None],
) -> list[Decision]:
    # Imported where they are used: a curation without a model needs no torch.
    match spec:
        case AnswersStage():
            from harness.curation.answers import by_answers

            return by_answers(items, spec, checker)
        case DuplicatesStage():
            from harness.curation.duplicates import find_duplicates

            return find_duplicates(items, spec)
        case DecontaminateStage():
            from harness.curation.contamination import find_contaminated

            questions = {b.name: [p.question for p in build_benchmark(b)] for b in benchmarks_of(spec)}
            return find_contaminated(items, questions, spec.ngram)
        case RulesStage():
            from harness.curation.rules import by_rules

            return by_rules(items, spec)
        case DifficultyStage():
            from harness.curation.models import by_difficulty

            return by_difficulty(items, spec, checker, _parts(spec, items, stem), progress)
        case JudgeStage():
            from harness.curation.models import by_judge

            return by_judge(items, spec, _parts(spec, items, stem), progress)
        case QuotaStage():
            from harness.curation.quota import by_quotas

            return by_quotas(items, spec)


_BOUNDS = {"name", "lowest", "highest", "never", "always", "bands", "margin", "unclear"}
"""Settings that decide about what was sampled, and do not change the samples."""


def _parts(spec: DifficultyStage | JudgeStage, items: Sequence[Item], stem: Path) -> Path:
    """Folder of a model stage's samples: another bound asks no model again."""
    asked = {key: value for key, value in _settings(spec).items() if key not in _BOUNDS}
    return stem.with_name(f"{stem.name}-{_identity({'asked': asked, 'input': content_sha256(items)})[:12]}")


def benchmarks_of(spec: DecontaminateStage) -> list[BenchmarkSpec]:
    """The benchmarks of a decontamination, names resolved."""
    return [benchmark(b) if isinstance(b, str) else b for b in spec.benchmarks]


def _settings(spec: StageSpec) -> JsonObject:
    """A stage's settings with fingerprints in place of names."""
    settings = spec.model_dump(mode="json")
    if isinstance(spec, DifficultyStage | JudgeStage):
        settings["model_fingerprint"] = resolve_model(spec.model).fingerprint
    if isinstance(spec, DecontaminateStage):
        settings["benchmarks"] = [
            {**b.model_dump(mode="json"), "fingerprint": source_fingerprint(b.source)}
            for b in benchmarks_of(spec)
        ]
    return settings


def _identity(data: JsonObject) -> str:
    return _sha(json.dumps({"version": VERSION, **data}, sort_keys=True))


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
