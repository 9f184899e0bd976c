"""A reduced campaign: a few boundaries of each kind, and a random moment."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from . import kills
from .faults import Faults


def test_a_killed_run_ends_as_the_undisturbed_one(tmp_path):
    # Forks of pytest's process would share what it captures: the campaign's own process forks.
    command = [sys.executable, "-m", "tests.campaigns.kills", "--boundaries", "4", "--random", "1"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)],
        cwd=kills.ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads((tmp_path / "kills.json").read_text())
    trials = data["trials"].values()
    assert len(trials) == 5
    assert all(t["same"] for t in trials)
    assert sum(t["killed"] for t in trials if t["trial"].startswith("boundary")) == 4
    assert any("half of" in t["death"] for t in trials)
    assert {"write", "fsync", "rename", "replace", "unlink", "mkdir", "create"} <= {
        o for o, _ in data["operations"]
    }


def test_a_torn_write_leaves_half_of_it_and_nothing_after(tmp_path):
    pid = os.fork()
    if not pid:
        try:
            Faults(tmp_path, die_at=3, torn=True).install()
            (tmp_path / "first").write_bytes(b"whole")  # create, write
            (tmp_path / "second").write_bytes(b"0123456789")  # create, write
            (tmp_path / "third").write_bytes(b"never")
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == 9
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"first": b"whole", "second": b"01234"}


def test_boundaries_elsewhere_do_not_count(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    faults = Faults(inside)
    assert faults.boundary("write", str(outside / "x")) is False
    assert faults.boundary("write", str(inside / "x")) is False
    assert faults.seen == [("write", "x")]
