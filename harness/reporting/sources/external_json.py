"""Result files of lm-evaluation-harness and lighteval in the columns of the external-results contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.reporting.sources.choices import RUN_FORM, Choices, chosen
from harness.reporting.sources.json_files import read_json, result_files
from harness.reporting.sources.lighteval import detail_rows, read_lighteval, task_parts
from harness.reporting.sources.lm_eval import question_rows, read_lm_eval
from harness.reporting.sources.metric_choice import as_fraction, check_choices, choose_metric
from harness.reporting.sources.metric_names import Metric
from harness.reporting.sources.owners import Owner, owner_text, owners_of
from harness.reporting.sources.reading_notes import ReadingNotes, few
from harness.reporting.sources.result_file import ResultFile, TaskResult, model_name, questions_by_error
from harness.spec.errors import SpecError

NO_COUNT = "the number of questions is not recorded"
"""Why a benchmark's accuracy cannot be judged."""
_QUESTION = ("question", "samples", "correct")
_TOTAL = ("questions", "samples_per_question", "accuracy_percent")


@dataclass(frozen=True)
class _Entry:
    """A task of a file."""

    file: ResultFile
    owner: Owner
    task: TaskResult
    benchmark: str

    @property
    def step(self) -> int:
        known = (self.owner.step, self.task.step, self.file.model.step if self.file.model else None)
        return next((step for step in known if step is not None), 1)


@dataclass(frozen=True)
class _Figure:
    """A task's accuracy; `rows` are question, samples and share right, where questions are known."""

    entry: _Entry
    questions: int
    samples: int
    accuracy: float
    rows: tuple[tuple[str, int, float], ...] | None
    digests: Mapping[str, str]


def read_json_results(
    paths: Sequence[Path], choices: Choices | None = None
) -> tuple[pd.DataFrame, ReadingNotes]:
    """Files, or every `results*.json` of folders, compressed or not.

    A file's run is its model, with adapter, revision and quantisation, or what `choices` says; a trailing
    `checkpoint-N` or `step-N` is its step. Of a benchmark's metrics one is read: see `choose_metric`. Samples of
    lm-eval and details of lighteval are read where they are there, so that questions are known.

    Returns:
        The rows, by question where every benchmark's questions are known; and how the files were read.

    Raises:
        SpecError: a file is of neither tool, or has nothing that can be read; two files hold the same.
    """
    choices = choices or Choices()
    files = list({file.resolve(): file for path in paths for file in result_files(path)}.values())
    choices.check_runs(files)
    notes = ReadingNotes()
    read = [_read(file) for file in files]
    owners = owners_of(read, choices, notes)
    entries = _entries(read, owners, notes)
    _check_twice(entries)
    figures = _figures(entries, choices, notes)
    for file, owner in zip(read, owners):
        if not any(f.entry.file is file for f in figures):
            raise _nothing(file, notes)
        for key, why in file.left_out.items():
            everywhere = all(other.left_out.get(key) == why for other in read)
            notes.leave_out(key if everywhere else f"{key} in {file.path}", why)
        steps = {f.entry.step for f in figures if f.entry.file is file}
        notes.files.append(owner_text(file, owner, steps))
    return _frame(figures, notes), notes


def _read(file: Path) -> ResultFile:
    data = read_json(file)
    if not isinstance(data, dict) or not isinstance(data.get("results"), dict):
        what = "it is no JSON object with keys"
        if isinstance(data, dict) and data:
            what = "`results` is no object" if "results" in data else f"it has {few(map(str, data))}"
        raise SpecError(
            f"is no result of lm-eval or lighteval: it has no `results`; {what}", file=file,
            hint="give the results_*.json that they write, or a long CSV",
        )  # fmt: skip
    return (read_lighteval if "config_general" in data else read_lm_eval)(file, data)


def _nothing(file: ResultFile, notes: ReadingNotes) -> SpecError:
    """Why nothing of a file is read: the reasons first, each with what it holds for."""
    reasons: dict[str, list[str]] = {}
    for key, reason in file.left_out.items():
        reasons.setdefault(reason, []).append(key)
    for reason, listed in notes.left_out.items():
        behind = f" in {file.path}"
        reasons.setdefault(reason, []).extend(w.removesuffix(behind) for w in listed if w.endswith(behind))
    found = [f"{few(keys)}: {reason}" for reason, keys in reasons.items() if keys]
    shown = "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
    hint = "leave the file out"
    if "--metric" in shown:
        hint = "--metric NAME reads a metric of another name as an accuracy; or leave the file out"
    elif NO_COUNT in shown:
        hint = "put the samples or details beside the file, or leave it out"
    return SpecError(
        f"has no task with an accuracy that can be read: {shown or '`results` is empty'}"[:600],
        file=file.path,
        hint=hint,
    )


def _entries(read: Sequence[ResultFile], owners: Sequence[Owner], notes: ReadingNotes) -> list[_Entry]:
    """Every task under its benchmark's name: tasks that differ in their examples or prompts are kept apart."""
    named: dict[str, list[tuple[ResultFile, Owner, TaskResult]]] = {}
    for file, owner in zip(read, owners):
        for task in file.tasks:
            named.setdefault(task.name, []).append((file, owner, task))
    entries = []
    for name, found in named.items():
        shots = {task.shots for _, _, task in found} - {""}

        def label(task: TaskResult, several: bool = len(shots) > 1, name: str = name) -> str:
            return f"{name} ({task.shots}-shot)" if several and task.shots else name

        steps = [(id(file), label(task), task.step) for file, _, task in found]
        apart = len(set(steps)) < len(steps)
        made = [_Entry(f, o, t, t.key if apart else label(t)) for f, o, t in found]
        if len(shots) > 1:
            notes.beware.append(
                f"{name} was asked with {' and '.join(sorted(shots))} examples in the prompt: read apart"
            )
        for what, values in (
            ("suite", {task_parts(t.key)[0] for f, _, t in found if f.tool == "lighteval"} - {""}),
            ("version", {t.version for _, _, t in found} - {"", "None"}),
        ):
            if len(values) > 1 and not apart:
                notes.beware.append(f"{name} is of {what} {' and '.join(sorted(values))}: prompts may differ")
        entries += made
    return entries


def _check_twice(entries: Sequence[_Entry]) -> None:
    """Refuses two files of one checkpoint, and says how to tell them apart."""
    seen: dict[tuple[Any, ...], _Entry] = {}
    twice: list[tuple[_Entry, _Entry]] = []
    for entry in entries:
        own = entry.owner
        levels = tuple(sorted(own.levels.items()))
        key = (own.run, own.seed or 0, own.eval_seed or 0, levels, entry.step, entry.benchmark)
        other = seen.setdefault(key, entry)
        if other is not entry:
            twice.append((other, entry))
    if not twice:
        return
    first, second = twice[0]
    one, two, run = first.file.path, second.file.path, second.owner.run
    more = len({entry.file.path for _, entry in twice}) - 1
    raise SpecError(
        f"{second.benchmark} of {run} is given twice, here and in {one}"
        + (f"; {more} other file{'s' * (more > 1)} likewise" if more else ""),
        file=two,
        hint=f"another training run: --run {two}={run},seed=1; the same weights asked again: "
        f"--run {two}={run},eval_seed=1\n  or leave it out. The form is {RUN_FORM}",
    )


def _figures(entries: Sequence[_Entry], choices: Choices, notes: ReadingNotes) -> list[_Figure]:
    benchmarks = list(dict.fromkeys(e.benchmark for e in entries))
    choices = choices.for_names({e.task.key: e.benchmark for e in entries})
    metrics = list(dict.fromkeys(m for e in entries for m in e.task.values))
    check_choices(
        "filter", choices.filters, benchmarks, list(dict.fromkeys(m.filter or "none" for m in metrics))
    )
    names = [name for m in metrics for name in (m.key, m.name, f"{m.name},none")]
    check_choices("metric", choices.metrics, benchmarks, list(dict.fromkeys(names)))
    percentages = {m.name for e in entries for m, v in e.task.values.items() if m.rank and 1 < v <= 100}
    figures = []
    for benchmark in benchmarks:
        own = [e for e in entries if e.benchmark == benchmark]
        metric = choose_metric(
            benchmark,
            [e.task.values for e in own],
            wanted=chosen(choices.metrics, benchmark, benchmarks),
            filtered=chosen(choices.filters, benchmark, benchmarks),
        )
        if metric is None:
            held = few(m.key for e in own for m in e.task.values)
            for e in own:
                notes.leave_out(
                    f"{benchmark} in {e.file.path}",
                    f"{held}: not known as an accuracy (--metric NAME reads it)",
                )
            continue
        made = [f for e in own if (f := _figure(e, metric, metric.name in percentages, notes)) is not None]
        figures += made
        if made:
            notes.measured.setdefault(_measure(metric, own), []).append(benchmark)
            _compare_sizes(benchmark, made, notes)
    return figures


def _measure(metric: Metric, own: Sequence[_Entry]) -> str:
    """How a benchmark is measured, and how else it could be."""
    others = list(dict.fromkeys(m for e in own for m in e.task.values if m != metric))
    known, unknown = ([m for m in others if (m.rank is None) == no] for no in (False, True))
    said = []
    if known:
        way = (
            f"--filter {known[0].filter or 'none'}"
            if known[0].name == metric.name
            else f"--metric {known[0].key}"
        )
        said.append(f"also there: {few(m.key for m in known)} ({way} reads it)")
    if unknown:
        said.append(f"not read, as they are not known as accuracies: {few(m.key for m in unknown)}")
    if not metric.mean and metric.k is None and metric.n is None:
        said.append("its k and n are not recorded in its name")
    return "; ".join([metric.key, *said])


def _figure(entry: _Entry, metric: Metric, percent: bool, notes: ReadingNotes) -> _Figure | None:
    """The task's accuracy by that metric; None where it is left out, which is noted."""
    task, place = entry.task, f"{entry.task.key} in {entry.file.path}"
    if metric not in task.values:
        notes.leave_out(
            place,
            f"it is not measured by {metric.key}, as in other files, but by {few(m.key for m in task.values)}",
        )
        return None
    value = task.values[metric]
    asked = task.questions
    if asked is None and metric in task.errors and metric.samples == 1:
        asked = questions_by_error(value, task.errors[metric])
    accuracy = as_fraction(value, (asked or 0) * metric.samples, percent=percent)
    if accuracy is None:
        certain = "is no accuracy" if not 0 <= value <= 100 else "may be a fraction or a percentage"
        notes.leave_out(place, f"{metric.key} = {value:g} {certain}")
        return None
    rows, digests = _questions(entry, metric, accuracy, asked, notes)
    if rows is None and asked is None:
        kept = "lighteval --save-details" if entry.file.tool == "lighteval" else "lm-eval --log_samples"
        notes.leave_out(place, f"{NO_COUNT} (it is where samples are kept: {kept})")
        return None
    if task.of and asked and asked < task.of:
        notes.beware.append(f"{place}: {asked} of {task.of} questions were asked (a limit was set)")
    if rows is None:
        return _Figure(entry, asked or 0, metric.samples, accuracy, None, {})
    shares = [share for _, _, share in rows]
    most = sorted(n for _, n, _ in rows)[len(rows) // 2]
    return _Figure(entry, len(rows), most, sum(shares) / len(shares), tuple(rows), digests)


def _questions(
    entry: _Entry, metric: Metric, accuracy: float, asked: int | None, notes: ReadingNotes
) -> tuple[list[tuple[str, int, float]] | None, dict[str, str]]:
    """The task's rows by question, held against its result; None where they are of no use, which is noted."""
    task, place = entry.task, f"{entry.task.key} in {entry.file.path}"
    if task.samples is None:
        if task.no_samples:
            notes.leave_out(f"samples of {place}", task.no_samples)
        return None, {}
    try:
        if entry.file.tool == "lighteval" and isinstance(task.samples, Path):
            found = list(detail_rows(task.samples, metric))
        else:
            found = list(question_rows(task.samples, metric, own_ids=task.own_ids))
    except SpecError as error:
        notes.leave_out(f"samples of {place}", str(error).splitlines()[0])
        return None, {}
    scale = 100 if any(share > 1 for _, _, _, share in found) else 1
    rows = [(name, count, share / scale) for name, _, count, share in found]
    if any(not 0 <= share <= 1 for _, _, share in rows) or not rows:
        notes.leave_out(f"samples of {place}", f"{metric.key} is no share of right answers there")
        return None, {}
    if asked is not None and len(rows) != asked:
        notes.leave_out(f"samples of {place}", f"they are {len(rows)}, the result is of {asked} questions")
        return None, {}
    mean = sum(share for _, _, share in rows) / len(rows)
    if abs(mean - accuracy) > _rounding(task.values[metric]):
        notes.beware.append(
            f"{place}: its samples give {100 * mean:.2f} %, its result {100 * accuracy:.2f} %; the samples are read"
        )
    return rows, {name: digest for name, digest, _, _ in found if digest}


def _rounding(value: float) -> float:
    """Half a unit of the last digit that is written, as a fraction's."""
    digits = len(f"{value!r}".partition(".")[2])
    return max(1e-9, 0.5 * 10.0**-digits) * (0.01 if value > 1 else 1) if "e" not in f"{value!r}" else 1e-9


def _compare_sizes(benchmark: str, made: Sequence[_Figure], notes: ReadingNotes) -> None:
    sizes = sorted({f.questions for f in made})
    if len(sizes) > 1:
        notes.beware.append(f"{benchmark} has {few(map(str, sizes))} questions in different files")


def _frame(figures: Sequence[_Figure], notes: ReadingNotes) -> pd.DataFrame:
    by_question = all(f.rows is not None for f in figures)
    if not by_question and (known := [f for f in figures if f.rows is not None]):
        lacking = few(f"{f.entry.benchmark} in {f.entry.file.path}" for f in figures if f.rows is None)
        benchmarks = few(f.entry.benchmark for f in known)
        notes.beware.append(
            f"Everything is compared by totals, {benchmarks} too: there are no samples of {lacking}"
        )
    seeds = {(f.entry.owner.run, f.entry.owner.seed or 0) for f in figures}
    several = {run for run, _ in seeds if sum(run == other for other, _ in seeds) > 1}
    names = _question_names(figures, notes) if by_question else {}
    rows: list[dict[str, Any]] = []
    # The first model is the one that others are compared with: the base of adapters, where it was measured too.
    bases = {model_name(m.base).run for f in figures if (m := f.entry.file.model) and m.base}
    figures = sorted(figures, key=lambda f: f.entry.owner.run not in bases)
    seeded = any(f.entry.owner.seed is not None for f in figures)
    for figure in figures:
        own = figure.entry.owner
        run = f"{own.run} seed {own.seed or 0}" if own.run in several else own.run
        place: dict[str, Any] = {"run": run, **{f"axis.{a}": level for a, level in own.levels.items()}}
        place |= ({"seed": own.seed or 0} if seeded else {}) | {"step": figure.entry.step}
        place["benchmark"] = figure.entry.benchmark
        if by_question:
            rows += [
                {**place, "question": names.get((id(figure), name), name), "samples": n, "correct": share * n}
                for name, n, share in figure.rows or ()
            ]
        else:
            totals = (figure.questions, figure.samples, 100 * figure.accuracy)
            rows.append({**place, **dict(zip(_TOTAL, totals))})
    frame = pd.DataFrame(rows)
    if not any(f.entry.owner.eval_seed for f in figures):
        return frame
    notes.beware.append(
        "Evaluations of one checkpoint under several seeds count as one of more samples a question, never as runs"
    )
    return _pooled(frame, by_question)


def _pooled(frame: pd.DataFrame, by_question: bool) -> pd.DataFrame:
    """Several evaluations of a checkpoint as one of more samples a question."""
    place = [c for c in frame.columns if c not in (*_QUESTION, *_TOTAL)]
    if by_question:
        return frame.groupby([*place, "question"], sort=False, as_index=False).sum()
    own = frame.groupby(place, sort=False)
    differ = own["questions"].nunique()
    if int(differ.max()) > 1:
        where = dict(zip(place, pd.Index(differ[differ > 1].index)[0]))
        raise SpecError(
            f"{where['benchmark']} of {where['run']} was asked with different numbers of questions",
            hint="evaluations of one checkpoint are pooled where they asked the same questions: leave one out",
        )
    right = frame.assign(accuracy_percent=frame["accuracy_percent"] * frame["samples_per_question"])
    sums = right.groupby(place, sort=False, as_index=False).agg(
        {"questions": "first", "samples_per_question": "sum", "accuracy_percent": "sum"}
    )
    return sums.assign(accuracy_percent=sums["accuracy_percent"] / sums["samples_per_question"])


def _question_names(figures: Sequence[_Figure], notes: ReadingNotes) -> dict[tuple[int, str], str]:
    """Names of questions by what was asked, where files number their questions differently; else nothing."""
    names: dict[tuple[int, str], str] = {}
    for benchmark in dict.fromkeys(f.entry.benchmark for f in figures):
        own = [f for f in figures if f.entry.benchmark == benchmark and f.digests]
        asked: dict[str, set[str]] = {}
        for figure in own:
            for name, digest in figure.digests.items():
                asked.setdefault(name, set()).add(digest)
        differ = [name for name, digests in asked.items() if len(digests) > 1]
        unique = all(len(set(f.digests.values())) == len(f.rows or ()) for f in own)
        if not differ or not unique:
            continue
        names |= {(id(f), name): digest for f in own for name, digest in f.digests.items()}
        notes.beware.append(
            f"{benchmark}: {len(differ)} questions have one number and several texts in these files (doc_hash); "
            "questions are paired by their text"
        )
    return names
