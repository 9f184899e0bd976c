"""What is in one result file of lm-eval or lighteval, before anything is chosen."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.reporting.sources.metric_names import Metric, parse_metric
from harness.store.records.form import JsonObject

_STEP = re.compile(r"[-_/@](?:checkpoint|step|global_step)[-_]?0*(\d{1,15})/?$")
_NO_METRICS = {"", "alias", "name", "samples", "sample_len", "sample_count"}


@dataclass(frozen=True)
class ModelName:
    """Who a file's model is.

    Attributes:
        run: its name without a trailing `checkpoint-N` or `step-N`.
        step: that N.
        base: of an adapter, the model that it adapts; else empty.
        sha: commit of its weights on the hub, where recorded.
    """

    run: str
    step: int | None = None
    base: str = ""
    sha: str = ""


def model_name(name: str, *, adapter: str = "", kept: str = "", sha: str = "") -> ModelName:
    """The model of `name` (with its revision behind an @), of an adapter on it, and of what else tells it apart."""
    whole = f"{name}+{adapter}" if adapter else name
    found = _STEP.search(whole)
    run, step = (whole[: found.start()], int(found[1])) if found else (whole, None)
    return ModelName(f"{run} ({kept})" if kept else run, step, name if adapter else "", sha)


@dataclass(frozen=True)
class TaskResult:
    """One task of a file.

    Attributes:
        key: as the file has it.
        name: the benchmark's.
        values: every metric that is a number, in the file's order.
        shots: examples in the prompt, where recorded.
        version: the task's, where recorded.
        questions: asked, where recorded.
        of: questions that the task has, where recorded.
        step: of the checkpoint, where the task itself says so (exports of this project).
        errors: standard error by metric, where recorded.
        samples: a file with a row per question; or the rows themselves; None where there is none.
        no_samples: why there is none, where a file is there that is of no use.
        own_ids: whether a row's `doc.id` names its question (exports of this project).
    """

    key: str
    name: str
    values: Mapping[Metric, float]
    shots: str = ""
    version: str = ""
    questions: int | None = None
    of: int | None = None
    step: int | None = None
    errors: Mapping[Metric, float] = field(default_factory=dict)
    samples: Path | list[Any] | None = None
    no_samples: str = ""
    own_ids: bool = False


@dataclass(frozen=True)
class ResultFile:
    """One file.

    Attributes:
        path: the file.
        tool: `lm-eval` or `lighteval`.
        model: None where it names none.
        tasks: those with a metric that is a number.
        left_out: reason by task.
    """

    path: Path
    tool: str
    model: ModelName | None
    tasks: tuple[TaskResult, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)


def is_number(value: Any) -> bool:
    """Whether it is a finite number of a size that a figure may have; no truth value."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < 1e15
        and math.isfinite(value)
    )


def whole(value: Any) -> int | None:
    """A count above 0, also one that is written as text or as 30.0; None for everything else."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 16:
        value = int(value)
    return int(value) if is_number(value) and value > 0 and value == int(value) else None


def share_right(value: Any, samples: int) -> tuple[int, float] | None:
    """Samples of a question and their share that is right; None where the value is no number.

    A value between two such shares is of one sample: partial credit, or a vote.
    """
    if not is_number(value) and not isinstance(value, bool):
        return None
    right = float(value) * samples
    return (samples if abs(right - round(right)) < 1e-9 * samples else 1), float(value)


def own_step(entry: Mapping[str, Any]) -> int | None:
    """The checkpoint's step in an export of this project."""
    return 0 if entry.get("step") == 0 else whole(entry.get("step"))


def mapping(value: Any) -> JsonObject:
    """The value where it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: Any) -> str:
    """The value where it is a name, else nothing."""
    return value.strip() if isinstance(value, str) else str(value) if isinstance(value, int) else ""


def questions_by_error(accuracy: float, error: float) -> int | None:
    """Questions n of a mean p of right and wrong whose standard error is sqrt(p (1 − p) / (n − 1)), as both tools do.

    None where the figures give no whole number of questions and of right ones, as rounded or bootstrapped ones do.
    """
    if not 0 < accuracy < 1 or error <= 0:
        return None
    number = 1 + accuracy * (1 - accuracy) / error**2
    if number > 1e7 or any(abs(v - round(v)) > 1e-4 for v in (number, accuracy * number)):
        return None
    return round(number)


def spelled(name: str) -> str:
    """A task's name as both tools spell it in file names: whatever is no letter, digit or underscore is one."""
    return re.sub(r"\W", "_", name)


def split_metrics(
    metrics: Any, lower_is_better: set[str]
) -> tuple[dict[Metric, float], dict[Metric, float], str]:
    """Metrics of a task that are numbers, with values and standard errors, and why others are none."""
    values: dict[Metric, float] = {}
    errors: dict[Metric, float] = {}
    wrong = []
    for key, value in mapping(metrics).items():
        name = key.partition(",")[0]
        if "stderr" in name:
            if is_number(value):
                errors[parse_metric(key.replace("_stderr", ""))] = float(value)
        elif name.strip() in _NO_METRICS:
            continue
        elif not is_number(value):
            wrong.append(f"{key} is {_short(value)}")
        elif name in lower_is_better:
            wrong.append(f"{key} is better when lower")
        else:
            values.setdefault(parse_metric(key), float(value))
    return values, errors, ", ".join(wrong[:3])


def _short(value: Any) -> str:
    return f"{str(value)[:20]!r}, no number" if isinstance(value, str) else f"{str(value)[:20]}, no number"
