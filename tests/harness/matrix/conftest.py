"""A model folder that only looks like one, a small grid on it, and a way to run commands as users do."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from harness import ablate as ablate_command
from harness.matrix import worker
from harness.matrix.execution import run_matrix as matrix
from harness.matrix.execution import scheduler
from harness.matrix.executors.base import Handle
from harness.meters import provenance
from harness.store.attempts import note_start
from harness.store.records import Provenance
from tests.harness.matrix import fake_worker

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


TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {str(i): i for i in range(19)}, "unk_token": "0"},
}
"""A word for every row of the model's embedding."""


@pytest.fixture
def model(tmp_path):
    """A folder with a config, a tokenizer file, a chat template and weights: enough for planning."""
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
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "0"}))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    shapes = {"self_attn.q_proj": (8, 8), "self_attn.k_proj": (4, 8), "self_attn.v_proj": (4, 8)}
    shapes |= {"self_attn.o_proj": (8, 8), "mlp.gate_proj": (16, 8), "mlp.up_proj": (16, 8)}
    shapes |= {"mlp.down_proj": (8, 16)}
    tensors = {f"model.layers.0.{name}.weight": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    tensors["model.embed_tokens.weight"] = np.zeros((19, 8), np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def grid(tmp_path, model):
    """The file of a grid: 4 cells from 2 runs, one benchmark."""
    file = tmp_path / "grid.yaml"
    file.write_text(GRID.format(model=model))
    return file


class ForkExecutor:
    """Workers as forks of the test's process, which has everything imported: the scheduler's tests take no time."""

    queue_seconds = 0.0
    """How long a worker waits for its devices, as in a cluster's queue."""

    def __init__(self):
        self._codes = {}

    def slots(self, devices_per_run, on_gpu, workers):
        return None

    def submit(self, command, env, slot, log):
        pid = os.fork()
        if pid:
            handle = Handle(str(pid))
            self._codes[handle] = None
            return handle
        code = 99
        try:
            os.setsid()
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.environ.update(env)
            time.sleep(self.queue_seconds)
            note_start(log.parent)
            code = worker.main(list(command), fake_worker.execute)
        finally:
            os._exit(code)

    def poll(self, handle):
        if self._codes[handle] is None:
            pid, status = os.waitpid(int(handle.name), os.WNOHANG)
            if pid:
                self._codes[handle] = os.waitstatus_to_exitcode(status)
        return self._codes[handle]

    def stop(self, handle):
        os.kill(int(handle.name), signal.SIGTERM)

    def kill(self, handle):
        if self.poll(handle) is None:
            os.kill(int(handle.name), signal.SIGKILL)

    def close(self):
        for handle in self._codes:
            self.kill(handle)


@pytest.fixture
def ablate(monkeypatch, capsys):
    """Runs the ablate command in this process, with forked fake workers and no report."""
    monkeypatch.setattr(matrix, "make_executor", lambda name: ForkExecutor())
    monkeypatch.setattr(scheduler, "BACKOFF_SECONDS", 0.05)
    monkeypatch.setattr(matrix, "report_matrix", lambda _: print("reported"))
    # The provenance of a fork is the test's: asking git and the driver each time would take most of the time.
    monkeypatch.setattr(provenance, "collect", lambda: Provenance(device="fake", commit="0"))

    def run(*arguments, **environment):
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            code = ablate_command.main([str(a) for a in arguments], worker=[])
        text = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=text.out, stderr=text.err)

    return run
