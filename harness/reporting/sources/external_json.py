"""Result files of lm-evaluation-harness and lighteval in the columns of the foreign-results contract."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from harness.spec.errors import SpecError

_MODEL_STEP = re.compile(r"[-_/](?:checkpoint|step|global_step)[-_]?0*(\d+)/?$")
_METRICS = (
    "extractive_match", "math_pass@1:1_samples", "exact_match", "acc", "pass@1", "qem", "em", "acc_norm", "pass_at_1",
)  # fmt: skip
"""Names that carry an accuracy, the first that a task has."""


def read_json_results(path: Path) -> pd.DataFrame:
    """One file, or every `results*.json` of a folder.

    lm-eval's samples (`samples_<task>_*.jsonl` beside the results) are read where they are there, so that questions
    are known. The run is the model; a trailing `checkpoint-N` or `step-N` is its step.

    Raises:
        SpecError: it is neither of the two formats.
    """
    if path.is_dir():
        files = sorted(path.rglob("results*.json"))
        if not files:
            raise SpecError(
                "holds no results*.json", file=path, hint="give the folder that lm-eval or lighteval wrote"
            )
    else:
        files = [path]
    rows = [row for file in files for row in _rows(file)]
    frame = pd.DataFrame(rows)
    if frame["question"].isna().any():
        # Questions of some tasks only: the tasks are judged by their totals alike.
        known = frame[frame["question"].notna()]
        totals = [
            {"run": run, "axis.model": run, "step": step, "benchmark": name, "questions": len(part),
             "samples_per_question": 1, "accuracy_percent": 100 * float(part["correct"].mean())}
            for (run, step, name), part in known.groupby(["run", "step", "benchmark"], sort=False)
        ]  # fmt: skip
        rest = frame[frame["question"].isna()].drop(columns=["question", "samples", "correct"])
        frame = pd.concat([rest, pd.DataFrame(totals)], ignore_index=True) if totals else rest
        return frame.drop(columns=[c for c in ("question", "samples", "correct") if c in frame])
    return frame.drop(columns=["questions", "samples_per_question", "accuracy_percent"])


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SpecError(f"is not JSON: {error}", file=file) from error
    if not isinstance(data, dict) or not isinstance(data.get("results"), dict):
        raise SpecError(
            "is no result of lm-eval or lighteval: it has no `results`", file=file,
            hint="give the results_*.json that they write, or a long CSV",
        )  # fmt: skip
    model = _model(data) or file.parent.name
    found = _MODEL_STEP.search(model)
    run, step = (model[: found.start()], int(found[1])) if found else (model, 1)
    rows: list[dict[str, Any]] = []
    for task, metrics in data["results"].items():
        accuracy = _accuracy(metrics)
        if accuracy is None or _is_mean(data, task):
            continue
        name = _benchmark(task)
        place = {"run": run, "axis.model": run, "step": step, "benchmark": name}
        nothing = dict.fromkeys(("question", "samples", "correct"))
        asked = _questions(data, task)
        own = _samples(file, task)
        if own:
            totals = dict.fromkeys(("questions", "samples_per_question", "accuracy_percent"))
            rows += [{**place, **totals, "question": q, "samples": 1, "correct": c} for q, c in own.items()]
        elif asked is None:
            raise SpecError(
                f"task {task}: the number of questions is not recorded", file=file,
                hint="keep the samples beside the results (lm-eval --log_samples), or give a long CSV",
            )  # fmt: skip
        else:
            rows.append(
                {
                    **place,
                    **nothing,
                    "questions": asked,
                    "samples_per_question": 1,
                    "accuracy_percent": 100 * accuracy,
                }
            )
    if not rows:
        raise SpecError(
            "has no task with an accuracy", file=file, hint=f"known metrics: {', '.join(_METRICS)}"
        )
    return rows


def _model(data: dict[str, Any]) -> str:
    general = data.get("config_general") or {}
    named = general.get("model_name") or (general.get("model_config") or {}).get("model_name")
    if named:
        return str(named)
    arguments = str((data.get("config") or {}).get("model_args", ""))
    found = re.search(r"(?:pretrained|model)['\"]?[=:]\s*['\"]?([^,'\"}]+)", arguments)
    return str(data.get("model_name") or (found[1] if found else ""))


def _accuracy(metrics: Any) -> float | None:
    if not isinstance(metrics, dict):
        return None
    # lm-eval writes `exact_match,strict-match`, lighteval the plain name.
    plain = {k.split(",")[0]: v for k, v in reversed(metrics.items()) if isinstance(v, int | float)}
    return next((float(plain[m]) for m in _METRICS if m in plain), None)


def _benchmark(task: str) -> str:
    """`lighteval|aime24|0` and `custom|aime24|0|0` are aime24."""
    parts = task.split("|")
    return parts[1] if len(parts) > 2 else parts[0]


def _is_mean(data: dict[str, Any], task: str) -> bool:
    """Whether it is the mean over other tasks: a group of lm-eval, lighteval's `all` and `math:_average`."""
    members = (data.get("group_subtasks") or {}).get(task)
    return bool(members) or task == "all" or ":_average" in task


def _questions(data: dict[str, Any], task: str) -> int | None:
    counted = (data.get("n-samples") or {}).get(task) or (data.get("config_tasks") or {}).get(task) or {}
    if not counted:
        short = "|".join(task.split("|")[:2])
        tasks = (data.get("config_tasks") or {}).items()
        counted = next((v for k, v in tasks if k == short or k.startswith(f"{short}|")), {})
    number = counted.get("effective") or counted.get("effective_num_docs") or counted.get("original_num_docs")
    return int(number) if number and int(number) > 0 else None


def _samples(file: Path, task: str) -> dict[str, float]:
    """Share right by question of lm-eval's `samples_<task>_<time>.jsonl`; with several filters, the first."""
    stamp = file.stem.removeprefix("results")
    files = sorted(file.parent.glob(f"samples_{task}{stamp}.jsonl"))
    right: dict[str, float] = {}
    first: str | None = None
    for line in files[0].read_text(encoding="utf-8").splitlines() if files else []:
        sample = json.loads(line)
        first = first or sample.get("filter")
        name = next((m for m in _METRICS if m in sample), None)
        if name is not None and sample.get("filter") == first:
            right[str(sample.get("doc_id"))] = float(sample[name])
    return right
