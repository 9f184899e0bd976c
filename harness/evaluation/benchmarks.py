"""Benchmarks by name: those that the field reports, and the ones that need no hub."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import ValidationError

from harness.data.files import is_known, stem_of
from harness.data.stored import check_file
from harness.spec.data import ChampSource, FileSource, HubSource, ReasoningGymSource, SourceSpec, SumsSource
from harness.spec.errors import SpecError
from harness.spec.evaluation import BenchmarkSpec
from harness.spec.source import nearest

DEFAULT_QUESTIONS = 100
"""Questions of a source without an end, where none are asked for."""


def _hub(dataset: str, split: str, config: str | None = None) -> HubSource:
    fields = {"source": "hub", "dataset": dataset, "split": split}
    return HubSource.model_validate(fields if config is None else {**fields, "config": config})


REGISTRY: dict[str, tuple[SourceSpec, int | None]] = {
    "aime24": (_hub("HuggingFaceH4/aime_2024", "train"), 30),
    "aime25": (_hub("yentinglin/aime_2025", "train", config="default"), 30),
    "math500": (_hub("HuggingFaceH4/MATH-500", "test"), 500),
    "amc23": (_hub("knoveleng/AMC-23", "train"), 40),
    "minerva": (_hub("math-ai/minervamath", "test"), 272),
    "olympiadbench": (_hub("knoveleng/OlympiadBench", "train"), 675),
    "gsm8k": (_hub("openai/gsm8k", "test"), 1319),
    "champ": (ChampSource(source="champ"), 270),
}
"""Source and published number of questions by name. The hub ids are those of lighteval (AIME, MATH-500) and of
Open-RS (AMC23, OlympiadBench); Minerva's is the copy with final answers rather than solutions."""

_SUMS = re.compile(r"sums(?:[:-](\d+)x(\d+))?")
_GYM = re.compile(r"gym:([A-Za-z0-9_]+)")


def benchmark(text: str, *, questions: int | None = None, seed: int = 0) -> BenchmarkSpec:
    """The benchmark that `text` names.

    One of the registry (`math500`), `sums` or `sums:TERMSxDIGITS`, `gym:FAMILY` of reasoning-gym, a JSON, CSV or
    Parquet file with question and answer in columns of the usual names, or `NAME=FILE` for a local copy under
    a name of one's own. `@N` after any of them takes the first N questions.

    Args:
        text: as above.
        questions: how many questions where `text` does not say.
        seed: of a generated source.

    Raises:
        SpecError: no benchmark has that name, or it or a number in it is out of range.
    """
    name, _, count = text.rpartition("@") if re.search(r"@\d+$", text) else (text, "", "")
    asked = int(count) if count else questions
    if asked is not None and asked < 1:
        raise SpecError(f"benchmark {text!r}: asks for {asked} questions", hint="ask for at least one")
    try:
        source, label, endless = _source(name)
        number = asked or (DEFAULT_QUESTIONS if endless else None)
        return BenchmarkSpec(name=label, source=source, questions=number, seed=seed)
    except ValidationError as error:
        first = error.errors()[0]
        raise SpecError(f"benchmark {text!r}: {first['msg']}, got {first['input']!r}") from None


def _source(name: str) -> tuple[SourceSpec, str, bool]:
    """Source, label, and whether it has no end."""
    if name in REGISTRY:
        return REGISTRY[name][0], name, False
    if match := _SUMS.fullmatch(name):
        sums = SumsSource(source="sums")
        if match[1]:
            sums = SumsSource(source="sums", terms=(int(match[1]),), digits=(int(match[2]),))
        return sums, name.replace(":", "-"), True
    if match := _GYM.fullmatch(name):
        return ReasoningGymSource(source="reasoning_gym", family=match[1]), f"gym-{match[1]}", True
    if is_known(Path(name)):
        label, equals, path = name.partition("=")
        if not equals or "/" in label or Path(name).is_file():
            path = name
            label = re.sub(r"[^A-Za-z0-9._-]", "-", stem_of(Path(path))).lstrip("._-") or "file"
        return _file(path), label, False
    known = [*REGISTRY, "sums", "sums:2x2", "gym:FAMILY", "FILE.jsonl"]
    raise SpecError(f"no benchmark {name!r}", hint=nearest(name, known))


def _file(path: str) -> FileSource:
    columns = check_file(FileSource(source="file", path=path))
    # By name: evaluations on file that were made of a column `problem` keep their identity.
    return FileSource(source="file", path=path, question=columns.question, answer=columns.answer)
