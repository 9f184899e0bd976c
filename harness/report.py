"""`python -m harness.report DIR …`: rebuilds every table and the report from the records of result folders."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

DONE, FAILED_RUNS, BAD_INPUT, HARNESS_FAILED = 0, 1, 2, 4


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 a folder has failed runs, 2 no such result folder, 4 the harness itself failed."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.report",
        description="Rebuild every table, report.md and report.html from the records of result folders.",
    )
    parser.add_argument(
        "folders", nargs="+", metavar="DIR", type=Path, help="an output folder of harness.ablate"
    )
    parser.add_argument("--quiet", action="store_true", help="write the files, print nothing")
    arguments = parser.parse_args(argv)
    return max(_rebuild(folder, echo=not arguments.quiet) for folder in arguments.folders)


def _rebuild(folder: Path, *, echo: bool) -> int:
    # Imported here so that --help stays instant.
    from harness.reporting.report import write_report
    from harness.store.errors import StoreError

    try:
        text, failed = write_report(folder)
    except (StoreError, OSError) as error:
        print(f"harness.report: {error}", file=sys.stderr)
        print("  give an output folder of harness.ablate, such as results/runs/quickstart", file=sys.stderr)
        return BAD_INPUT
    if echo:
        print(text)
    return FAILED_RUNS if failed else DONE


if __name__ == "__main__":
    sys.exit(main())
