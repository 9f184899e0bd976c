"""What in a grid, or in a recipe of trl or open-r1, will not do what its author thinks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.lint",
        description=__doc__,
        epilog="exit codes: 0 no errors, 1 a finding is an error, 2 the input is wrong, 4 the harness itself failed",
    )
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="a grid, or a trl or open-r1 recipe, in YAML"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="OUT",
        help="draw the curve of every reward in the files to OUT (.svg or .png)",
    )
    parser.add_argument(
        "--to-grid",
        action="store_true",
        help="print a trl or open-r1 recipe as a grid; what has no counterpart is listed in it and on stderr",
    )
    parser.add_argument("--rules", action="store_true", help="list the rules, and stop")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not arguments.files and not arguments.rules and arguments.plot is None:
        parser.error("give a FILE; or --rules; or --plot OUT for the built-in rewards")
    from harness.cli.exits import guarded

    return guarded(lambda: _lint(arguments))


def _lint(arguments: argparse.Namespace) -> int:
    from harness.cli.exits import DONE, FAILED
    from harness.matrix.planning.data_rules import lint_file
    from harness.spec.lint.finding import RULES, errors
    from harness.store.atomic import to_json

    if arguments.rules:
        width = max(map(len, RULES))
        print("\n".join(f"{rule:{width}}  {meaning}" for rule, meaning in RULES.items()))
        return DONE
    if arguments.to_grid:
        return _to_grid(arguments.files)
    linted = [lint_file(file) for file in arguments.files]
    findings = [finding for one in linted for finding in one.findings]
    if arguments.json:
        notes = [note for one in linted for note in one.notes]
        print(to_json({"findings": [f.to_json() for f in findings], "notes": notes}, indent=1))
    else:
        for file, one in zip(arguments.files, linted, strict=True):
            _print(file, one.findings, one.notes)
    if arguments.plot is not None:
        from harness.reporting.figures.rewards import BUILT_IN, draw

        curves = {name: value for one in linted for name, value in one.rewards.items()} or BUILT_IN
        draw(curves, arguments.plot)
        if not arguments.json:
            print(f"drew {len(curves)} rewards to {arguments.plot}")
    return FAILED if errors(findings) else DONE


def _to_grid(files: Sequence[str]) -> int:
    from harness.cli.exits import DONE
    from harness.matrix.planning.data_rules import is_recipe
    from harness.spec.errors import SpecError
    from harness.spec.lint.trl_recipes import load_trl_recipe
    from harness.spec.lint.trl_to_grid import to_grid

    if len(files) != 1:
        raise SpecError("--to-grid: give one recipe")
    if not is_recipe(files[0]):
        raise SpecError("not a recipe of trl", file=files[0], hint="a grid needs no conversion")
    text, left_out = to_grid(load_trl_recipe(files[0]))
    print(text, end="")
    for line in left_out:
        print(f"{files[0]}: no counterpart: {line}", file=sys.stderr)
    return DONE


def _print(file: str, findings: Sequence[object], notes: Sequence[str]) -> None:
    from collections import Counter

    from harness.spec.lint.finding import Finding

    for finding in findings:
        print(finding)
    for note in notes:
        print(f"{file}: note: {note}")
    number = Counter(
        "waived" if f.waived is not None else f.severity for f in findings if isinstance(f, Finding)
    )
    counts = ", ".join(f"{number[kind]} {kind}" for kind in ("error", "warning", "info", "waived"))
    print(f"{file}: {counts}")


if __name__ == "__main__":
    sys.exit(main())
