"""The reference study as a grid: what it comes to, where no hub can be reached."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import pytest

from harness import ablate, lint, plan
from harness.evaluation.benchmarks import REGISTRY
from harness.matrix.execution.run_matrix import prepare
from harness.matrix.planning.offline_fallback import PREFIX
from harness.models.architecture import _dense_parameters
from harness.models.known import KNOWN
from harness.spec.grid import load_grid

OPEN_RS = Path(__file__).resolve().parents[4] / "ablations" / "open_rs"
GRIDS = [OPEN_RS / "experiments.yaml", OPEN_RS / "corrected.yaml"]


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_the_published_study_is_three_runs_and_twenty_one_checkpoints(tmp_path):
    planned = prepare(str(GRIDS[0]), tmp_path / "out", planning=True).plan
    runs = [job for job in planned.jobs if job.kind == "train"]
    assert len(runs) == 3
    assert sum(len(job.steps) for job in runs) == len(planned.cells) == 21
    assert sum(job.kind == "base" for job in planned.jobs) == 1
    assert all(len(job.evaluation_ids) == 5 for job in planned.jobs)
    assert any("checkpoint of a 500-step cosine schedule" in sentence for sentence in planned.sharing)
    assert all(
        job.recipe.rollout.prompts_per_step * job.recipe.rollout.completions_per_prompt == 72 for job in runs
    )


def test_its_checkpoints_are_the_published_ones():
    published = defaultdict(set)
    with (OPEN_RS / "published" / "checkpoints.csv").open() as stream:
        for row in csv.DictReader(stream):
            published[row["experiment"]].add(int(row["step"]))
    planned = defaultdict(set)
    for cell in load_grid(GRIDS[0]).cells:
        planned[cell.levels["experiment"]].add(cell.recipe.training.steps)
    assert planned == published


@pytest.mark.parametrize("file", GRIDS, ids=lambda p: p.stem)
def test_its_benchmarks_are_the_registrys(file):
    for benchmark in load_grid(file).head.evaluate.benchmarks:
        source, questions = REGISTRY[benchmark.name]
        assert (benchmark.source, benchmark.questions) == (source, questions)


def test_a_plan_without_a_hub_says_what_it_takes_for_granted(tmp_path):
    planned = prepare(str(GRIDS[1]), tmp_path / "out", planning=True).plan
    [told] = [w for w in planned.warnings if "hub" in w]
    assert "knoveleng/open-rs" in told
    assert "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B" in told
    assert all(model.fingerprint.startswith(PREFIX) for model in planned.models.values())
    assert sum(job.kind == "train" for job in planned.jobs) == 16


def test_nothing_runs_without_the_hub(tmp_path, capsys):
    assert ablate.main(["--grid", str(GRIDS[0]), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) <= 3
    assert "experiments.yaml" in error[0]
    assert not (tmp_path / "out").exists()


def test_the_plan_command_gives_hours_dollars_and_memory(tmp_path, capsys):
    assert plan.main(["--grid", str(GRIDS[0]), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "21 cells from 3 runs" in printed
    assert "the hub cannot be reached" in printed
    assert "GiB per device" in printed


def test_known_dimensions_give_the_published_count_of_parameters():
    for name, known in KNOWN.items():
        assert _dense_parameters({}, known) == known.parameters, name


def test_a_mistyped_hub_model_is_still_an_error(tmp_path, capsys):
    text = GRIDS[1].read_text().replace("DeepSeek-R1-Distill-Qwen-1.5B", "DeepSeek-R1-Distil-Qwen-1.5B")
    (tmp_path / "typo.yaml").write_text(text)
    assert plan.main(["--grid", str(tmp_path / "typo.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "DeepSeek-R1-Distil-Qwen-1.5B" in capsys.readouterr().err


def test_the_lint_command(tmp_path, capsys):
    recipe = OPEN_RS / "published" / "experiment-3.yml"
    picture = tmp_path / "curves.svg"
    assert lint.main([str(recipe), "--plot", str(picture)]) == 1
    printed = capsys.readouterr().out
    assert "experiment-3.yml:15: error[unknown-key] vllm_enforce_eager" in printed
    assert picture.read_text().count("<svg") == 1
    assert lint.main([str(GRIDS[0]), "--json"]) == 0
    assert '"waived": "published so' in capsys.readouterr().out
    assert lint.main(["--rules"]) == 0
    assert "best-of-checkpoints" in capsys.readouterr().out
    assert lint.main([str(tmp_path / "none.yaml")]) == 2
    assert lint.main([str(GRIDS[0]), "--plot", str(tmp_path / "x.pdf")]) == 2
