"""A worker whose training takes milliseconds: synthetic records, checkpoints, and crashes on demand.

Environment: `FAKE_STEP_SECONDS`; `FAKE_CRASH`, `<text in the label>@<step>`, with `FAKE_CRASH_HOW` one of `raise`,
`kill`, `once` (raises in the first attempt alone), `spec` (a mistake of the user's), `value` (one of the code),
`diverge`.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from dataclasses import replace

import pyarrow
import pyarrow.parquet

from harness.matrix import worker
from harness.spec.errors import SpecError
from harness.store.checkpoints import OPTIMIZER_FILE
from harness.store.folders import RunFolder
from harness.store.records import EvaluationRecord, StepRecord
from harness.store.records.form import parse
from harness.training.errors import Diverged, Interrupted


class Samples:
    """What `save_evaluation` needs of a data frame, without the import of pandas."""

    def __init__(self, rows):
        self.columns = list(rows[0])
        self._table = pyarrow.Table.from_pylist(rows)

    def to_parquet(self, file, index):
        pyarrow.parquet.write_table(self._table, file)


def share(*parts):
    """A number in [0, 1) that depends on the parts alone."""
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:8], 16) / 2**32


def execute(job, run, attempt, stop):
    pause = float(os.environ.get("FAKE_STEP_SECONDS", "0"))
    crash, _, at = os.environ.get("FAKE_CRASH", "@").rpartition("@")
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    if job.fork and not run.checkpoint_steps():
        trunk = RunFolder(run.path.parent / job.fork.run_id)
        for step in {job.fork.step} & {*trunk.checkpoint_steps()}:
            for taken in (r for r in trunk.steps() if r.step <= step):
                own = replace(taken, run_id=run.run_id, attempt=attempt.number, forked_from=trunk.run_id)
                attempt.append_step(own)
            checkpoint(run, step)
    start = max(run.checkpoint_steps(), default=0)
    for step in sorted({s for s, _ in run.missing(job)} & {0, *range(start + 1)}):
        evaluate(job, run, attempt, step)
    for step in range(start + 1, max(run.untrained(job), default=0) + 1):
        time.sleep(pause)
        if crash and crash in job.label and step == int(at):
            fail(attempt)
        attempt.append_step(parse(StepRecord, record(job, attempt, step, pause), attempt.steps_file))
        with (run.path / "trained.txt").open("a") as file:
            file.write(f"{step}\n")
        if step in (*job.steps, *job.fork_steps) or stop():
            checkpoint(run, step)
        if stop():
            raise Interrupted
        if step in job.steps:
            evaluate(job, run, attempt, step)


def checkpoint(run, step):
    """A checkpoint that can be trained from, as far as its files tell."""
    folder = run.checkpoints / f"step-{step:06d}"
    folder.mkdir(parents=True)
    (folder / OPTIMIZER_FILE).touch()


def fail(attempt):
    how = os.environ.get("FAKE_CRASH_HOW", "raise")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "spec":
        raise SpecError("planted mistake", hint="mend it")
    if how == "value":
        raise ValueError("planted crash")
    if how == "diverge":
        raise Diverged("the gradient norm is nan")
    if how == "raise" or attempt.number == 1:
        raise RuntimeError("planted crash\nwith a second line")


def record(job, attempt, step, pause):
    seconds = pause + 0.01
    mean = step / max(job.steps)
    return {
        "step": step,
        "run_id": job.run_id,
        "attempt": attempt.number,
        "reward": {
            "mean": mean,
            "std": 0.4,
            "zero_spread_share": 0.1,
            "functions": {f.name: {"mean": mean, "std": 0.4} for f in job.recipe.reward.functions},
        },
        "accuracy": mean,
        "completion": {
            "mean_tokens": 20.0,
            "p10": 10.0,
            "median_tokens": 20.0,
            "p90": 30.0,
            "max_tokens": 32,
            "truncated_share": 0.1,
        },
        "objective": {"loss": 0.1, "grad_norm": 1.0, "learning_rate": 1e-6, "entropy": 1.0},
        "tokens": {"prompt": 100, "completion": 200, "trained": 250},
        "samples_seen": step * 8,
        "epoch": step / 100,
        "timing": {
            "total_seconds": seconds,
            "seconds": {"rollout": seconds / 2, "update": seconds / 2, "other": 0.0},
            "rollout_tokens_per_second": 200 / seconds,
            "train_tokens_per_second": 250 / seconds,
            "tokens_per_second": 300 / seconds,
            "flops": 1e6,
            "mfu": 0.1,
        },
        "memory": {
            "update": {"resident_gib": 0.5, "allocated_gib": None, "reserved_gib": None, "device_gib": None}
        },
        "cost_usd": 0.0001 * step,
        "time": "2026-01-01T00:00:00+00:00",
    }


def evaluate(job, run, attempt, step):
    for benchmark in job.evaluate.benchmarks:
        identity = job.evaluation_ids[benchmark.name]
        if run.evaluation(step, benchmark.name, identity) is not None:
            continue
        with (run.path / "evaluated.txt").open("a") as file:
            file.write(f"{step} {benchmark.name}\n")
        questions, count = benchmark.questions or 4, job.evaluate.samples
        rows = [
            {
                "question_index": q,
                "question_id": f"q{q}",
                "question": f"{q}+{q}=",
                "gold": str(2 * q),
                "sample": k,
                "seed": k,
                "text": "…",
                "answer": str(2 * q),
                "correct": share(job.run_id, step, benchmark.name, q, k) < 0.3 + 0.1 * step,
                "parsable": True,
                "truncated": False,
                "tokens": 20,
            }
            for q in range(questions)
            for k in range(count)
        ]
        correct = sum(row["correct"] for row in rows)
        result = {
            "run_id": job.run_id,
            "attempt": attempt.number,
            "step": step,
            "benchmark": benchmark.name,
            "evaluation_id": identity,
            "questions": questions,
            "samples": count,
            "correct": correct,
            "accuracy": correct / len(rows),
            "pass_at_k": {"1": correct / len(rows)},
            "majority_accuracy": correct / len(rows),
            "completion": {"mean_tokens": 20.0, "truncated_share": 0.0, "unparsable_share": 0.0},
            "tokens": {"prompt": 10 * questions, "completion": 20 * len(rows)},
            "timing": {"total_seconds": 0.01, "tokens_per_second": 2000.0},
            "memory": {"evaluation": {"resident_gib": 0.4}},
            "settings": None,
            "model_fingerprint": "m",
            "benchmark_fingerprint": "b",
            "created_at": "2026-01-01T00:00:00+00:00",
        }
        run.save_evaluation(parse(EvaluationRecord, result, run.path), Samples(rows))


if __name__ == "__main__":
    sys.exit(worker.main(execute=execute))
