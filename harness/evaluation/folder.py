"""Evaluations in a run's folder: made once, continued where they were interrupted, cut from longer ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from harness.data.mix import build_benchmark
from harness.data.problem import Problem
from harness.data.sources import dropped_rows, source_fingerprint
from harness.evaluation.evaluate import Evaluator
from harness.evaluation.parts import parts_for
from harness.spec.engines import ENGINES
from harness.spec.evaluation import BenchmarkSpec, EvaluateSpec
from harness.spec.identity import evaluation_identity
from harness.spec.prompt import PromptSpec
from harness.store.atomic import utc_now
from harness.store.errors import StoreError
from harness.store.folders import RunFolder
from harness.store.records import EvaluationFigures, EvaluationRecord, MadeBy

STORED_COLUMNS = (
    *("question_index", "question_id", "question", "gold", "sample", "seed", "text", "truncated", "tokens"),
    *("token_ids", "logprob"),
)
"""Columns of an evaluation's samples that scoring starts from."""


def evaluate_into(
    folder: RunFolder,
    step: int,
    evaluator: Evaluator,
    benchmark: BenchmarkSpec,
    identity: str,
    *,
    spec: EvaluateSpec,
    prompt: PromptSpec,
    made_by: MadeBy,
    problems: Sequence[Problem] | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EvaluationRecord:
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
        made_by: who evaluates, for the record.
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
    fingerprint, dropped = source_fingerprint(benchmark.source), dropped_rows(benchmark.source)

    def save(figures: EvaluationFigures, samples: pd.DataFrame) -> EvaluationRecord:
        record = EvaluationRecord(
            **vars(figures),
            step=step,
            evaluation_id=identity,
            benchmark_fingerprint=fingerprint,
            **vars(made_by),
            invalid_rows=dropped,
            created_at=utc_now(),
        )
        folder.save_evaluation(record, samples)
        return record

    longer = longer_evaluation(folder, step, benchmark, spec, prompt)
    if longer is not None:
        return save(*evaluator.shortened(benchmark, *longer))
    name = f"step-{step:06d}.{benchmark.name}.{identity}"
    unfinished = folder.path / "evaluations" / ".parts" / name
    with parts_for(unfinished, f"{folder.run_id}/{name}") as parts:
        questions = problems or build_benchmark(benchmark)
        return save(*evaluator.run(benchmark, questions, parts=parts, stop=stop, progress=progress))


def longer_evaluation(
    folder: RunFolder, step: int, benchmark: BenchmarkSpec, spec: EvaluateSpec, prompt: PromptSpec
) -> tuple[EvaluationRecord, pd.DataFrame] | None:
    """The shortest evaluation on file of which this one is the truncation, with its samples."""
    found = []
    for record in folder.evaluations():
        settings = record.settings
        if record.step != step or record.benchmark != benchmark.name or settings is None:
            continue
        cap = settings.max_completion_tokens
        if cap <= spec.max_completion_tokens or record.truncated_from:
            continue
        # Only an exact engine gives under a smaller cap what it gave under a larger one, cut.
        if (engine := ENGINES.get(settings.engine or "")) is None or not engine.exact:
            continue
        same = spec.model_copy(update={"max_completion_tokens": cap})
        content = record.benchmark_fingerprint
        if (
            content == source_fingerprint(benchmark.source)
            and evaluation_identity(same, benchmark, prompt, benchmark_fingerprint=content).digest
            == record.evaluation_id
        ):
            found.append((cap, record))
    for _, record in sorted(found, key=lambda pair: pair[0]):
        samples = stored_samples(folder, record)
        if samples is not None:
            return record, samples
    return None


def stored_samples(folder: RunFolder, record: EvaluationRecord) -> pd.DataFrame | None:
    """An evaluation's completions, unscored; None where an older version kept no tokens, or they cannot be read."""
    key = (record.step, record.benchmark, record.evaluation_id)
    try:
        return folder.samples(*key, list(STORED_COLUMNS))
    except StoreError:
        return None
