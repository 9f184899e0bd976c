"""Grids that the product ships, by name."""

from __future__ import annotations

import sysconfig
from pathlib import Path

SHARE = Path("share", "grpo-ablation-harness", "ablations")
"""Where an installed wheel keeps its grids, below the environment's data folder."""


def shipped_grids() -> dict[str, Path]:
    """Name -> file of every shipped grid: of the source tree, or else of the installed wheel."""
    for folder in (Path(__file__).parents[2] / "ablations", Path(sysconfig.get_path("data")) / SHARE):
        if found := sorted(folder.glob("*.yaml")):
            return {file.stem: file for file in found}
    return {}


def grid_file(given: str) -> str:
    """The grid that a command line names: a file, or a shipped grid such as `quickstart`."""
    return given if Path(given).exists() else str(shipped_grids().get(given, given))
