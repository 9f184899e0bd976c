"""Which code a record was made by: a commit of this checkout, or an installed release."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DISTRIBUTION = "grpo-ablation-harness"


class ProvenanceError(ValueError):
    """A record may not be written without saying which code made it."""


@dataclass(frozen=True)
class CodeVersion:
    """The state of the code."""

    commit: str
    """Of the checkout that holds this file, or that the package was installed from; else `release VERSION`."""
    dirty: bool
    """Whether the checkout has changes that are not committed, new files among them."""


def code_version(*packages: str) -> CodeVersion:
    """Commit and changes of `packages`, folders of this checkout.

    A repository that the package is merely installed inside of does not count.

    Raises:
        ProvenanceError: this is neither a checkout nor an installed package.
    """
    top, commit = _git("rev-parse", "--show-toplevel"), _git("rev-parse", "HEAD")
    if commit and top and Path(top) == ROOT:
        return CodeVersion(commit, dirty=bool(_git("status", "--porcelain", "--", *packages)))
    try:
        distribution = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise ProvenanceError(
            f"{ROOT} is neither a git checkout nor an installed {DISTRIBUTION}: a record cannot say which code made "
            "it; commit, or install the package"
        ) from None
    url = json.loads(distribution.read_text("direct_url.json") or "{}")
    installed_from = url.get("vcs_info", {}).get("commit_id")
    return CodeVersion(installed_from or f"release {distribution.version}", dirty=False)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
