"""The gate before spending: what is known to fail ends `plan`, `--dry-run` and `ablate` with exit 2 and a way out."""

from __future__ import annotations

import json
import shutil

import pytest

from harness import lint as lint_command
from harness import plan as plan_command
from harness.matrix.planning import hardware as hardware_module
from harness.matrix.planning.explain import explain, find_cell
from harness.matrix.planning.hardware import Machine
from harness.matrix.planning.planner import make_plan
from harness.matrix.worker import check_code
from harness.models.catalog import resolve_model
from harness.rewards.code import CODE_FIELD
from harness.spec.errors import SpecError
from harness.spec.grid import load_grid
from harness.spec.recipe import ModelSpec
from harness.store.folders import Store
from harness.store.run_folder import RunFolder
from harness.store.schema import load, write_record
from tests.harness.models.trial_here import TrialHere

from .conftest import ROOT

OWN = """
from helper_of_gate import factor
def good(batch, context):
    return [factor() * check.correct for check in context.checks]
def one_row(batch, context):
    return [1.0 / (int(item.answer) - 10) for item in batch]
def leaves(batch, context):
    raise SystemExit(0)
"""


@pytest.fixture
def own(tmp_path, monkeypatch, grid):
    """Gives the grid a reward of the user's own."""
    (tmp_path / "gate_rewards.py").write_text(OWN)
    (tmp_path / "helper_of_gate.py").write_text("def factor():\n    return 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def use(name):
        more = f"- {{name: accuracy}}\n      - {{name: 'gate_rewards:{name}', weight: 0.1}}"
        grid.write_text(grid.read_text().replace("- {name: accuracy}", more))
        return grid

    return use


def commands(grid, out, ablate, capsys):
    """Exit code and messages of the three commands."""
    capsys.readouterr()
    code = plan_command.main(["--grid", str(grid), "--out", str(out)])
    yield code, capsys.readouterr().err
    for more in (["--dry-run"], []):
        done = ablate("--grid", grid, "--out", out, *more)
        yield done.returncode, done.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("one_row", ["raised ZeroDivisionError", "gate_rewards.py:6", "question: '", "completion: '"]),
        ("leaves", ["calls sys.exit(0)", "gate_rewards.py:8"]),
        ("missing", ["gate_rewards has no function 'missing'"]),
    ],
)
def test_an_own_reward_that_fails_stops_everything(own, tmp_path, ablate, capsys, name, words):
    for code, error in commands(own(name), tmp_path / "out", ablate, capsys):
        assert code == 2
        assert f"reward 'gate_rewards:{name}'" in error
        assert ": base.reward.functions[1]: " in error
        assert [word for word in words if word not in error] == []
        assert "Traceback" not in error


def test_a_lint_error_stops_everything_unless_waived(grid, tmp_path, ablate, capsys):
    text = grid.read_text().replace("- {name: accuracy}", "- {name: format}")
    grid.write_text(text)
    for code, error in commands(grid, tmp_path / "out", ablate, capsys):
        assert code == 2
        assert "[reward-prefers-wrong] base.reward.functions: " in error
        assert "waive it in the grid, lint: {waive: {reward-prefers-wrong: <why it is meant to be>}}" in error
    grid.write_text(text + "lint: {waive: {reward-prefers-wrong: a control without information}}\n")
    assert plan_command.main(["--grid", str(grid), "--out", str(tmp_path / "out")]) == 0
    assert ablate("--grid", grid, "--out", tmp_path / "out").returncode == 0


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (
            "config.json",
            {"model_type": "nobody_knows_it"},
            ["its config cannot be loaded", "nobody_knows_it"],
        ),
        ("tokenizer.json", {"model": {"type": "Nothing"}}, ["its tokenizer cannot be loaded"]),
    ],
)
def test_a_model_that_transformers_cannot_load_stops_everything(
    grid, model, tmp_path, ablate, capsys, monkeypatch, file, change, words
):
    data = json.loads((model / file).read_text())
    (model / file).write_text(json.dumps({**data, **change}))
    for code, error in commands(grid, tmp_path / "out", ablate, capsys):
        # The first command asked a process of its own; the others are told the same without it.
        monkeypatch.setattr("harness.models.trial.LimitedProcess", TrialHere)
        assert code == 2
        assert ": base.model.name: " in error
        assert [word for word in words if word not in error] == []


CARD = Machine(16, ("0",), "NVIDIA GeForce RTX 4090")


def test_a_model_that_does_not_fit_the_card_is_warned_of_and_refused(
    grid, tmp_path, ablate, capsys, monkeypatch
):
    """Keys and values of 40 million sequences, on a card of 24 GB."""
    monkeypatch.setattr(hardware_module, "detect", lambda: CARD)
    monkeypatch.setattr("harness.matrix.execution.run_matrix.detect", lambda: CARD)
    text = grid.read_text().replace("device: cpu, ", "device: cuda, ")
    grid.write_text(text.replace("prompts_per_step: 4", "prompts_per_step: 20000000"))
    assert plan_command.main(["--grid", str(grid), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "warning: memory: [cap=32 seed=0]" in shown
    assert "of the 23.6 that a device (rtx4090) has, most of it keys and values" in shown
    done = ablate("--grid", grid, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "memory: [cap=32 seed=0]" in done.stderr
    assert "--force starts it all the same" in done.stderr
    assert not (tmp_path / "out").exists()
    forced = ablate("--grid", grid, "--out", tmp_path / "out", "--force")
    assert "--force starts" not in forced.stderr
    assert (tmp_path / "out" / "plan.json").exists()


def planned(grid, tmp_path):
    return make_plan(load_grid(grid), tmp_path / "out", Machine(2))


def why(grid, tmp_path):
    plan = planned(grid, tmp_path)
    return "\n".join(explain(plan, find_cell(plan, "cap=32 steps=4")))


def test_an_edited_reward_is_another_run_and_why_names_what_changed(own, tmp_path, ablate):
    grid = own("good")
    assert ablate("--grid", grid, "--out", tmp_path / "out").returncode == 0
    assert "reused: every identity field equals" in why(grid, tmp_path)
    helper = tmp_path / "helper_of_gate.py"
    helper.write_text("# a comment is no change\ndef factor():\n    return 1.0\n")
    assert "reused: every identity field equals" in why(grid, tmp_path)
    helper.write_text("def factor():\n    return 2.0\n")
    told = why(grid, tmp_path)
    assert "run: no run on file has this identity" in told
    assert "reward: its module helper_of_gate was edited: `factor` changed" in told


def test_of_a_run_without_its_rewards_code_it_is_said_that_nobody_can_tell(own, tmp_path, ablate):
    grid = own("good")
    assert ablate("--grid", grid, "--out", tmp_path / "out").returncode == 0
    for folder in Store(tmp_path / "out").runs():
        record = load("run", folder.job_file)
        record["identity"] = {k: v for k, v in record["identity"].items() if not k.startswith(CODE_FIELD)}
        del record["model_files"]
        other = RunFolder(folder.path.with_name(folder.run_id[::-1]))
        shutil.move(folder.path, other.path)
        write_record("run", {**record, "run_id": "0" * 12}, other.job_file)
    told = why(grid, tmp_path)
    assert "this run was recorded without the reward's code: cannot tell whether it changed" in told
    assert "was edited" not in told


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("tokenizer_config.json", {"eos_token": "1"}),
        ("special_tokens_map.json", {"pad_token": "3"}),
        ("added_tokens.json", {"18": 18}),
        ("chat_template.jinja", "{% for m in messages %}{{ m.content }}!{% endfor %}"),
        ("generation_config.json", {"temperature": 0.3}),
    ],
)
def test_what_decides_text_in_a_model_folder_is_part_of_the_identity(
    grid, model, tmp_path, ablate, file, data
):
    assert ablate("--grid", grid, "--out", tmp_path / "out").returncode == 0
    (model / file).write_text(data if isinstance(data, str) else json.dumps(data))
    assert f"model.content: {file} " in why(grid, tmp_path)


def test_bookkeeping_of_generation_changes_nothing(grid, model, tmp_path):
    before = {job.run_id for job in planned(grid, tmp_path).jobs}
    generation = {"transformers_version": "5.1", "pad_token_id": 0, "use_cache": True, "temperature": None}
    (model / "generation_config.json").write_text(json.dumps(generation))
    assert {job.run_id for job in planned(grid, tmp_path).jobs} == before


def test_the_embedded_model_and_its_runs_keep_their_identity(tmp_path):
    """Committed studies rest on it."""
    assert resolve_model(ModelSpec(name="tiny")).fingerprint.startswith("6763abeb8a7bc1d9")
    plan = make_plan(load_grid(ROOT / "ablations" / "quickstart.yaml"), tmp_path / "out", Machine(2))
    assert sorted(job.run_id for job in plan.jobs)[:3] == ["010519478672", "39d61a4f6b5e", "450051f0ea1b"]


def shipped():
    return sorted((ROOT / "ablations").rglob("*.yaml"))


@pytest.mark.parametrize("file", shipped(), ids=lambda file: file.stem)
def test_every_shipped_grid_passes(file, tmp_path, capsys):
    assert plan_command.main(["--grid", str(file), "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_published_recipe_made_a_grid_passes_with_its_defects_waived(number, tmp_path, capsys):
    recipe = ROOT / "ablations" / "open_rs" / "published" / f"experiment-{number}.yml"
    assert lint_command.main([str(recipe), "--to-grid"]) == 0
    (tmp_path / "grid.yaml").write_text(capsys.readouterr().out)
    assert plan_command.main(["--grid", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "out")]) == 0
    assert "published so; the grid does what the recipe does" in (tmp_path / "grid.yaml").read_text()


def test_a_model_of_a_billion_and_a_half_on_a_card_of_24_gb(tmp_path, capsys):
    """Full training in fp32 masters: 16 bytes a weight alone are more than the card has."""
    text = """\
name: card
question: Does it fit?
base:
  model: {name: deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B, dtype: bfloat16}
  data: {sources: [{source: sums, terms: [2]}], size: 64}
  rollout: {prompts_per_step: 4, completions_per_prompt: 4, max_completion_tokens: 1024}
  reward: {functions: [{name: accuracy}]}
  training: {gradient_checkpointing: true, microbatch_tokens: 2048}
seeds: [0, 1]
evaluate: {samples: 4, max_completion_tokens: 1024, benchmarks: [{name: e, questions: 20, source: {source: sums}}]}
hardware: {profile: rtx4090}
lint: {waive: {cap-short: it is not run, small-benchmark: it is not run}}
"""
    (tmp_path / "card.yaml").write_text(text)
    assert plan_command.main(["--grid", str(tmp_path / "card.yaml"), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "GiB of the 23.6 that a device (rtx4090) has, most of it optimiser moments" in shown


def test_a_worker_refuses_a_run_whose_reward_was_edited_since_it_was_planned(own, tmp_path):
    job = next(job for job in planned(own("good"), tmp_path).jobs if job.kind == "train")
    check_code(job)
    (tmp_path / "helper_of_gate.py").write_text("def factor():\n    return 2.0\n")
    with pytest.raises(
        SpecError, match="helper_of_gate was edited since this run was planned: `factor` changed"
    ):
        check_code(job)
