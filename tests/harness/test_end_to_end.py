"""One real matrix, from the grid to the report: real model, real training, a process per run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from harness import ablate as ablate_command
from harness.data.mix import build_mix
from harness.models.catalog import resolve_model
from harness.models.loading import load_model
from harness.rewards.composite import CompositeReward
from harness.rollout.transformers_engine import TransformersEngine
from harness.store.folders import Store
from harness.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
GRID = """
name: small
question: Does the whole chain hold?
base:
  model: tiny
  data: {size: 100, sources: [{source: sums, terms: [2, 3]}]}
  rollout: {prompts_per_step: 4, completions_per_prompt: 4, max_completion_tokens: 24}
  reward: {functions: [{name: accuracy}, {name: format, weight: 0.5}]}
  optimizer: {learning_rate: 1e-4}
axes:
  steps: {training.steps: [1, 3]}
evaluate:
  samples: 2
  max_completion_tokens: 24
  benchmarks: [{name: sums-2, questions: 15, source: {source: sums, terms: [2], digits: [2]}}]
"""


def ablate(grid, out, **environment):
    return subprocess.run(
        [sys.executable, "-m", "harness.ablate", "--grid", str(grid), "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def ablate_here(grid, out, capsys):
    """The command in this process, which has everything imported; its workers are processes all the same."""
    code = ablate_command.main(["--grid", str(grid), "--out", str(out)])
    said = capsys.readouterr()
    assert code == 0, said.err + said.out
    return said.out


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "grid.yaml").write_text(GRID)
    done = ablate(folder / "grid.yaml", folder / "out")
    assert done.returncode == 0, done.stderr + done.stdout
    return folder, done.stdout


def _records(out):
    lines = [line for f in out.glob("runs/*/attempt-*/steps.jsonl") for line in f.read_text().splitlines()]
    return {record["step"]: record for record in map(json.loads, lines)}


def test_a_second_matrix_from_the_same_code_is_byte_identical(study):
    folder, _ = study
    done = ablate(folder / "grid.yaml", folder / "again", PYTHONHASHSEED="7")
    assert done.returncode == 0, done.stderr
    first, second = (folder / name / "tables" / "accuracy.csv" for name in ("out", "again"))
    assert first.read_bytes() == second.read_bytes()


def test_accuracy_is_what_the_samples_say(study):
    folder, _ = study
    table = pd.read_csv(folder / "out" / "tables" / "accuracy.csv")
    assert sorted(table["step"]) == [0, 1, 3]
    for row in table.itertuples():
        (file,) = folder.glob(f"out/runs/{row.run}/evaluations/step-{row.step:06d}.sums-2.*.parquet")
        samples = pd.read_parquet(file)
        assert len(samples) == row.questions * row.samples == 30
        assert row.accuracy == pytest.approx(samples["correct"].mean(), abs=1e-6)
        assert row.ci_low <= row.accuracy <= row.ci_high


def test_speed_and_cost_are_counts_over_the_clock(study):
    folder, _ = study
    records = _records(folder / "out")
    assert sorted(records) == [1, 2, 3]
    for record in records.values():
        timing, tokens = record["timing"], record["tokens"]
        assert timing["total_seconds"] == pytest.approx(sum(timing["seconds"].values()), rel=1e-6)
        rollout = tokens["completion"] / timing["seconds"]["rollout"]
        assert timing["rollout_tokens_per_second"] == pytest.approx(rollout)
        assert record["memory"]["update"]["resident_gib"] > 0.1
        assert 0 < timing["mfu"] < 1.5
    cost = pd.read_csv(folder / "out" / "tables" / "cost.csv")
    cost = cost[cost["kind"].isin(["train", "base"])].set_index("run")
    assert len(cost) == 2
    for run, row in cost.iterrows():
        (end,) = (folder / "out").glob(f"runs/{run}/attempt-*/end.json")
        seconds = json.loads(end.read_text())["wall_seconds"]
        assert row["cost_usd"] == pytest.approx(seconds / 3600 * row["devices"] * 0.05, rel=0.1)
        parts = row[["training_usd", "evaluation_usd", "other_usd", "failed_usd"]]
        assert parts.sum() == pytest.approx(row["cost_usd"], rel=1e-4)


def test_tokens_per_second_in_the_table_are_tokens_counted_in_the_samples_over_the_clock(study):
    """The samples are drawn again, from the seed, and counted; the clock is that of the records."""
    folder, _ = study
    (row,) = pd.read_csv(folder / "out" / "tables" / "throughput.csv").to_dict("records")
    records = _records(folder / "out")
    job = Store(folder / "out").run(row["run"]).read_job()
    loaded = load_model(resolve_model(job.recipe.model), job.recipe.model)
    counted = []

    class Counting(TransformersEngine):
        def generate(self, requests, sampling):
            completions = super().generate(requests, sampling)
            prompts = sum(len(r.prompt_ids) for r in requests)
            counted.append((prompts, sum(len(c.token_ids) for c in completions)))
            return completions

    engine = Counting(loaded.model, end_ids=loaded.special.end_ids, pad_id=loaded.tokenizer.pad_token_id)
    with CompositeReward(job.recipe.reward) as rewards:
        problems = build_mix(job.recipe.data).problems
        trainer = Trainer(job.recipe, job.seed, loaded, engine, rewards, problems, peak_flops=1e11)
        for _ in records:
            trainer.train_step()
    for (prompt, completion), record in zip(counted, (records[1], records[2], records[3])):
        assert (prompt, completion) == (record["tokens"]["prompt"], record["tokens"]["completion"])
    completions = sum(completion for _, completion in counted)
    clock = [r["timing"] for r in records.values()]
    assert row["tokens_per_second"] == pytest.approx(
        completions / sum(t["total_seconds"] for t in clock), rel=1e-4
    )
    rollout = completions / sum(t["seconds"]["rollout"] for t in clock)
    assert row["rollout_tokens_per_second"] == pytest.approx(rollout, rel=1e-4)


def test_the_same_command_only_reprints_what_is_done(study, capsys):
    folder, _ = study
    before = sorted(p for p in (folder / "out").glob("runs/*/attempt-*"))
    assert "sums-2" in ablate_here(folder / "grid.yaml", folder / "out", capsys)
    assert sorted(p for p in (folder / "out").glob("runs/*/attempt-*")) == before


def test_a_damaged_checkpoint_without_its_evaluation_is_trained_again_to_the_same_result(study, capsys):
    folder, _ = study
    copy = folder / "damaged"
    shutil.copytree(folder / "out", copy)
    for evaluation in copy.glob("runs/*/evaluations/step-00000[13].*"):
        evaluation.unlink()
    (weights,) = copy.glob("runs/*/checkpoints/step-000003/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    ablate_here(folder / "grid.yaml", copy, capsys)
    first, second = (f / "tables" / "accuracy.csv" for f in (folder / "out", copy))
    assert first.read_bytes() == second.read_bytes()
    events = "".join(f.read_text() for f in copy.glob("runs/*/attempt-002/events.jsonl"))
    assert "checkpoint_damaged" in events


def test_the_report_is_one_file_that_asks_for_nothing(study):
    folder, _ = study
    page = (folder / "out" / "report.html").read_text()
    assert 'src="http' not in page
    assert 'href="http' not in page
    assert "<svg" in page
    assert (folder / "out" / "report.md").read_text().startswith("# small")
