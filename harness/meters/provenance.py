"""Where a figure comes from: code, versions, machine, command."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

import psutil

from harness.store.records import Provenance
from kernels.provenance import DISTRIBUTION, code_version

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


def collect() -> Provenance:
    """Commit, dirty flag, package versions, platform, processor, memory, GPUs and command of this process.

    Raises:
        ProvenanceError: neither a git checkout nor an installed release says which code this is.
    """
    code = code_version("harness", "kernels")
    return Provenance(
        commit=code.commit,
        dirty=code.dirty,
        versions={"python": platform.python_version(), **_versions()},
        platform=platform.platform(),
        cpu=_cpu(),
        cores=psutil.cpu_count(logical=True),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        device=", ".join(gpus()) or _cpu(),
        command=(Path(sys.argv[0]).name, *sys.argv[1:]),
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in (*_PACKAGES, DISTRIBUTION):
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
