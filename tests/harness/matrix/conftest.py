"""A model folder that only looks like one, a small grid on it, and a way to run commands as users do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[3]
FAKE_ABLATE = Path(__file__).with_name("fake_ablate.py")

GRID = """\
name: small
question: Does the cap matter?
base:
  model: {model}
  data:
    sources:
      - {{source: sums, terms: [2]}}
  prompt: {{max_tokens: 64}}
  rollout: {{prompts_per_step: 4, completions_per_prompt: 2, max_completion_tokens: 32}}
  reward:
    functions:
      - {{name: accuracy}}
axes:
  cap: {{rollout.max_completion_tokens: [32, 16]}}
  steps: {{training.steps: [2, 4]}}
seeds: [0]
evaluate:
  samples: 2
  max_completion_tokens: 32
  benchmarks:
    - {{name: easy, questions: 6, source: {{source: sums, terms: [2]}}}}
hardware: {{device: cpu, devices_per_run: 1}}
"""


@pytest.fixture
def model(tmp_path):
    """A folder with a config, a tokenizer file and weights: enough for planning."""
    folder = tmp_path / "model"
    folder.mkdir()
    config = {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "vocab_size": 19,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    save_file(
        {"model.embed_tokens.weight": np.zeros((19, 8), dtype=np.float32)}, folder / "model.safetensors"
    )
    return folder


@pytest.fixture
def grid(tmp_path, model):
    """The file of a grid: 4 cells from 2 runs, one benchmark."""
    file = tmp_path / "grid.yaml"
    file.write_text(GRID.format(model=model))
    return file


@pytest.fixture
def command():
    """Runs a command from the repository's root; returns the finished process."""

    def run(*arguments, fake=None, **environment):
        start = [str(FAKE_ABLATE)] if fake else ["-m", arguments[0]]
        rest = arguments if fake else arguments[1:]
        return subprocess.run(
            [sys.executable, *start, *map(str, rest)],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def files_below(folder):
    """Every file below a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
