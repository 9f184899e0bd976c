"""Which code a record was made by: a commit of this checkout, or an installed release."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DISTRIBUTION = "grpo-ablation-harness"


def code_version() -> dict[str, Any]:
    """`commit` and `dirty`: of the checkout that holds this file, else `release VERSION` of the installed package.

    A repository that the package is merely installed inside of does not count.

    Raises:
        ValueError: this is neither a checkout nor an installed package.
    """
    top, commit = _git("rev-parse", "--show-toplevel"), _git("rev-parse", "HEAD")
    if commit and top and Path(top) == ROOT:
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--", "kernels"))}
    try:
        return {"commit": f"release {importlib.metadata.version(DISTRIBUTION)}", "dirty": False}
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"{ROOT} is neither a git checkout nor an installed {DISTRIBUTION}: a record cannot say which code made "
            "it; commit, or install the package"
        ) from None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
