"""A few completions side by side: before training, and after it."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from harness.reporting.analysis.analysis import Analysis
from harness.reporting.analysis.responses import benchmarks
from harness.reporting.analysis.verdict_rows import ALL
from harness.reporting.frames import records

_QUESTIONS = 4
_MOST_CHARACTERS = 900
_COLUMNS = ["question_index", "question", "gold", "sample", "text", "correct", "truncated", "tokens"]


@dataclass(frozen=True)
class ExampleCompletion:
    """One completion, as the model wrote it: nothing in it is to be trusted."""

    title: str
    text: str
    correct: bool
    truncated: bool
    tokens: int


@dataclass(frozen=True)
class Example:
    """A question and what checkpoints answered."""

    benchmark: str
    question: str
    gold: str
    completions: tuple[ExampleCompletion, ...]


def examples(analysis: Analysis) -> list[Example]:
    """First samples of the untrained model, the worst and the best cell, where they differ most.

    Per benchmark from the last, which is the hardest by custom: questions that training mended, then ones that
    it broke, then any.
    """
    chosen = _checkpoints(analysis)
    names = benchmarks(analysis.study)[::-1]
    if len(chosen) < 2 or not names or "evaluation_id" not in analysis.study.evaluations.columns:
        return []
    each, more = divmod(_QUESTIONS, len(names))
    found: list[Example] = []
    for place, benchmark in enumerate(names[:_QUESTIONS]):
        found += _of_benchmark(analysis, benchmark, chosen, each + (place < more))
    return found


def _checkpoints(analysis: Analysis) -> list[tuple[str, str, int]]:
    """Title, run and step of the untrained model, the worst cell and the best."""
    labels = {str(r["run"]): str(r["label"]) for r in records(analysis.study.runs)}
    scores = {
        (run, step): v.estimate for (run, step, b), v in analysis.accuracy.items() if b == ALL and step > 0
    }
    if not scores:
        return []
    best, worst = max(scores, key=lambda k: scores[k]), min(scores, key=lambda k: scores[k])
    chosen = [
        (f"{labels.get(run, run)}, step {step}", run, step) for run, step in dict.fromkeys([worst, best])
    ]
    base = analysis.layout.base.get(best[0])
    return [("untrained", base, 0), *chosen] if base else chosen


def _of_benchmark(
    analysis: Analysis, benchmark: str, chosen: list[tuple[str, str, int]], count: int
) -> list[Example]:
    frames = [(title, _samples(analysis, run, step, benchmark)) for title, run, step in chosen]
    there = [(title, frame) for title, frame in frames if frame is not None]
    if len(there) < 2:
        return []
    before, after = (f.groupby("question_index")["correct"].mean() for f in (there[0][1], there[-1][1]))
    change = (after - before).dropna().sort_values(kind="stable")
    if change.empty:
        return []
    # Every other question is one that got better, from the most; those between, one that got worse.
    order = list(change.index)
    picked = [order[-1 - i // 2] if i % 2 == 0 else order[i // 2] for i in range(min(count, len(order)))]
    return [_example(benchmark, index, there) for index in dict.fromkeys(picked)]


def _samples(analysis: Analysis, run: str, step: int, benchmark: str) -> pd.DataFrame | None:
    made = analysis.study.evaluations
    row = made[(made["run"] == run) & (made["step"] == step) & (made["benchmark"] == benchmark)]
    if row.empty:
        return None
    return analysis.study.folder(run).samples(step, benchmark, str(row["evaluation_id"].iloc[0]), _COLUMNS)


def _example(benchmark: str, index: int, frames: list[tuple[str, pd.DataFrame]]) -> Example:
    completions = []
    for title, frame in frames:
        own = records(frame[frame["question_index"] == index].sort_values("sample"))
        share = sum(bool(r["correct"]) for r in own) / len(own)
        # The sample that stands for most of them.
        first = next(r for r in own if bool(r["correct"]) == (share >= 0.5))
        text = str(first["text"])
        shown = (
            text
            if len(text) <= _MOST_CHARACTERS
            else f"{text[:_MOST_CHARACTERS]} … [{len(text):,} characters]"
        )
        completions.append(
            ExampleCompletion(
                f"{title}: {sum(bool(r['correct']) for r in own)} of {len(own)} right",
                shown,
                bool(first["correct"]),
                bool(first["truncated"]),
                int(first["tokens"]),
            )
        )
    head = records(frames[0][1][frames[0][1]["question_index"] == index])[0]
    return Example(benchmark, str(head["question"]), str(head["gold"]), tuple(completions))
