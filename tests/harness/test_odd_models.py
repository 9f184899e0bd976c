"""Model folders with something odd, through the commands: used right, or refused in at most three lines."""

from __future__ import annotations

import pytest

from harness import evaluate, lint, plan
from tests.harness.models import folders
from tests.harness.models.trial_here import TrialHere

GRID = """
name: odd
question: does it read?
base:
  model: {model}
  data: {{sources: [{{source: sums, terms: [2], digits: [1]}}], size: 8}}
  reward: {{functions: [{{name: accuracy}}]}}
  rollout: {{prompts_per_step: 2, completions_per_prompt: 2, max_completion_tokens: 8}}
  training: {{steps: 1}}
axes:
  rate: {{optimizer.learning_rate: [1e-6, 1e-5]}}
seeds: [0]
evaluate:
  benchmarks: [{{name: easy, questions: 4, source: {{source: sums, terms: [2], digits: [1]}}}}]
  max_completion_tokens: 8
"""


@pytest.fixture
def commands(tmp_path, monkeypatch, capfd):
    """Runs plan, lint and evaluate on a folder; gives exit codes and what each wrote to stderr."""
    monkeypatch.chdir(tmp_path)
    # In this process, which has transformers imported: the trial in its own is tested with the gate.
    monkeypatch.setattr("harness.models.trial.LimitedProcess", TrialHere)
    # Looking at answers takes a process of its own, and has nothing to do with models.
    monkeypatch.setattr("harness.matrix.planning.data_rules.unreadable_references", lambda grid, notes: [])

    def run(folder, which=("plan", "lint", "evaluate")):
        (tmp_path / "grid.yaml").write_text(GRID.format(model=folder))
        arguments = {
            "plan": (plan, ["--grid", "grid.yaml"]),
            "lint": (lint, ["grid.yaml"]),
            "evaluate": (
                evaluate,
                ["--model", str(folder), "--benchmarks", "sums@2", "--samples", "1", "--max-tokens", "4"],
            ),
        }
        told = {}
        for name in which:
            command, argv = arguments[name]
            code = command.main(argv)
            out, err = capfd.readouterr()
            assert "Traceback" not in out + err
            told[name] = code, err if name != "lint" else out
        return told

    return run


def short(text):
    return len(text.strip().splitlines()) <= 3


@pytest.mark.parametrize("name", folders.USED)
def test_used(commands, tmp_path, name):
    told = commands(folders.USED[name](folders.copy_tiny(tmp_path / "m")))
    assert {command: code for command, (code, _) in told.items()} == {"plan": 0, "lint": 0, "evaluate": 0}, (
        told
    )


@pytest.mark.parametrize("name", folders.REFUSED)
def test_refused(commands, tmp_path, name):
    make, words = folders.REFUSED[name]
    folder = make(folders.copy_tiny(tmp_path / "m"))
    told = commands(folder)
    for command in ("plan", "evaluate"):
        code, message = told[command]
        assert code == 2, told
        assert words in message
        assert short(message), message
    assert told["lint"][0] in (0, 1)
    assert words in told["lint"][1]
    assert not (folder / "ran").exists()
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", folders.LOADED)
def test_refused_when_loaded(commands, tmp_path, name):
    make, words = folders.LOADED[name]
    code, message = commands(make(folders.copy_tiny(tmp_path / "m")), which=["evaluate"])["evaluate"]
    assert code == 2, message
    assert words in message
    assert short(message), message


@pytest.mark.parametrize(
    "name", ["", "model.gguf", "a\0b", "x" * 5000, "~", "/dev/null", "owner/name", "tinny"]
)
def test_names_that_are_no_folder(commands, name):
    import json

    told = commands(json.dumps(name) if name != "tinny" else name, which=["plan"])
    assert told["plan"][0] == 2
    assert short(told["plan"][1])
