"""The chaos and scale campaigns at a size for every commit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from . import scale

ROOT = Path(__file__).resolve().parents[2]


def test_a_killed_matrix_is_completed_by_the_same_command(tmp_path):
    """In a process of its own: trials are forks, which a process that has used torch must not make."""
    command = [sys.executable, "-m", "tests.campaigns.chaos", "--random", "2", "--boundaries", "4"]
    done = subprocess.run(
        [*command, "--results", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    trials = json.loads((tmp_path / "chaos.json").read_text())["trials"]
    assert len(trials) == 6
    assert all(trial["wrong"] is None for trial in trials.values())


def test_time_grows_no_faster_than_the_number_of_cells(tmp_path):
    figures = scale.benchmark([200, 1000], 1)
    assert scale.judged(figures) == []
    scale.write(tmp_path, figures, [])
    assert "| 1000 | resume |" in (tmp_path / "scale.md").read_text()
