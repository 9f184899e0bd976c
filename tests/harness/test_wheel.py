"""What an installed wheel holds: it is built, installed into an environment of its own, and used from there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CONTENTS = {
    "harness/py.typed",
    "kernels/py.typed",
    "harness/models/tiny/model.safetensors",
    "harness/models/tiny/chat_template.jinja",
    "harness/reporting/report.html.j2",
    "harness/reporting/report.css",
    "harness/spec/lint/trl_keys.json",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    tree = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("harness", "kernels", "ablations"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    # Without isolation nothing is downloaded; setuptools is among the development tools.
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        out,
        tree,
    ]
    done = subprocess.run([*map(str, command), "--quiet"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The environment's folder of commands; other packages come from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet", wheel]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    site = Path(
        subprocess.check_output(
            [python, "-c", "import site; print(site.getsitepackages()[0])"], text=True
        ).strip()
    )
    # A folder that a .pth file names is searched, but its own .pth files (the editable install) are not read.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def run(installed, *command, cwd):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [str(installed / command[0]), *command[1:]], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert names >= CONTENTS
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("ablations/quickstart.yaml") for name in names)
    assert any(name.startswith("kernels/") and name.endswith(".npz") for name in names), "the recorded batch"
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name and ".data" not in name}
    assert tops == {"harness", "kernels"}


def test_the_installed_modules_are_the_wheels(installed, tmp_path):
    done = run(
        installed,
        "python",
        "-c",
        "import harness, kernels; print(harness.__file__, kernels.__file__)",
        cwd=tmp_path,
    )
    assert done.stdout.count(str(installed.parent)) == 2, done.stdout + done.stderr


def test_the_shipped_quickstart_is_planned(installed, tmp_path):
    done = run(installed, "harness-ablate", "--grid", "quickstart", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "24 cells" in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_recorded_batch_is_read(installed, tmp_path):
    code = "from kernels.benchmarks.batches import recorded_batch; print(*recorded_batch()[0].shape)"
    done = run(installed, "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(int(size) > 0 for size in done.stdout.split())


@pytest.mark.parametrize("command", ["harness-report", "harness-lint", "kernels-bench", "kernels-footprint"])
def test_console_scripts(installed, tmp_path, command):
    done = run(installed, command, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
