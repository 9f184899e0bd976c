"""Evaluations in a run's folder: made once, continued where they were interrupted, cut from longer ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from harness.data.mix import build_benchmark
from harness.data.problem import Problem
from harness.data.sources import dropped_rows, source_fingerprint
from harness.evaluation.evaluate import Evaluator
from harness.evaluation.parts import parts_for
from harness.spec.evaluation import BenchmarkSpec, EvaluateSpec
from harness.spec.identity import evaluation_identity
from harness.spec.prompt import PromptSpec
from harness.store.atomic import utc_now
from harness.store.errors import StoreError
from harness.store.folders import RunFolder

STORED_COLUMNS = (
    *("question_index", "question_id", "question", "gold", "sample", "seed", "text", "truncated", "tokens"),
    *("token_ids", "logprob"),
)
"""Columns of an evaluation's samples that scoring starts from."""

EXACT_ENGINES = ("transformers",)
"""Engines whose tokens depend on the request and what precedes them, and not on the batch or the cap."""


def evaluate_into(
    folder: RunFolder,
    step: int,
    evaluator: Evaluator,
    benchmark: BenchmarkSpec,
    identity: str,
    *,
    spec: EvaluateSpec,
    prompt: PromptSpec,
    provenance: dict[str, Any],
    problems: Sequence[Problem] | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Evaluates a checkpoint on a benchmark, unless that is on file.

    An evaluation under a larger cap that is the same otherwise is cut, not sampled anew.

    Args:
        folder: the run's.
        step: the checkpoint's.
        evaluator: holds the checkpoint's weights.
        benchmark: what is asked.
        identity: digest of the evaluation's identity.
        spec: the evaluator's settings.
        prompt: the run's prompt.
        provenance: fields that the record gets besides the figures, such as `run_id` and `attempt`.
        problems: the benchmark's questions; loaded if None.
        stop: polled between parts.
        progress: told how many of how many questions are sampled.

    Returns:
        The record.

    Raises:
        SpecError: a prompt and the cap together are beyond the model's context.
        EvaluationStopped: `stop` became true; what was sampled is on file.
    """
    if (known := folder.evaluation(step, benchmark.name, identity)) is not None:
        return known
    fields: dict[str, Any] = {
        "step": step,
        "evaluation_id": identity,
        "benchmark_fingerprint": source_fingerprint(benchmark.source),
        **provenance,
    }
    if (dropped := dropped_rows(benchmark.source)) is not None:
        fields["invalid_rows"] = dropped
    longer = longer_evaluation(folder, step, benchmark, spec, prompt)
    if longer is not None:
        record, samples = evaluator.shortened(benchmark, *longer)
        record |= fields | {"created_at": utc_now()}
        folder.save_evaluation(record, samples)
        return record
    unfinished = folder.path / "evaluations" / ".parts" / f"step-{step:06d}.{benchmark.name}.{identity}"
    with parts_for(unfinished) as parts:
        record, samples = evaluator.run(
            benchmark, problems or build_benchmark(benchmark), parts=parts, stop=stop, progress=progress
        )
        record |= fields | {"created_at": utc_now()}
        folder.save_evaluation(record, samples)
    return record


def longer_evaluation(
    folder: RunFolder, step: int, benchmark: BenchmarkSpec, spec: EvaluateSpec, prompt: PromptSpec
) -> tuple[dict[str, Any], pd.DataFrame] | None:
    """The shortest evaluation on file of which this one is the truncation, with its samples."""
    found = []
    for record in folder.evaluations():
        cap = record.get("settings", {}).get("max_completion_tokens", 0)
        if record["step"] != step or record["benchmark"] != benchmark.name:
            continue
        if cap <= spec.max_completion_tokens or record.get("truncated_from"):
            continue
        if record["settings"].get("engine") not in EXACT_ENGINES:
            continue
        same = spec.model_copy(update={"max_completion_tokens": cap})
        content = record["benchmark_fingerprint"]
        if (
            content == source_fingerprint(benchmark.source)
            and evaluation_identity(same, benchmark, prompt, benchmark_fingerprint=content).digest
            == record["evaluation_id"]
        ):
            found.append((cap, record))
    for _, record in sorted(found, key=lambda pair: pair[0]):
        samples = stored_samples(folder, record)
        if samples is not None:
            return record, samples
    return None


def stored_samples(folder: RunFolder, record: dict[str, Any]) -> pd.DataFrame | None:
    """An evaluation's completions, unscored; None where an older version kept no tokens, or they cannot be read."""
    key = (record["step"], record["benchmark"], record["evaluation_id"])
    try:
        return folder.samples(*key, list(STORED_COLUMNS))
    except StoreError:
        return None
