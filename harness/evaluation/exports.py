"""Result files in the forms of lm-evaluation-harness and of lighteval, for tools that read those."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.evaluation.tables import Located, model_name
from harness.spec.engines import FIRST_ENGINE
from harness.store.atomic import make_folder, to_json, write_json, write_text
from harness.store.folders import RunFolder
from harness.store.records import EvaluationRecord, EvaluationSettings
from harness.store.records.form import JsonObject

TASK_VERSION = 1


def export(found: Sequence[Located], folder: Path) -> list[Path]:
    """Writes `lm_eval/<model>/results_<id>.json` with `samples_<task>_<id>.jsonl`, and
    `lighteval/results/<model>/results_<id>.json`, a set per model; returns the result files.

    A cap and a step are part of a task's name where a run has several. `<id>` is the run's identity, not a time, so
    that the same evaluations give the same files.
    """
    written = []
    for run_id in dict.fromkeys(run.run_id for run, _ in found):
        own = [(run, record) for run, record in found if run.run_id == run_id]
        name = model_name(*own[0])
        slug = re.sub(r"[^A-Za-z0-9.-]+", "__", name)
        tasks = _task_names([record for _, record in own])
        first = folder / "lm_eval" / slug
        second = folder / "lighteval" / "results" / slug
        for path in (first, second):
            make_folder(path)
        records = [record for _, record in own]
        write_json(first / f"results_{run_id}.json", lm_eval_results(name, tasks, records))
        for (run, record), task in zip(own, tasks, strict=True):
            lines = "".join(to_json(line) + "\n" for line in _lm_eval_samples(run, record))
            write_text(first / f"samples_{task}_{run_id}.jsonl", lines)
        write_json(second / f"results_{run_id}.json", lighteval_results(name, tasks, records))
        written += [first / f"results_{run_id}.json", second / f"results_{run_id}.json"]
    return written


def _benchmark_names(records: Sequence[EvaluationRecord]) -> list[str]:
    """The benchmark of each record, with the cap where a checkpoint was measured under several."""
    names = [r.benchmark for r in records]
    # Other settings than the cap may differ too; then only the identity tells them apart.
    for distinct in (_cap, _identity):
        counts = Counter((r.step, name) for r, name in zip(records, names))
        crowded = {name for (_, name), count in counts.items() if count > 1}
        names = [f"{n}_{distinct(r)}" if n in crowded else n for r, n in zip(records, names)]
    return names


def _cap(record: EvaluationRecord) -> object:
    return record.known_settings.max_completion_tokens


def _identity(record: EvaluationRecord) -> object:
    return record.evaluation_id


def _task_names(records: Sequence[EvaluationRecord]) -> list[str]:
    names = _benchmark_names(records)
    several = len({r.step for r in records}) > 1
    return [f"{n}_step-{r.step}" if several else n for n, r in zip(names, records)]


def _origins(records: Sequence[EvaluationRecord]) -> list[JsonObject]:
    """What a task's name alone does not say for certain: benchmark, evaluation and step, by which this project reads
    its exports back."""
    several = len({r.step for r in records}) > 1
    return [
        {"benchmark": n, "evaluation_id": r.evaluation_id, **({"step": r.step} if several else {})}
        for n, r in zip(_benchmark_names(records), records)
    ]


def _error(record: EvaluationRecord, name: str) -> float | None:
    """A standard error for tools that want one: a quarter of the 95 % interval's width over 0.98."""
    low, high = (record.intervals or {}).get(name, (math.nan, math.nan))
    return None if math.isnan(low) else (high - low) / (2 * 1.959964)


def lm_eval_results(name: str, tasks: Sequence[str], records: Sequence[EvaluationRecord]) -> JsonObject:
    """The results file of lm-evaluation-harness: `exact_match` is avg@K; pass@k and maj@k stand beside it."""
    first, made_by = records[0].known_settings, records[0].provenance
    results: JsonObject = {}
    configs: JsonObject = {}
    for task, record, origin in zip(tasks, records, _origins(records), strict=True):
        row: JsonObject = {
            "alias": task,
            "exact_match,none": record.accuracy,
            "exact_match_stderr,none": _error(record, "accuracy"),
        }
        for kind, label, values in (
            ("pass_at_k", "pass", record.pass_at_k),
            ("majority_at_k", "maj", record.majority_at_k),
        ):
            for k, value in (values or {}).items():
                row[f"{label}@{k},none"] = value
                row[f"{label}@{k}_stderr,none"] = _error(record, f"{kind}.{k}")
        results[task] = row
        settings = record.known_settings
        configs[task] = {
            "task": task,
            "output_type": "generate_until",
            "repeats": record.samples,
            "num_fewshot": 0,
            "doc_to_text": settings.prompt.template,
            "description": settings.prompt.system or "",
            "generation_kwargs": _generation(settings),
            "metadata": {"version": TASK_VERSION, **origin},
        }
    return {
        "results": results,
        "group_subtasks": {task: [] for task in tasks},
        "configs": configs,
        "versions": dict.fromkeys(tasks, TASK_VERSION),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {
            task: {key.partition(",")[0]: True for key in row if "stderr" not in key and key != "alias"}
            for task, row in results.items()
        },
        "n-samples": {
            task: {"original": r.questions, "effective": r.questions} for task, r in zip(tasks, records)
        },
        "config": {
            "model": first.engine or FIRST_ENGINE,
            "model_args": f"pretrained={name}",
            "model_source": name,
            "model_name": name,
            "random_seed": first.seed,
            "gen_kwargs": _generation(first),
        },
        "git_hash": made_by.commit if made_by else None,
        "model_source": name,
        "model_name": name,
        "chat_template_applied": True,
    }


def _generation(settings: EvaluationSettings) -> JsonObject:
    return {
        "max_gen_toks": settings.max_completion_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "do_sample": settings.temperature > 0,
    }


def _lm_eval_samples(run: RunFolder, record: EvaluationRecord) -> list[JsonObject]:
    frame = run.samples(record.step, record.benchmark, record.evaluation_id, None)
    generation = _generation(record.known_settings)
    lines = []
    for index, group in frame.groupby("question_index", sort=True):
        first = group.iloc[0]
        lines.append(
            {
                "doc_id": int(str(index)),
                "doc": {"id": first["question_id"], "question": first["question"], "answer": first["gold"]},
                "target": first["gold"],
                "arguments": {"gen_args_0": {"arg_0": first["question"], "arg_1": generation}},
                "resps": [group["text"].tolist()],
                "filtered_resps": [[a if isinstance(a, str) else None for a in group["answer"]]],
                "filter": "none",
                "metrics": ["exact_match"],
                "exact_match": float(group["correct"].mean()),
            }
        )  # fmt: skip
    return lines


def _task_row(record: EvaluationRecord) -> dict[str, float | None]:
    """What lighteval says of a task: each figure, and its standard error where it has one."""
    n = record.samples
    row: dict[str, float | None] = {
        f"avg@n:n={n}": record.accuracy,
        f"avg@n:n={n}_stderr": _error(record, "accuracy"),
    }
    for k, value in (record.pass_at_k or {}).items():
        row[f"pass@k:k={k}&n={n}"] = value
        row[f"pass@k:k={k}&n={n}_stderr"] = _error(record, f"pass_at_k.{k}")
    for k, value in (record.majority_at_k or {}).items():
        row[f"maj@n:n={k}"] = value
        row[f"maj@n:n={k}_stderr"] = _error(record, f"majority_at_k.{k}")
    return row


def _mean_row(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean over tasks of what all of them have; standard errors are those of independent tasks."""
    mean: dict[str, float | None] = {}
    for key in (key for key in rows[0] if all(key in row for row in rows)):
        values = [row[key] for row in rows]
        known = [v for v in values if v is not None]
        if key.endswith("_stderr"):
            mean[key] = sum(v * v for v in known) ** 0.5 / len(values) if len(known) == len(values) else None
        else:
            mean[key] = sum(known) / len(known)
    return mean


def lighteval_results(name: str, tasks: Sequence[str], records: Sequence[EvaluationRecord]) -> JsonObject:
    """The results file of lighteval: `avg@n`, `pass@k` and `maj@n` by task, and their mean over tasks as `all`."""
    results = {f"{task}|0": _task_row(record) for task, record in zip(tasks, records, strict=True)}
    settings = records[0].known_settings
    return {
        "config_general": {
            "lighteval_sha": None,
            "num_fewshot_seeds": 1,
            "max_samples": None,
            "job_id": records[0].run_id or "",
            "model_name": name,
            "model_config": {
                "model_name": name,
                "generation_parameters": {
                    "temperature": settings.temperature,
                    "top_p": settings.top_p,
                    "max_new_tokens": settings.max_completion_tokens,
                    "seed": settings.seed,
                },
                "system_prompt": settings.prompt.system,
            },
        },
        "results": {**results, "all": _mean_row(list(results.values()))},
        "versions": {f"{task}|0": TASK_VERSION for task in tasks},
        "config_tasks": {
            f"{task}|0": {
                "name": task,
                "generation_size": record.known_settings.max_completion_tokens,
                "num_samples": [record.samples],
                "original_num_docs": record.questions,
                "effective_num_docs": record.questions,
                "version": TASK_VERSION,
                **origin,
            }
            for task, record, origin in zip(tasks, records, _origins(records), strict=True)
        },
        "summary_tasks": {},
        "summary_general": {},
    }
