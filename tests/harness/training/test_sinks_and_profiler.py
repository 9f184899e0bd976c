"""Profiler, sinks and meters of a real run: what they write, what they must not change, and what they cost."""

from __future__ import annotations

import json
import time

import pytest
import torch

from harness.cli.run_options import RunOptions
from harness.matrix.execution.run_matrix import prepare
from harness.meters.clock import PhaseClock
from harness.meters.energy import EnergyMeter
from harness.meters.memory import PeakMemory
from harness.store.folders import RunFolder
from harness.training.run import execute

GRID = """
name: watched
question: Does watching change a run?
base:
  model: tiny
  data: {size: 50, sources: [{source: sums, terms: [2, 3]}]}
  rollout: {prompts_per_step: 3, completions_per_prompt: 4, max_completion_tokens: 12}
  reward: {functions: [{name: accuracy}, {name: format, weight: 0.5}]}
  optimizer: {learning_rate: 1e-3}
axes:
  steps: {training.steps: [3]}
evaluate:
  base: false
  samples: 1
  max_completion_tokens: 12
  benchmarks: [{name: sums-2, questions: 3, source: {source: sums, terms: [2], digits: [1]}}]
hardware: {device: cpu, devices_per_run: 2, training_devices: 1, usd_per_hour: 3.6}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run, unwatched and watched."""
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("watching")
    (base / "grid.yaml").write_text(GRID)
    (job,) = prepare(str(base / "grid.yaml"), base / "out").plan.jobs
    made = []
    for name, watching in (
        ("plain", None),
        ("watched", RunOptions((2,), ("tensorboard",))),
    ):
        folder = RunFolder(base / name / job.run_id)
        folder.path.mkdir(parents=True)
        folder.write_job(job)
        execute(job, folder, folder.reserve_attempt(), lambda: False, watching)
        made.append(folder)
    return made


def test_a_watched_run_is_the_run(runs):
    plain, watched = runs
    files = [p.relative_to(plain.path) for p in plain.checkpoints.rglob("*") if p.is_file()]
    assert len(files) > 5
    for file in files:
        assert (plain.path / file).read_bytes() == (watched.path / file).read_bytes(), file


def test_the_trace_of_the_chosen_step_opens_as_chromes(runs):
    (attempt,) = runs[1].attempts()
    (trace,) = attempt.path.glob("trace-*.json")
    assert trace.name == "trace-step-000002.json"
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"aten::mm", "aten::addmm"} & names or "aten::linear" in names
    assert not list(runs[0].attempts()[0].path.glob("trace-*"))


def test_tensorboard_has_every_step(runs):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (attempt,) = runs[1].attempts()
    events = EventAccumulator(str(attempt.path / "tensorboard"))
    events.Reload()
    rewards = [(e.step, e.value) for e in events.Scalars("reward/mean")]
    assert rewards == [(r.step, pytest.approx(r.reward.mean)) for r in attempt.steps()]


def test_every_figure_of_a_step_is_there_and_adds_up(runs):
    (attempt,) = runs[0].attempts()
    records, events = attempt.steps(), {e.kind: e for e in attempt.events()}
    assert [r.step for r in records] == [1, 2, 3]
    spent = 0.0
    for r in records:
        timing, tokens, reward = r.timing, r.tokens, r.reward
        total = tokens.prompt + tokens.completion
        own = timing.total_seconds - timing.seconds.get("checkpoint", 0.0)
        assert timing.tokens_per_second == pytest.approx(total / own)
        # Two cores are billed for this run.
        assert timing.tokens_per_second_per_device == pytest.approx(timing.tokens_per_second / 2)
        assert sum(timing.seconds.values()) == pytest.approx(timing.total_seconds)
        assert timing.tokens["rollout"] == timing.tokens["reward"] == tokens.completion
        assert timing.tokens["update"] == tokens.trained
        peak_flops = events["flops_model"].figures["peak_flops"]
        assert timing.mfu == pytest.approx(timing.flops / own / peak_flops)
        assert timing.mfu > 0
        assert set(reward.functions) == {"accuracy", "format"}
        assert all(f.zero_spread_share is not None for f in reward.functions.values())
        weighted = reward.functions["accuracy"].mean + 0.5 * reward.functions["format"].mean
        assert reward.mean in (pytest.approx(weighted), pytest.approx(_summed(reward)))
        c = r.completion
        assert c.p10 <= c.p25 <= c.median_tokens <= c.p75 <= c.p90 <= c.max_tokens
        assert {"grad_norm", "loss", "learning_rate"} <= set(r.objective)
        if tokens.trained:
            assert {"entropy", "clip_fraction", "rollout_kl"} <= set(r.objective)
        assert r.energy is not None
        assert r.memory["update"].resident_gib > 0.1
        assert r.samples_seen == 12 * r.step
        assert r.epoch == pytest.approx(3 * r.step / 50)
        # $3.60 an hour for each of two devices: 0.2 cents a second.
        assert r.cost_usd - spent >= 0.002 * own * 0.9
        spent = r.cost_usd
    events = {e.kind: e for e in attempt.events()}
    assert "2 FLOPs a token" in events["flops_model"].message


def _summed(reward):
    return sum(function.mean for function in reward.functions.values())


def test_meters_cost_less_than_one_percent_of_the_smallest_step(runs):
    """Per call, in processor time: eight phases with memory peaks, one energy reading."""
    clock, energy = PhaseClock(PeakMemory()), EnergyMeter()
    best = float("inf")
    for _ in range(20):
        start = time.process_time()
        clock.reset()
        energy.reset()
        for name in ("rollout", "reward", "logprob", "update", "optimizer", "sync", "checkpoint", "idle"):
            with clock.phase(name):
                pass
        clock.with_other()
        energy.read()
        best = min(best, time.process_time() - start)
    steps = sorted(r.timing.total_seconds for r in runs[0].attempts()[0].steps())
    assert best < 0.01 * steps[0], f"{best * 1e3:.2f} ms of a step of {steps[0] * 1e3:.0f} ms"
