"""Builds a dataset from a recipe: the funnel, with its counts. Given again, it continues."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

DEFAULT_OUT = Path("results/runs/curation")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.curate",
        description=__doc__,
        epilog="exit codes: 0 done, 2 the input is wrong, 4 the harness itself failed, 130 stopped by Ctrl-C",
    )
    parser.add_argument("--recipe", required=True, type=Path, metavar="R", help="the recipe, a YAML file")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help=f"output folder (default: {DEFAULT_OUT}/<recipe name>)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    from harness.cli.exits import guarded

    return guarded(lambda: _curate(arguments), arguments.out / "error.log" if arguments.out else None)


def _curate(arguments: argparse.Namespace) -> int:
    from harness.cli.exits import DONE
    from harness.curation.command import curate, load_recipe

    recipe = load_recipe(arguments.recipe)
    curate(recipe, arguments.out or DEFAULT_OUT / recipe.name)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
