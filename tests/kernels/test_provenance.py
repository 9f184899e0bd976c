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
RELEASE = provenance.CodeVersion(
    f"release {importlib.metadata.version(provenance.DISTRIBUTION)}", dirty=False
)


def test_a_checkout_gives_its_commit():
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert provenance.code_version("kernels").commit == head.stdout.strip()


def test_an_installed_package_gives_its_release(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.code_version("kernels") == RELEASE


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
    assert provenance.code_version("kernels") == RELEASE


def test_an_install_from_a_repository_gives_its_commit(tmp_path, monkeypatch):
    info = tmp_path / "pinned-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pinned\nVersion: 1.0\n")
    (info / "direct_url.json").write_text('{"url": "x", "vcs_info": {"vcs": "git", "commit_id": "cafe"}}')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setattr(provenance, "DISTRIBUTION", "pinned")
    assert provenance.code_version("kernels") == provenance.CodeVersion("cafe", dirty=False)


def test_changes_and_new_files_of_the_packages_asked_for_count(tmp_path, monkeypatch):
    def git(*arguments):
        who = ("-c", "user.name=x", "-c", "user.email=x@x")
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True)

    for package in ("one", "two"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "code.py").write_text("x = 1\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "first")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert not provenance.code_version("one", "two").dirty
    (tmp_path / "one" / "new.py").write_text("y = 2\n")
    assert (provenance.code_version("one").dirty, provenance.code_version("two").dirty) == (True, False)
    (tmp_path / "two" / "code.py").write_text("x = 2\n")
    assert provenance.code_version("two").dirty


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
