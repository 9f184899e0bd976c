"""Where a figure comes from: code, versions, machine, command."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path

import psutil

from harness.store.records import Provenance

_PACKAGES = (
    "torch",
    "transformers",
    "triton",
    "tokenizers",
    "safetensors",
    "numpy",
    "math-verify",
    "datasets",
    "vllm",
)
_ROOT = Path(__file__).resolve().parents[2]


class ProvenanceError(RuntimeError):
    """A record may not be written without saying what code made it."""


def collect() -> Provenance:
    """Commit, dirty flag, package versions, platform, processor, memory, GPUs and command of this process.

    Raises:
        ProvenanceError: neither a git checkout nor an installed release says which code this is.
    """
    commit, dirty = _code()
    return Provenance(
        commit=commit,
        dirty=dirty,
        versions={"python": platform.python_version(), **_versions()},
        platform=platform.platform(),
        cpu=_cpu(),
        cores=psutil.cpu_count(logical=True),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        device=", ".join(gpus()) or _cpu(),
        command=(Path(sys.argv[0]).name, *sys.argv[1:]),
    )


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *args], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _code() -> tuple[str, bool]:
    """The commit, and whether it has changes."""
    # Only the checkout that holds this very file counts, not one that the package is installed inside of.
    top = _git("rev-parse", "--show-toplevel")
    if top is not None and Path(top) == _ROOT and (commit := _git("rev-parse", "HEAD")):
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", "harness", "kernels")
        return commit, bool(changes)
    try:
        distribution = importlib.metadata.distribution("grpo-ablation-harness")
    except importlib.metadata.PackageNotFoundError:
        raise ProvenanceError(
            "cannot tell which code this is: no git commit and no installed release; commit, or install the package"
        ) from None
    url = json.loads(distribution.read_text("direct_url.json") or "{}")
    commit = url.get("vcs_info", {}).get("commit_id")
    return commit or f"release {distribution.version}", False


def _versions() -> dict[str, str]:
    found = {}
    for name in (*_PACKAGES, "grpo-ablation-harness"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.machine())


def gpus() -> list[str]:
    """Names of the CUDA devices, asked of the driver: no library that claims a device is loaded."""
    return _asked_of_the_driver("name")


def gpu_memory_gib() -> float | None:
    """Memory of the first CUDA device; None where the driver does not say."""
    try:
        return float(_asked_of_the_driver("memory.total")[0].split()[0]) / 1024
    except (IndexError, ValueError):
        return None


def _asked_of_the_driver(field: str) -> list[str]:
    """A field of every CUDA device."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []
