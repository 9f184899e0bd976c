"""Result files of lm-evaluation-harness, of every version since 0.3."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.reporting.sources.json_files import PACKED_SUFFIXES, json_values
from harness.reporting.sources.metric_names import Metric
from harness.reporting.sources.result_file import (
    ModelName,
    ResultFile,
    TaskResult,
    mapping,
    model_name,
    own_step,
    share_right,
    spelled,
    split_metrics,
    text,
    whole,
)
from harness.spec.errors import SpecError

_ADAPTERS = ("peft", "delta", "lora_local_path")
_BASES = ("pretrained", "model", "path", "engine")
_QUANTISED = (
    "load_in_4bit",
    "load_in_8bit",
    "autogptq",
    "gptqmodel",
    "quantization",
    "gguf_file",
    "subfolder",
)
_NOTHING = ("", "none", "null", "false")
_GROUP_OF = re.compile(r"[_\-]")


def read_lm_eval(file: Path, data: Mapping[str, Any]) -> ResultFile:
    """What a `results_*.json` holds, with the samples beside it."""
    results = mapping(data.get("results"))
    tasks: list[TaskResult] = []
    left_out: dict[str, str] = {}
    beside = _Samples(file, data, list(results))
    for key, row in results.items():
        if members := _members(data, key):
            left_out[key] = (
                f"is the mean of {len(members)} subtask{'s' * (len(members) > 1)}, read one by one"
            )
            continue
        own = mapping(mapping(data.get("higher_is_better")).get(key))
        values, errors, wrong = split_metrics(row, {name for name, higher in own.items() if higher is False})
        if not values:
            left_out[key] = wrong or "has no metric"
            continue
        config = mapping(mapping(data.get("configs")).get(key))
        metadata = mapping(config.get("metadata"))
        ours = "evaluation_id" in metadata and "benchmark" in metadata
        samples, why = beside.of(key)
        questions, of = _questions(data, key, mapping(row))
        tasks.append(
            TaskResult(
                key=key,
                name=text(metadata["benchmark"]) if ours else key,
                values=values,
                errors=errors,
                shots=text(mapping(data.get("n-shot")).get(key, config.get("num_fewshot"))),
                version=str(mapping(data.get("versions")).get(key, "")),
                questions=questions,
                of=of,
                step=own_step(metadata) if ours else None,
                samples=samples,
                no_samples=why,
                own_ids=ours,
            )
        )
    return ResultFile(file, "lm-eval", _model(data), tuple(tasks), left_out)


def _members(data: Mapping[str, Any], key: str) -> list[str]:
    """Tasks in the file that a group's row is the mean of; none for a task."""
    results, groups = mapping(data.get("results")), mapping(data.get("group_subtasks"))
    found: list[str] = []
    waiting = [key]
    while waiting:
        inner = groups.get(waiting.pop())
        for name in inner if isinstance(inner, list) else []:
            if isinstance(name, str) and name not in found and name != key:
                found.append(name)
                waiting.append(name)
    # Versions before group_subtasks say which rows are groups, and name subtasks after them.
    if not found and key in mapping(data.get("groups")):
        found = [k for k in results if k.startswith(key) and _GROUP_OF.match(k, len(key))]
    leaves = [name for name in found if not groups.get(name)]
    return [name for name in leaves if name in results]


def _questions(data: Mapping[str, Any], key: str, row: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Questions asked, and how many the task has."""
    counted = mapping(data.get("n-samples")).get(key)
    counted = counted if isinstance(counted, dict) else {"effective": counted}
    asked = whole(counted.get("effective")) or whole(counted.get("original"))
    return asked or whole(row.get("sample_len")) or whole(row.get("samples")), whole(counted.get("original"))


def _model(data: Mapping[str, Any]) -> ModelName | None:
    config = mapping(data.get("config"))
    arguments = _arguments(config.get("model_args"))
    base = next((arguments[k] for k in _BASES if arguments.get(k)), "") or text(data.get("model_name"))
    base = base or text(config.get("model_name"))
    if not base:
        return None
    revision = arguments.get("revision") or text(config.get("model_revision"))
    if revision.lower() not in (*_NOTHING, "main"):
        base = f"{base}@{revision}"
    adapter = next((arguments[k] for k in _ADAPTERS if arguments.get(k, "").lower() not in _NOTHING), "")
    kept = [
        k if arguments[k].lower() == "true" else f"{k}={arguments[k]}"
        for k in _QUANTISED
        if arguments.get(k, "").lower() not in _NOTHING
    ]
    sha = text(config.get("peft_sha")) or text(config.get("model_sha"))
    return model_name(base, adapter=adapter, kept=", ".join(kept), sha=sha)


def _arguments(given: Any) -> dict[str, str]:
    """`pretrained=a,dtype=float16`, or the mapping that newer versions write, or that as text."""
    if isinstance(given, str) and given.lstrip().startswith("{"):
        try:
            given = ast.literal_eval(given.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return {}
    if isinstance(given, dict):
        return {str(k): str(v).strip() for k, v in given.items() if not isinstance(v, dict | list)}
    found: dict[str, str] = {}
    last = ""
    for part in given.split(",") if isinstance(given, str) else []:
        key, mark, value = part.partition("=")
        if mark:
            last = key.strip()
            found[last] = value.strip()
        elif last:  # A comma of the value itself.
            found[last] += f",{part}"
    return found


class _Samples:
    """The samples files beside a results file."""

    def __init__(self, file: Path, data: Mapping[str, Any], tasks: list[str]) -> None:
        self._inline = mapping(data.get("samples"))
        self._stamp = file.name.split(".json")[0].removeprefix("results")
        self._tasks = tasks
        given = mapping(data.get("config")).get("model_args")
        prefix = re.sub(r"/|=", "__", given) if isinstance(given, str) else ""
        self._found: dict[str, Path] = {}
        self._others: list[str] = []
        for path in sorted(file.parent.iterdir()) if file.name.startswith("results") else []:
            name = path.name
            for suffix in PACKED_SUFFIXES:
                name = name.removesuffix(suffix)
            stem, _, kind = name.rpartition(".")
            if kind not in ("jsonl", "json"):
                continue
            if name.startswith("samples_") and stem.endswith(self._stamp):
                self._found.setdefault(stem.removeprefix("samples_").removesuffix(self._stamp), path)
            elif name.startswith("samples_"):
                self._others.append(name)
            elif prefix and name.startswith(f"{prefix}_"):  # Version 0.4.0.
                self._found.setdefault(stem.removeprefix(f"{prefix}_"), path)

    def of(self, task: str) -> tuple[Path | list[Any] | None, str]:
        """The task's samples, or why those that are there are of no use."""
        if isinstance(inline := self._inline.get(task), list):
            return inline, ""
        if task in self._found:
            return self._found[task], ""
        same = [t for t in self._tasks if spelled(t) == spelled(task)]
        near = [
            path for name, path in self._found.items() if spelled(name) == spelled(task) and name not in same
        ]
        if near and len(same) > 1:
            return None, f"{near[0].name} may be of {' or of '.join(same)}"
        if near:
            return near[0], ""
        others = [n for n in self._others if re.match(rf"{re.escape(spelled(task))}_\d", spelled(n[8:]))]
        return None, f"{others[-1]} is of another date" if others else ""


def question_rows(
    samples: Path | list[Any], metric: Metric, *, own_ids: bool = False
) -> Iterator[tuple[str, str, int, float]]:
    """Question, digest of its text, samples and share right of every row that `metric` was computed on.

    Raises:
        SpecError: the rows are no samples, or lack the metric.
    """
    where = samples if isinstance(samples, Path) else None
    rows = list(json_values(samples) if isinstance(samples, Path) else samples)
    own = [r for r in rows if isinstance(r, dict) and r.get("filter", "none") == (metric.filter or "none")]
    if not any(isinstance(r, dict) and "filter" in r for r in rows):  # Before filters were recorded.
        own = [r for r in rows if isinstance(r, dict)]
    if not own or len(rows) != sum(isinstance(r, dict) for r in rows):
        raise SpecError(f"holds no samples of {metric.key}", file=where)
    ids = [_question(row, own_ids) for row in own]
    if own_ids and (None in ids or len(set(ids)) < len(ids)):
        ids = [_question(row, False) for row in own]
    if None in ids or len(set(ids)) < len(ids):
        raise SpecError("names a question twice, or not at all", file=where)
    for name, row in zip(ids, own):
        found = share_right(row.get(metric.name), _sample_count(row) if metric.mean else 1)
        if found is None:
            raise SpecError(f"has no {metric.name} of question {name}", file=where)
        yield str(name), text(row.get("doc_hash")), *found


def _question(row: Mapping[str, Any], own: bool) -> str | None:
    value = mapping(row.get("doc")).get("id") if own else row.get("doc_id")
    return text(value) or None


def _sample_count(row: Mapping[str, Any]) -> int:
    """Filtered responses: one where a filter takes the first or the most frequent of several."""
    responses = row.get("filtered_resps")
    first = responses[0] if isinstance(responses, list) and len(responses) == 1 else None
    texts = isinstance(first, list) and all(isinstance(r, str | None) for r in first)
    return len(first) if isinstance(first, list) and texts and first else 1
