"""One of each record, to be changed where a test says so."""

from __future__ import annotations

from pathlib import Path

from harness.store.records import EvaluationRecord, StepRecord
from harness.store.records.form import parse
from harness.store.schema import load, write_record

STEP = {
    "run_id": "r" * 12,
    "attempt": 1,
    "step": 1,
    "reward": {"mean": 0.5, "std": 0.5, "zero_spread_share": 0.25, "functions": {}},
    "accuracy": 0.5,
    "completion": {"mean_tokens": 20.0, "max_tokens": 32, "truncated_share": 0.0},
    "objective": {"loss": 0.1},
    "tokens": {"prompt": 8, "completion": 80, "trained": 88},
    "samples_seen": 8,
    "epoch": 0.1,
    "timing": {
        "total_seconds": 1.0,
        "seconds": {},
        "tokens_per_second": 88.0,
        "rollout_tokens_per_second": None,
        "train_tokens_per_second": None,
        "flops": 1e6,
        "mfu": None,
    },
    "memory": {},
    "cost_usd": 0.01,
    "time": "2026-01-01T00:00:00+00:00",
}

EVALUATION = {
    "benchmark": "easy",
    "questions": 2,
    "samples": 2,
    "correct": 2,
    "accuracy": 0.5,
    "completion": {"mean_tokens": 20.0, "truncated_share": 0.0, "unparsable_share": 0.0},
    "tokens": {"prompt": 20, "completion": 80},
    "settings": None,
    "model_fingerprint": "m",
    "timing": {"total_seconds": 1.5},
    "memory": {},
    "step": 2,
    "evaluation_id": "e" * 12,
    "benchmark_fingerprint": "b",
    "created_at": "2026-01-01T00:00:00+00:00",
}


def merged(data, changes):
    """Mappings with the changes, at any depth."""
    parts = {k: merged(data[k], v) if isinstance(data.get(k), dict) and isinstance(v, dict) else v
             for k, v in changes.items()}  # fmt: skip
    return {**data, **parts}


def step_record(step=1, **changes):
    return parse(StepRecord, merged(STEP, {"step": step, **changes}), Path("steps.jsonl"))


def evaluation_record(**changes):
    return parse(EvaluationRecord, merged(EVALUATION, changes), Path("evaluation.json"))


OWN = ("schema", "place", "seal")
"""Keys of a record's file that belong to no field."""


def rewrite(kind, path, changes):
    """Changes a record's file as its writer would: its checksum holds."""
    write_record(kind, {**load(kind, path), **changes}, path)
