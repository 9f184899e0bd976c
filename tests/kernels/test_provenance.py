"""A record says which code made it: in a checkout, installed, and installed inside somebody else's repository."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import subprocess
import tomllib
from pathlib import Path

import pytest

from kernels import bench, provenance
from kernels.benchmarks import batches

ROOT = Path(__file__).parents[2]
RELEASE = {"commit": f"release {importlib.metadata.version(provenance.DISTRIBUTION)}", "dirty": False}


def test_a_checkout_gives_its_commit():
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert provenance.code_version()["commit"] == head.stdout.strip()


def test_an_installed_package_gives_its_release(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.code_version() == RELEASE


def test_the_repository_that_a_package_is_installed_inside_of_does_not_count(tmp_path, monkeypatch):
    commit = [
        "git",
        "-c",
        "user.name=x",
        "-c",
        "user.email=x@x",
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        "other",
    ]
    for command in (["git", "init", "-q"], commit):
        subprocess.run(command, cwd=tmp_path, check=True)
    site_packages = tmp_path / "site-packages"
    site_packages.mkdir()
    monkeypatch.setattr(provenance, "ROOT", site_packages)
    assert provenance.code_version() == RELEASE


def test_a_copy_that_is_neither_measures_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setattr(provenance, "DISTRIBUTION", "no-such-distribution")
    monkeypatch.setattr(bench, "run_worker", lambda job, timeout: pytest.fail("measured"))
    assert bench.main(["--shapes", "tiny@64", "--against", "", "--device", "cpu"]) == 2
    assert "is neither a git checkout nor an installed no-such-distribution" in capsys.readouterr().err


def test_the_recorded_batch_is_package_data():
    """A wheel holds what these patterns name."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    recorded = batches.RECORDED.relative_to(ROOT / "kernels").as_posix()
    assert any(fnmatch.fnmatch(recorded, pattern) for pattern in patterns["kernels"])
