"""Results of other people's runs as a study: long CSV or Parquet, lm-eval and lighteval JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd

from harness.reporting import formats
from harness.reporting.analysis.verdict_rows import ALL
from harness.reporting.frames import records
from harness.reporting.sources.choices import Choices
from harness.reporting.sources.external_json import read_json_results
from harness.reporting.sources.inference import (
    TRAINING_SEEDS,
    Inference,
    as_evaluations,
    inference_notes,
    pooled_evaluations,
)
from harness.reporting.sources.json_files import plain_suffix
from harness.reporting.sources.reading_notes import Parts, ReadingNotes, few
from harness.spec.errors import SpecError
from harness.spec.grid import RESERVED_AXES
from harness.store.records import PlanRecord
from harness.store.records.form import JsonObject
from harness.store.study import Study

QUESTION_COLUMNS = ("question", "samples", "correct")
BENCHMARK_COLUMNS = ("questions", "samples_per_question", "accuracy_percent")
_PLACE = ("run", "seed", "eval_seed", "family", "step", "benchmark", "cluster")
_KNOWN = (*_PLACE, *QUESTION_COLUMNS, *BENCHMARK_COLUMNS)
_AXIS = "axis."
STEP = "step"
_ROUNDING = 1e-9

_FORMS = (
    "columns: [run, seed, eval_seed, family, axis.<name> …, step,] benchmark and question, samples, correct[, "
    "cluster], or in place of the last questions, samples_per_question, accuracy_percent"
)


def external_study(
    files: Sequence[Path],
    out: Path,
    *,
    baselines: Mapping[str, str] | None = None,
    delta: float = 0.02,
    choices: Choices | None = None,
    inference: Inference = TRAINING_SEEDS,
) -> Study:
    """A study from external results.

    Args:
        files: long CSV or Parquet files, or JSON of lm-eval or lighteval; folders stand for the JSON in them.
            Without a column `run`, rows of equal axis levels and seed are one run. Without an `axis.` column,
            other columns that are constant within a run are its axes. Runs of equal levels without a seed are
            numbered.
        out: where the report will go.
        baselines: level that an axis's others are compared with; the first in the file if not given.
        delta: smallest accuracy difference that matters, a fraction.
        choices: whose a JSON file is, which filter and metric of it to read.
        inference: whom verdicts are about, and what seeds are.

    Raises:
        SpecError: what is wrong with the file, a baseline or a choice.
    """
    read, notes = _read(files, choices or Choices())
    frame, repeated = pooled_evaluations(_placed(as_evaluations(read, inference), files[0]), files[0])
    axes = [str(c).removeprefix(_AXIS) for c in frame.columns if str(c).startswith(_AXIS)]
    frame = frame.rename(columns={_AXIS + a: a for a in axes})
    runs = frame.drop_duplicates("run")[["run", *axes, "seed", "family"]].reset_index(drop=True)
    _check_runs(frame, runs, axes, files[0])
    varied = [a for a in axes if runs[a].nunique() > 1]
    # One that does not vary, such as the device of all runs, is in no table.
    if clash := sorted(RESERVED_AXES.intersection(varied)):
        raise SpecError(
            f"`{clash[0]}` cannot be an axis: it is a column of the tables", file=files[0], hint="rename it"
        )
    common = set.intersection(*(set(part) for _, part in frame.groupby("run")["step"]))
    by_length = frame["step"].nunique() > 1 and bool(common)
    order = {a: [str(v) for v in dict.fromkeys(runs[a])] for a in varied}
    if by_length:
        order[STEP] = [str(s) for s in sorted(int(s) for s in frame["step"].unique())]
    _check_baselines(baselines or {}, order, files[0])
    lengths = [STEP] if by_length else []
    grid = {
        "name": out.name or files[0].stem,
        "question": f"What do the results in {', '.join(f.name for f in files)} support?",
        "axes": order,
        "steps_axes": lengths,
        "seeds": sorted(set(runs["seed"].tolist())),
        # A length that only some runs have would leave the others out of every comparison.
        "baselines": {STEP: str(min(common))} if by_length else {},
        "evaluate": {"benchmarks": [{"name": n} for n in dict.fromkeys(frame["benchmark"])]},
        "verdict": {
            "delta": delta,
            "alpha": 0.05,
            "power": 0.8,
            "baseline": dict(baselines or {}),
            "unit": inference.unit,
            "shared_seeds": inference.shared_seeds,
            "answer_noise": repeated,
        },
    }
    if notes and "model" in varied and "model" not in (baselines or {}):
        first = order["model"][0]
        notes = (*notes, ("Baseline", (f"{first}, the first read; --baseline model=NAME chooses another",)))
    if not by_length:
        notes = (*notes, *_earlier_steps(frame))
    notes = (*notes, *inference_notes(frame, runs, inference, repeated))
    return _study(frame, runs, varied, grid, out, files, notes)


def _earlier_steps(frame: pd.DataFrame) -> Parts:
    """Checkpoints that no verdict compares: every run's but the last, where runs have no step in common."""
    steps = {str(run): sorted(set(part)) for run, part in frame.groupby("run", sort=False)["step"]}
    told = [
        f"{run} is compared at its last checkpoint, step {own[-1]}; {few(str(s) for s in own[:-1])} before it "
        f"{'is' if len(own) == 2 else 'are'} in the learning curves alone"
        for run, own in steps.items()
        if len(own) > 1
    ]
    return (("Runs without a common step", (*told,)),) if told else ()


def _study(
    frame: pd.DataFrame,
    runs: pd.DataFrame,
    varied: list[str],
    grid: JsonObject,
    out: Path,
    files: Sequence[Path],
    notes: Parts,
) -> Study:
    """The study of checked rows; what only runs of ours have (steps, attempts, events, money) is empty."""
    places = frame.drop_duplicates(["run", "step"])[["run", *varied, "seed", "step"]]
    if not grid["steps_axes"]:
        places = places.sort_values("step").drop_duplicates("run", keep="last")
    evaluations, questions = _evaluations(frame)
    return Study(
        out=out,
        grid=grid,
        plan=PlanRecord(cells=(), jobs=()),
        axes=[*varied, *grid["steps_axes"]],
        steps_axes=grid["steps_axes"],
        cells=places.assign(**{STEP: places["step"]}).reset_index(drop=True),
        runs=_run_frame(runs, varied),
        steps=pd.DataFrame(columns=["run", "attempt", "step"]),
        evaluations=evaluations,
        attempts=pd.DataFrame(
            columns=["run", "attempt", "status", "started_at", "wall_seconds", "error", "provenance"]
        ),
        events=pd.DataFrame(columns=["run", "attempt", "step", "kind", "message"]),
        invocations=pd.DataFrame(columns=["device_seconds", "busy_device_seconds", "usd_per_hour"]),
        sources=tuple(str(f) for f in files),
        notes=notes,
        known_questions=questions,
    )


def _read(files: Sequence[Path], choices: Choices) -> tuple[pd.DataFrame, Parts]:
    """The rows of all files, and how JSON among them was read: together, for one metric has to fit them all."""
    results = [f for f in files if f.is_dir() or plain_suffix(f) in (".json", ".jsonl")]
    if choices and not results:
        raise SpecError(
            "--run, --filter and --metric go with JSON of lm-eval or lighteval", file=files[0],
            hint="a table says whose its rows are in columns",
        )  # fmt: skip
    frames, notes = [], ReadingNotes()
    for file in files:
        if not file.exists():
            raise SpecError("no such file", file=file, hint="give a CSV, Parquet or JSON file of results")
        if file not in results:
            frames.append(_read_table(file))
        elif file is results[0]:
            frame, notes = read_json_results(results, choices)
            frames.append(frame)
    frame = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    if frame.empty:
        raise SpecError("holds no rows", file=files[0], hint=_FORMS)
    return frame, notes.parts()


def _read_table(file: Path) -> pd.DataFrame:
    """A CSV as text, for a level is what is written there: `None`, `048`, `1e-6`; or a Parquet file."""
    try:
        if plain_suffix(file) in (".parquet", ".pq"):
            frame = pd.read_parquet(file)
            if frame.index.names != [None]:
                frame = frame.reset_index()
        else:
            frame = pd.read_csv(
                file, skipinitialspace=True, encoding="utf-8-sig", dtype=str, keep_default_na=False
            )
            frame = frame.map(formats.with_formula).rename(columns=formats.with_formula)
    # Whatever pandas and the readers behind it raise: the file is what they fail on.
    except Exception as error:
        what = str(error).strip().splitlines()[0][:150] if str(error).strip() else type(error).__name__
        raise SpecError(f"cannot be read: {what}", file=file, hint=_FORMS) from error
    frame = frame.rename(columns={c: str(c).strip() for c in frame.columns})
    if "question" not in frame.columns and "accuracy_percent" in frame.columns:
        most = pd.to_numeric(frame["accuracy_percent"], errors="coerce").max()
        if 0 < most <= 1:
            raise SpecError(
                f"`accuracy_percent` is at most {most:g}: a fraction?", file=file,
                hint="multiply by 100; if nothing is above 1 %, give a row per question",
            )  # fmt: skip
    return frame


def _placed(frame: pd.DataFrame, file: Path) -> pd.DataFrame:
    """The frame with every column of the contract, numbers as numbers, and axes as `axis.<name>` text."""
    form = QUESTION_COLUMNS if "question" in frame.columns else BENCHMARK_COLUMNS
    missing = [c for c in ("benchmark", *form) if c not in frame.columns]
    if missing:
        near = get_close_matches(missing[0], [str(c) for c in frame.columns if c not in _KNOWN], 1)
        hint = f"did you mean to rename `{near[0]}`? {_FORMS}" if near else _FORMS
        raise SpecError(f"column `{missing[0]}` is missing", file=file, hint=hint)
    other = [str(c) for c in frame.columns if c not in _KNOWN]
    marked = [c for c in other if c.startswith(_AXIS)]
    if not marked:
        constant = (
            other
            if "run" not in frame.columns
            else [c for c in other if frame.groupby("run")[c].nunique(dropna=False).max() == 1]
        )
        frame = frame.rename(columns={c: _AXIS + c for c in constant})
        marked = [_AXIS + c for c in constant]
    clash = [c for c in marked if c.removeprefix(_AXIS) in _KNOWN]
    if clash:
        raise SpecError(f"`{clash[0]}` cannot be an axis: that name is a column of its own", file=file)
    frame = frame.copy()
    for name in marked:
        frame[name] = [formats.level_name(v) for v in frame[name]]
    frame["step"] = _whole(frame, "step", file) if "step" in frame.columns else 1
    for name in frame.columns.intersection(["seed", "eval_seed"]):
        frame[name] = _whole(frame, name, file)
    if "run" not in frame.columns:
        keys = [*marked, *(["seed"] if "seed" in frame.columns else [])]
        frame["run"] = [
            " ".join(f"{k.removeprefix(_AXIS)}={v}" for k, v in zip(keys, row)) or "run"
            for row in zip(*(frame[k] for k in keys))
        ] if keys else "run"  # fmt: skip
    for name in ("run", "benchmark", *form[:1], *(c for c in ("family", "cluster") if c in frame.columns)):
        blank = [formats.is_empty(v) for v in frame[name]]
        if any(blank):
            raise SpecError(
                f"`{name}` is blank", file=file, line=blank.index(True) + 2, hint="every row needs one"
            )
    frame["run"] = frame["run"].astype(str)
    frame["family"] = (frame["family"] if "family" in frame.columns else frame["run"]).astype(str)
    frame["benchmark"] = frame["benchmark"].astype(str)
    if (frame["benchmark"] == ALL).any():
        raise SpecError(
            f"no benchmark can be called {ALL}",
            file=file,
            hint="it is the mean over benchmarks: rename or drop it",
        )
    for name in form:
        if name != "question":
            frame[name] = _numbers(frame, name, file)
    _check_values(frame, form, file)
    if "seed" not in frame.columns:
        firsts = frame.drop_duplicates("run")
        number = firsts.groupby(marked).cumcount() if marked else pd.Series(range(len(firsts)), firsts.index)
        frame["seed"] = frame["run"].map(dict(zip(firsts["run"], number))).astype(int)
    return frame


def _numbers(frame: pd.DataFrame, name: str, file: Path) -> pd.Series[Any]:
    # A share of one sample may be written as true or false.
    values = [{"true": 1, "false": 0}.get(str(v).lower(), v) for v in frame[name]]
    numbers = pd.to_numeric(pd.Series(values, frame.index), errors="coerce").astype(float)
    bad = numbers.isna() | numbers.isin([math.inf, -math.inf])
    if bad.any():
        row = int(bad.to_numpy().argmax())
        raise SpecError(f"`{name}` must be a number, got {frame[name].iloc[row]!r}", file=file, line=row + 2)
    return numbers


def _whole(frame: pd.DataFrame, name: str, file: Path) -> pd.Series[Any]:
    numbers = _numbers(frame, name, file)
    bad = (numbers % 1 != 0) | (numbers < 0)
    if bad.any():
        row = int(bad.to_numpy().argmax())
        raise SpecError(
            f"`{name}` must be a whole number, got {frame[name].iloc[row]!r}", file=file, line=row + 2
        )
    return numbers.astype(int)


def _check_values(frame: pd.DataFrame, form: tuple[str, ...], file: Path) -> None:
    if form == QUESTION_COLUMNS:
        rules = [
            ("samples", frame["samples"] < 1, "must be at least 1"),
            ("correct", (frame["correct"] < 0) | (frame["correct"] > frame["samples"] + _ROUNDING),
             "must be between 0 and samples"),
        ]  # fmt: skip
        keys = ["run", "step", "benchmark", "question"]
    else:
        rules = [
            ("questions", frame["questions"] < 1, "must be at least 1"),
            ("samples_per_question", frame["samples_per_question"] < 1, "must be at least 1"),
            ("accuracy_percent", ~frame["accuracy_percent"].between(0, 100), "must be between 0 and 100"),
        ]
        keys = ["run", "step", "benchmark"]
    for name, bad, rule in rules:
        if bad.any():
            row = int(bad.to_numpy().argmax())
            raise SpecError(f"`{name}` {rule}, got {frame[name].iloc[row]:g}", file=file, line=row + 2)
    keys += ["eval_seed"] if "eval_seed" in frame.columns else []
    twice = frame.duplicated(keys)
    if twice.any():
        row = int(twice.to_numpy().argmax())
        what = ", ".join(f"{k} {frame[k].iloc[row]}" for k in keys)
        raise SpecError(
            f"{what}: given twice", file=file, line=row + 2, hint="one row per run, checkpoint and question"
        )


def _check_runs(frame: pd.DataFrame, runs: pd.DataFrame, axes: list[str], file: Path) -> None:
    for name in [*axes, "seed", "family"]:
        changing = frame.groupby("run")[name].nunique()
        if int(changing.max()) > 1:
            raise SpecError(f"run {changing.idxmax()} has several values of `{name}`", file=file)
    twice = runs.duplicated([*axes, "seed"], keep=False)
    if twice.any():
        first, second = runs.loc[twice, "run"].tolist()[:2]
        raise SpecError(
            f"runs {first} and {second} have equal levels and seed {runs.loc[twice, 'seed'].iloc[0]}",
            file=file,
            hint="give every repetition a seed of its own, or leave the column out",
        )


def _check_baselines(baselines: Mapping[str, str], order: Mapping[str, list[str]], file: Path) -> None:
    for axis, level in baselines.items():
        if axis not in order:
            known = ", ".join(order) or "none"
            raise SpecError(f"--baseline {axis}={level}: no axis `{axis}` is varied ({known})", file=file)
        if level not in order[axis]:
            raise SpecError(f"--baseline {axis}={level}: no such level ({', '.join(order[axis])})", file=file)


def _run_frame(runs: pd.DataFrame, axes: list[str]) -> pd.DataFrame:
    nothing = dict.fromkeys(
        ("attempts", "failed_attempts", "wall_seconds", "device_seconds", "usd_per_hour", "cost_usd"),
        math.nan,
    )
    rows = [
        {"run": r["run"], "kind": "external", "label": r["run"], **{a: r[a] for a in axes}, "seed": r["seed"],
         "family": r["family"], "status": "finished", "devices": math.nan, "device": None, "error": None, **nothing}
        for r in records(runs)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _evaluations(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row per run, step and benchmark, and a row per question where questions are known."""
    keys = ["run", "step", "benchmark"]
    if "question" not in frame.columns:
        total = frame["questions"] * frame["samples_per_question"]
        made = frame[keys].assign(
            kind="external",
            questions=frame["questions"].astype(int),
            samples=frame["samples_per_question"].astype(int),
            correct=(frame["accuracy_percent"] / 100 * total).round().astype(int),
            accuracy=frame["accuracy_percent"] / 100,
        )
        empty = pd.DataFrame(columns=[*keys, "question_index", "question_id", "samples", "correct"])
        return made.reset_index(drop=True), empty
    place = frame.groupby("benchmark")["question"].transform(lambda q: pd.factorize(q)[0])
    cluster = ["cluster"] if "cluster" in frame.columns else []
    questions = frame[[*keys, "samples", "correct", *cluster]].assign(
        question_index=place.astype(int), question_id=frame["question"].astype(str)
    )
    share = questions.assign(share=questions["correct"] / questions["samples"])
    made = (
        share.groupby(keys, sort=False)
        .agg(questions=("share", "size"), samples=("samples", "median"), correct=("correct", "sum"),
             accuracy=("share", "mean"))
        .reset_index()
    )  # fmt: skip
    made = made.assign(
        kind="external",
        samples=made["samples"].round().astype(int),
        correct=made["correct"].round().astype(int),
    )
    return made, questions
