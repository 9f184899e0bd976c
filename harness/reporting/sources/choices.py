"""What the command line says of result files: whose a file is, which filter and which metric to read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.spec.errors import SpecError

RUN_FORM = "--run FILE=NAME[,seed=1][,step=100][,eval_seed=1][,AXIS=LEVEL]"
_NUMBERS = ("seed", "step", "eval_seed")


@dataclass(frozen=True)
class RunChoice:
    """Whose results a file holds; what is None or empty is read from the file.

    Attributes:
        file: a file, the end of its path, or a folder whose files are meant.
        name: of the run.
        seed, step: of the run, and of its checkpoint.
        eval_seed: of the evaluation; several of one checkpoint are pooled, as further samples of its questions.
        levels: by axis.
    """

    file: str
    name: str = ""
    seed: int | None = None
    step: int | None = None
    eval_seed: int | None = None
    levels: Mapping[str, str] = field(default_factory=dict)

    def means(self, file: Path) -> bool:
        """Whether `file` is the one, or is in the folder."""
        own, other = Path(self.file), file.resolve()
        if own.exists():
            return other == own.resolve() or own.resolve() in other.parents
        parts = [p for p in own.parts if p not in (".", "..")]
        return bool(parts) and list(other.parts[-len(parts) :]) == parts


@dataclass(frozen=True)
class Choices:
    """Choices on how to read JSON results.

    Attributes:
        filters, metrics: as given, each NAME or TASK=NAME.
        runs: whose a file is.
    """

    filters: Sequence[str] = ()
    metrics: Sequence[str] = ()
    runs: Sequence[RunChoice] = ()

    def __bool__(self) -> bool:
        return bool(self.filters or self.metrics or self.runs)

    def for_names(self, benchmarks: Mapping[str, str]) -> Choices:
        """The same choices with tasks called as the report calls them: `aime24` for `lighteval|aime24|0`.

        Args:
            benchmarks: name of each task's benchmark, by the task's name in its file.
        """

        def renamed(text: str) -> str:
            full = next((key for key in benchmarks if text.startswith(f"{key}=")), None)
            return text if full is None else benchmarks[full] + text[len(full) :]

        filters, metrics = (tuple(map(renamed, given)) for given in (self.filters, self.metrics))
        return replace(self, filters=filters, metrics=metrics)

    def run(self, file: Path) -> RunChoice | None:
        """The choice that means `file`.

        Raises:
            SpecError: several do.
        """
        found = [choice for choice in self.runs if choice.means(file)]
        if len(found) > 1:
            raise SpecError(
                "several --run name it",
                file=file,
                hint=f"{found[0].file} and {found[1].file}: which one holds?",
            )
        return found[0] if found else None

    def check_runs(self, files: Sequence[Path]) -> None:
        """Holds every `--run` against the files.

        Raises:
            SpecError: one means no file, or several where it cannot.
        """
        for choice in self.runs:
            meant = [f for f in files if choice.means(f)]
            if not meant:
                raise SpecError(
                    f"--run {choice.file}: no such file among the results",
                    hint=f"they are {', '.join(map(str, files[:3]))}{' …' if len(files) > 3 else ''}",
                )
            if len(meant) > 1 and not Path(choice.file).is_dir():
                raise SpecError(
                    f"--run {choice.file}: several files are called so",
                    hint=f"give the folder too: {meant[0]}, {meant[1]}",
                )


def chosen(given: Sequence[str], task: str, tasks: Sequence[str]) -> tuple[str | None, bool]:
    """What `NAME` or `TASK=NAME` says for a task, and whether it names the task."""
    general = None
    for text in given:
        # Names hold an equals sign too (`pass@k:k=1&n=4`): what stands before the first is a task or it is none.
        before, _, after = text.partition("=")
        if after and before in tasks:
            if before == task:
                return after, True
        else:
            general = text
    return general, False


def parse_run(text: str) -> RunChoice:
    """A `--run` of the command line.

    Raises:
        SpecError: it has another form.
    """
    places = [found.start() for found in re.finditer("=", text)]
    # A path may hold an equals sign: the longest one that is there is meant.
    there = [p for p in places if Path(text[:p]).exists() and text[:p]]
    split = there[-1] if there else (places[0] if places else 0)
    file, said = text[:split], text[split + 1 :]
    name, *rest = said.split(",") if split else [""]
    pairs = [part.partition("=") for part in rest]
    wrong = [key + mark + value for key, mark, value in pairs if not (key.strip() and mark and value.strip())]
    if not file or wrong or not (name.strip() or rest):
        raise SpecError(
            f"--run {text}: {wrong[0]!r} is no KEY=VALUE" if wrong else f"--run {text}: give {RUN_FORM}"
        )
    levels = {key.strip(): value.strip() for key, _, value in pairs}
    if len(levels) < len(pairs):
        raise SpecError(f"--run {text}: a key stands twice")
    numbers: dict[str, int | None] = dict.fromkeys(_NUMBERS)
    for key in _NUMBERS:
        value = levels.pop(key, None)
        if value is not None:
            if not re.fullmatch(r"[0-9]{1,15}", value):
                raise SpecError(f"--run {text}: `{key}` must be a whole number, got {value!r}")
            numbers[key] = int(value)
    levels = {key.removeprefix("axis."): value for key, value in levels.items()}
    return RunChoice(file, name.strip(), levels=levels, **numbers)
