"""A reward of the user's own sees the other columns of the rows it scores, through a run of two sources."""

from __future__ import annotations

import json

import pytest

from harness.meters import provenance
from harness.spec.evaluation import EvaluateSpec
from harness.spec.hardware import HardwareSpec
from harness.spec.recipe import Recipe
from harness.store.folders import Store
from harness.store.job import RunJob
from harness.store.records import Provenance
from harness.training import run as run_module
from harness.training.run import execute

REWARD = """\
SEEN = {}

def graded(batch, context):
    for item in batch:
        SEEN[item.question] = dict(item.columns)
    return [float(item.columns.get("level", 0)) for item in batch]
"""


def job_of(sources, functions):
    recipe = Recipe.model_validate(
        {
            "model": "tiny",
            "data": {"size": 20, "sources": sources},
            "rollout": {"prompts_per_step": 12, "completions_per_prompt": 2, "max_completion_tokens": 8},
            "reward": {"functions": functions},
            "training": {"steps": 1},
        }
    )
    benchmark = {"name": "one", "questions": 1, "source": {"source": "sums", "terms": [2]}}
    return RunJob(
        run_id="0" * 12,
        kind="train",
        recipe=recipe,
        seed=0,
        steps=(1,),
        evaluate=EvaluateSpec.model_validate({"benchmarks": [benchmark], "samples": 1, "base": False}),
        evaluation_ids={"one": "e" * 12},
        hardware=HardwareSpec.model_validate({"device": "cpu"}),
        usd_per_hour=0.0,
        devices=1,
        label="test",
        identity={},
    )


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Runs a job in this process and gives what its attempt recorded."""
    monkeypatch.setattr(provenance, "collect", lambda: {"commit": "0"})
    monkeypatch.setattr(run_module, "measured_peak", lambda **_: 1e11)
    (tmp_path / "graded_reward.py").write_text(REWARD)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(sources, functions):
        job = job_of(sources, functions)
        folder = Store(tmp_path / "out").run(job.run_id)
        folder.write_job(job)
        attempt = folder.reserve_attempt()
        attempt.begin(Provenance())
        execute(job, folder, attempt, lambda: False)
        return attempt

    return run


def test_each_source_of_a_mix_brings_its_own_columns(ran, tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.csv"
    rows = [
        {"question": f"{i}+1=", "answer": f"so\n#### {i + 1}", "level": i, "tags": ["a"]} for i in range(6)
    ]
    rows.append({"question": "9+9=", "answer": None, "level": 9})
    one.write_text("\n".join(map(json.dumps, rows)))
    two.write_text("problem,solution,topic\n" + "".join(f"{i}+2=,{i + 2},sums\n" for i in range(6)))
    attempt = ran(
        [
            {"source": "file", "path": str(one), "answer_pattern": "gsm8k", "drop_invalid": True},
            {"source": "file", "path": str(two)},
        ],
        [{"name": "graded_reward:graded"}],
    )
    import graded_reward

    expected = {f"{i}+1=": {"answer": f"so\n#### {i + 1}", "level": i, "tags": ["a"]} for i in range(6)}
    expected |= {f"{i}+2=": {"topic": "sums"} for i in range(6)}
    assert expected == graded_reward.SEEN
    (manifest,) = [event.figures["manifest"] for event in attempt.events() if event.kind == "data"]
    first, second = manifest["sources"]
    assert (first["rows"], first["invalid_rows_dropped"], second["invalid_rows_dropped"]) == (7, 1, 0)
    assert "(line 7)" in first["invalid_rows"]
    assert second["read_from"] == {"question": "problem", "answer": "solution"}
    (step,) = attempt.steps()
    assert step.reward.functions["graded_reward:graded"].mean == pytest.approx(15 / 12)
