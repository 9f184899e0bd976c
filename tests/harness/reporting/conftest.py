"""A deterministic toy trainer with planted effects that leaves real folders behind."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special

from harness.store.folders import Store
from harness.store.records import AttemptError, EvaluationRecord, Provenance, StepRecord
from harness.store.records.form import parse
from harness.store.schema import write_record

PROVENANCE = Provenance(
    commit="0123456789abcdef0123456789abcdef01234567",
    dirty=False,
    versions={"python": "3.11.9", "torch": "2.13.0", "grpo-ablation-harness": "0.1.0"},
    platform="Linux-test",
    cpu="Test CPU",
    cores=2,
    memory_gib=8.0,
    device="Test CPU",
    command=("worker.py",),
)
PHASES = {"rollout": 0.55, "reward": 0.03, "logprob": 0.1, "update": 0.25, "optimizer": 0.02, "other": 0.05}


@dataclass(kw_only=True)
class Toy:
    """What the toy trainer is asked for. Effects are fractions of accuracy by (axis, level)."""

    axes: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "data": ("easy", "mixed"),
            "length_cap": ("16", "32"),
            "reward": ("accuracy", "cosine"),
        }
    )
    steps: tuple[int, ...] = (10, 20, 40)
    seeds: tuple[int, ...] = (0,)
    effects: Mapping[tuple[str, str], float] = field(default_factory=dict)
    gain: float = 0.1
    run_sd: float = 0.01
    benchmarks: Mapping[str, int] = field(default_factory=lambda: {"easy": 200, "medium": 200, "hard": 200})
    samples: int = 4
    failed: tuple[int, ...] = ()
    text: str = "3+4=7 \\boxed{7}"
    delta: float = 0.02
    entropy: int = 7
    load: Mapping[tuple[str, str], float] | None = None
    """Share of the machine that other programs have while a level's runs train; None where it was not measured."""


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _samples(toy: Toy, rates: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    correct = rng.random((len(rates), toy.samples)) < rates[:, None]
    index, sample = np.indices(correct.shape)
    size = correct.size
    return pd.DataFrame(
        {
            "question_index": index.ravel(),
            "question_id": [f"q{i}" for i in index.ravel()],
            "question": [f"{i}+4=" for i in index.ravel()],
            "gold": [str(i + 4) for i in index.ravel()],
            "sample": sample.ravel(),
            "seed": sample.ravel(),
            "text": [toy.text] * size,
            "answer": ["7"] * size,
            "correct": correct.ravel(),
            "parsable": [True] * size,
            "truncated": rng.random(size) < 0.1,
            "tokens": rng.integers(5, 30, size),
        }
    )


def _step(
    step: int, speed: float, tokens: float, accuracy: float, rng: np.random.Generator
) -> dict[str, Any]:
    total = speed * float(np.exp(rng.normal(0, 0.03)))
    seconds = {phase: share * total for phase, share in PHASES.items()}
    memory = {
        phase: {
            "resident_gib": 0.6 + 0.2 * share + rng.normal(0, 0.002),
            "allocated_gib": None,
            "reserved_gib": None,
            "device_gib": None,
        }
        for phase, share in (("rollout", 0.5), ("logprob", 1.0), ("update", 2.0))
    }
    return {
        "step": step,
        "reward": {
            "mean": accuracy + 0.3,
            "std": 0.4,
            "zero_spread_share": 0.25,
            "functions": {"accuracy": {"mean": accuracy, "std": 0.4}},
        },
        "accuracy": accuracy,
        "completion": {"mean_tokens": tokens, "max_tokens": int(tokens) + 9, "truncated_share": 0.05},
        "objective": {"loss": 0.01, "grad_norm": 0.2, "learning_rate": 1e-4, "entropy": 0.5, "kl": 0.0},
        "tokens": {"prompt": 900, "completion": int(256 * tokens), "trained": int(256 * tokens)},
        "samples_seen": 256 * step,
        "epoch": step / 100,
        "timing": {
            "total_seconds": total,
            "seconds": seconds,
            "rollout_tokens_per_second": 256 * tokens / seconds["rollout"],
            "train_tokens_per_second": 256 * tokens / seconds["update"],
            "tokens_per_second": 256 * tokens / total,
            "flops": 1e9,
            "mfu": None,
        },
        "memory": memory,
        "cost_usd": 0.0001 * step,
        "time": "2026-01-01T00:00:00+00:00",
    }


def _evaluate(
    toy: Toy, store: Store, job: dict[str, Any], step: int, rates: Mapping[str, np.ndarray], rng: Any
) -> None:
    for benchmark, rate in rates.items():
        samples = _samples(toy, rate, rng)
        correct = int(samples["correct"].sum())
        record = {
            "run_id": job["run"],
            "attempt": 1,
            "step": step,
            "benchmark": benchmark,
            "evaluation_id": job["evaluation_ids"][benchmark],
            "questions": len(rate),
            "samples": toy.samples,
            "correct": correct,
            "accuracy": correct / len(samples),
            "pass_at_k": {"1": correct / len(samples)},
            "majority_accuracy": correct / len(samples),
            "completion": {
                "mean_tokens": float(samples["tokens"].mean()),
                "truncated_share": float(samples["truncated"].mean()),
                "unparsable_share": 0.0,
            },
            "tokens": {"prompt": 100, "completion": int(samples["tokens"].sum())},
            "timing": {"total_seconds": 2.0, "tokens_per_second": 900.0},
            "memory": {"evaluation": {"resident_gib": 0.7, "allocated_gib": None}},
            "settings": None,
            "model_fingerprint": "m",
            "benchmark_fingerprint": "b",
            "created_at": "2026-01-01T00:00:00+00:00",
        }
        store.run(job["run"]).save_evaluation(parse(EvaluationRecord, record, store.root), samples)


def make_study(out: Path, toy: Toy) -> Path:
    """Writes the output folder of a finished matrix."""
    out.mkdir(parents=True, exist_ok=True)
    store = Store(out)
    easiness = {
        name: np.random.default_rng([toy.entropy, i]).normal(0.6 - 0.4 * i, 1.2, n)
        for i, (name, n) in enumerate(toy.benchmarks.items())
    }
    ids = {b: _digest("evaluation", b) for b in toy.benchmarks}
    common = {"evaluation_ids": ids, "devices": 1, "usd_per_hour": 0.05}
    base = {"run": _digest("base"), "kind": "base", "label": "base", "levels": {}, "seed": 0, "steps": [0]}
    jobs: list[dict[str, Any]] = [{**base, **common}]
    cells = []
    for seed in toy.seeds:
        for names in itertools.product(*toy.axes.values()):
            levels = dict(zip(toy.axes, names))
            run = _digest(levels, seed)
            label = " ".join([*(f"{a}={v}" for a, v in levels.items()), f"seed={seed}"])
            jobs.append(
                {"run": run, "kind": "train", "label": label, "levels": levels, "seed": seed, **common}
                | {"steps": list(toy.steps)}
            )
            cells += [
                {"levels": {**levels, "steps": str(s)}, "seed": seed, "run": run, "step": s}
                for s in toy.steps
            ]
    for number, job in enumerate(jobs):
        _run(toy, store, job, number, easiness)
    grid = {
        "name": out.name,
        "question": "Which choices matter?",
        "seeds": list(toy.seeds),
        "axes": {**{a: list(v) for a, v in toy.axes.items()}, "steps": [str(s) for s in toy.steps]},
        "steps_axes": ["steps"],
        "baselines": {**{a: v[0] for a, v in toy.axes.items()}, "steps": str(toy.steps[0])},
        "evaluate": {"benchmarks": [{"name": b} for b in toy.benchmarks], "samples": toy.samples},
        "hardware": {"profile": "auto"},
        "verdict": {"delta": toy.delta, "alpha": 0.05, "power": 0.8, "baseline": {}, "interactions": []},
    }
    write_record("output", grid, store.grid_file)
    write_record("output", {"cells": cells, "jobs": jobs}, store.plan_file)
    return out


def _shifted(ease: np.ndarray, shift: float) -> np.ndarray:
    """Chances of a right answer, moved on the logit scale so that their mean moves by exactly `shift`."""
    target = float(special.expit(ease).mean()) + shift
    return special.expit(
        ease + optimize.brentq(lambda x: float(special.expit(ease + x).mean()) - target, -9, 9)
    )


def _run(toy: Toy, store: Store, job: dict[str, Any], number: int, easiness: Mapping[str, Any]) -> None:
    rng = np.random.default_rng([toy.entropy, 1000 + number])
    folder = store.run(job["run"])
    attempt = folder.new_attempt(PROVENANCE)
    planted = sum(toy.effects.get((axis, level), 0.0) for axis, level in job["levels"].items())
    luck = rng.normal(0, toy.run_sd)
    last = max(job["steps"])
    tokens = 20.0 if job["levels"].get("length_cap") != "32" else 26.0
    failed = number in toy.failed
    taken = sum((toy.load or {}).get((axis, level), 0.0) for axis, level in job["levels"].items())
    for step in range(1, (last // 2 if failed else last) + 1):
        speed = (1 + 0.02 * tokens) / (1 - taken)
        figures = _step(step, speed, tokens, 0.5 + 0.1 * step / last, rng)
        if toy.load is not None:
            load = {"own_share": 0.5 * (1 - taken), "competing_share": taken, "steal_share": 0.0}
            figures["load"] = {**load, "run_queue": 2}
        own = {"run_id": attempt.run_id, "attempt": attempt.number}
        attempt.append_step(parse(StepRecord, {**own, **figures}, attempt.steps_file))
    if failed:
        attempt.append_event("failed", "loss is <b>NaN</b>", step=last // 2)
        error = AttemptError(type="FloatingPointError", message="loss is NaN", traceback_tail="")
        attempt.finish("failed", wall_seconds=30.0, error=error)
        return
    for step in job["steps"]:
        shift = 0.0 if step == 0 else planted + luck + toy.gain * step / last
        rates = {name: _shifted(e, shift) for name, e in easiness.items()}
        _evaluate(toy, store, job, step, rates, rng)
    attempt.finish("finished", wall_seconds=100.0, seconds_by_phase={"training": 70.0, "evaluation": 20.0})


@pytest.fixture(scope="session")
def study_at() -> Callable[..., Path]:
    """`study_at(folder, effects={("reward", "cosine"): 0.05}, …)` writes a study and returns its folder."""

    def make(out: Path, **toy: Any) -> Path:
        return make_study(out, Toy(**toy))

    return make


@pytest.fixture
def without_figures(monkeypatch):
    """Reports of tests that look at no figure: drawing takes half of a report's time."""
    monkeypatch.setattr("harness.reporting.report.draw", lambda analysis, found: [])
