"""Result files of lighteval, with the details beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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
from harness.store.records.form import JsonObject

_AVERAGE = ":_average"


def read_lighteval(file: Path, data: Mapping[str, Any]) -> ResultFile:
    """What a `results_*.json` holds, with `details/<model>/<date>/*.parquet` where they are kept."""
    results = mapping(data.get("results"))
    tasks: list[TaskResult] = []
    left_out: dict[str, str] = {}
    details = _details(file)
    for key, row in results.items():
        if key == "all" or key.partition("|")[0] == "average" or _AVERAGE in key:
            if key != "all":
                left_out[key] = "is a mean over tasks"
            continue
        _, name, shots = task_parts(key)
        values, errors, wrong = split_metrics(row, set())
        if not values:
            left_out[key] = wrong or "has no metric"
            continue
        config = _of_task(data.get("config_tasks"), key)
        ours = "evaluation_id" in config and "benchmark" in config
        questions, of = _questions(data, config)
        tasks.append(
            TaskResult(
                key=key,
                name=text(config["benchmark"]) if ours else name,
                values=values,
                errors=errors,
                shots=shots,
                version=str(mapping(data.get("versions")).get(key, "")),
                questions=questions,
                of=of,
                step=own_step(config) if ours else None,
                samples=details.get(spelled(key)),
            )
        )
    return ResultFile(file, "lighteval", _model(data), tuple(tasks), left_out)


def task_parts(key: str) -> tuple[str, str, str]:
    """Suite, task and examples in the prompt of `lighteval|aime24|0`, `custom|aime24|0|0`, `aime24|0`, `aime24`."""
    parts = key.split("|")
    if len(parts) > 2:
        return parts[0], parts[1], parts[2]
    if len(parts) == 2 and not parts[1].isdigit():
        return parts[0], parts[1], ""
    return "", parts[0], parts[1] if len(parts) == 2 else ""


def _of_task(configs: Any, key: str) -> JsonObject:
    """The task's entry, which some versions name with fewer or more parts than the results do."""
    suite, name, shots = task_parts(key)
    found = mapping(configs)
    for wanted in (key, *(k for k in found if _same(task_parts(k), (suite, name, shots)))):
        if isinstance(found.get(wanted), dict):
            return dict(found[wanted])
    return {}


def _same(one: tuple[str, str, str], other: tuple[str, str, str]) -> bool:
    return one[1] == other[1] and all(
        a == b or "" in (a, b) for a, b in ((one[0], other[0]), (one[2], other[2]))
    )


def _questions(data: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Questions asked, and how many the task has; −1 stands for unknown."""
    asked, of = whole(config.get("effective_num_docs")), whole(config.get("original_num_docs"))
    most = whole(mapping(data.get("config_general")).get("max_samples"))
    if asked is None and of is not None:
        asked = min(of, most or of)
    return asked, of


def _model(data: Mapping[str, Any]) -> ModelName | None:
    general = mapping(data.get("config_general"))
    config = mapping(general.get("model_config"))
    named = (general.get("model_name"), *(config.get(k) for k in ("model_name", "pretrained", "model")))
    name = next((text(n) for n in named if text(n)), "")
    if not name:
        return None
    revision = text(config.get("revision")) or text(config.get("model_revision"))
    at = "" if revision.lower() in ("", "main", "none") else f"@{revision}"
    base = text(config.get("base_model"))
    sha = text(general.get("model_sha"))
    # `base_model` stands there for adapters and delta weights alone.
    if base and base != name:
        return model_name(base, adapter=name + at, sha=sha)
    kept = [k for k in ("load_in_4bit", "load_in_8bit") if config.get(k) is True]
    if quantised := text(config.get("quantization")):
        kept.append(f"quantization={quantised}")
    if subfolder := text(config.get("subfolder")):
        kept.append(f"subfolder={subfolder}")
    return model_name(name + at, kept=", ".join(kept), sha=sha)


def _details(file: Path) -> dict[str, Path]:
    """Details files of the same date, by the task's name as file names spell it."""
    stamp = file.name.split(".json")[0].removeprefix("results_")
    for above in file.parents:
        if above.name != "results":
            continue
        folder = above.parent / "details" / file.parent.relative_to(above) / stamp
        if folder.is_dir():
            return {
                spelled(p.stem.removeprefix("details_").removesuffix(f"_{stamp}")): p
                for p in sorted(folder.glob("details_*.parquet"))
            }
    return {}


def detail_rows(samples: Path, metric: Metric) -> Iterator[tuple[str, str, int, float]]:
    """Question, nothing, samples and share right of every row.

    Raises:
        SpecError: the file cannot be read, or lacks the metric.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(samples).names
        column = next((c for c in ("metric", "metrics") if c in names), None)
        rows = pq.read_table(samples, columns=[column]).column(0).to_pylist() if column else []
    except (OSError, pa.ArrowException) as error:
        raise SpecError(f"cannot be read: {str(error)[:80]}", file=samples) from error
    for number, row in enumerate(rows):
        found = share_right(mapping(row).get(metric.name), metric.samples if metric.mean else 1)
        if found is None:
            raise SpecError(f"has no {metric.name} of row {number}", file=samples)
        yield str(number), "", *found
