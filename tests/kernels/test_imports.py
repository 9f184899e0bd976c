"""What an import and a `--help` may load: planning needs no torch, and a run on a CPU no Triton."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEPS = ("kernels.bench", "kernels.footprint", "kernels.grpo_loss", "kernels.token_logprob")
HEAVY = ("torch", "triton", "numpy", "matplotlib")


@pytest.fixture(scope="module")
def loaded():
    """Heavy packages loaded after each of `STEPS` in turn, in one fresh process."""
    program = (
        "import importlib, json, sys\n"
        "found = {}\n"
        f"for name in {STEPS!r}:\n"
        "    module = importlib.import_module(name)\n"
        "    if name == 'kernels.grpo_loss':\n"
        "        module.Objective()\n"
        f"    found[name] = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", ["kernels.bench", "kernels.footprint", "kernels.grpo_loss"])
def test_commands_and_objectives_import_without_torch(loaded, module):
    assert loaded[module] == []


def test_token_logprob_imports_torch_but_not_triton(loaded):
    assert "torch" in loaded["kernels.token_logprob"]
    assert "triton" not in loaded["kernels.token_logprob"]


def test_help_takes_under_half_a_second():
    # Processor time, which a busy machine does not lengthen; the best of three, since caches may be cold.
    assert any(_help_processor_seconds() < 0.5 for _ in range(3))


def _help_processor_seconds():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "kernels.footprint", "--help"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
