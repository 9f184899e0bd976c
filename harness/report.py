"""`python -m harness.report DIR …`: rebuilds every table and the report from records; judges external results."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

DONE, FAILED_RUNS, BAD_INPUT = 0, 1, 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.report",
        description="Rebuild every table, report.md and report.html from the records of result folders, and compare "
        "several folders; or judge results that others have made.",
    )
    parser.add_argument(
        "folders", nargs="*", metavar="DIR", type=Path, help="an output folder of harness.ablate"
    )
    parser.add_argument(
        "--external", nargs="+", metavar="FILE", type=Path,
        help="results of others: long CSV or Parquet (run, seed, eval_seed, family, axis.<name> …, step, benchmark, "
        "and question, samples, correct, cluster or questions, samples_per_question, accuracy_percent), JSON of "
        "lm-eval or lighteval, or its folder",
    )  # fmt: skip
    # The flag's former name.
    parser.add_argument("--foreign", dest="external", nargs="+", type=Path, help=argparse.SUPPRESS)
    parser.add_argument(
        "--run", action="append", default=[], metavar="FILE=NAME[,seed=1][,step=100][,eval_seed=1][,AXIS=LEVEL]",
        help="with --external: whose results a JSON file (or the files of a folder) holds, where its model's name "
        "does not say it, such as repeated runs; give it once a file",
    )  # fmt: skip
    parser.add_argument(
        "--filter", action="append", default=[], metavar="[TASK=]NAME",
        help="with --external: which of lm-eval's filters to read, such as flexible-extract (default: the first)",
    )  # fmt: skip
    parser.add_argument(
        "--metric", action="append", default=[], metavar="[TASK=]NAME",
        help="with --external: which metric of a task to read as its accuracy (default: the report says which)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="where the report on --external goes, or the comparison of several folders "
        "(default: `comparison` beside the first)",
    )  # fmt: skip
    parser.add_argument(
        "--baseline", action="append", default=[], metavar="AXIS=LEVEL",
        help="with --external: the level that an axis's others are compared with (default: the first in the file)",
    )  # fmt: skip
    parser.add_argument(
        "--unit", choices=("recipe", "checkpoint"),
        help="with --external: whom verdicts are about: a recipe, over its training seeds (default), or the very "
        "checkpoints in the file, whose seeds are then those of evaluations",
    )  # fmt: skip
    parser.add_argument(
        "--shared-seeds", action="store_true",
        help="with --external: runs of one seed share their random numbers (data order, sampling), so that they are "
        "compared seed by seed",
    )  # fmt: skip
    parser.add_argument(
        "--delta",
        type=float,
        metavar="X",
        help="with --external: smallest accuracy difference that matters (0.02)",
    )
    parser.add_argument(
        "--claims",
        type=Path,
        metavar="JSON",
        help="with --external: published claims to hold against the results",
    )
    parser.add_argument("--quiet", action="store_true", help="write the files, print nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 a folder has failed runs, 2 the input is wrong, 4 the harness itself failed."""
    arguments = _parser().parse_args(argv)
    wrong = _misuse(arguments)
    if wrong:
        print(f"harness.report: {wrong}", file=sys.stderr)
        return BAD_INPUT
    # Imported here so that --help stays instant.
    from harness.cli.exits import guarded

    return guarded(lambda: _report(arguments))


def _report(arguments: argparse.Namespace) -> int:
    echo = not arguments.quiet
    if arguments.external:
        return _told(lambda: _external(arguments), echo=echo)
    codes = [_told(functools.partial(_rebuild, folder), echo=echo) for folder in arguments.folders]
    if len(codes) > 1 and BAD_INPUT not in codes:
        codes.append(_told(lambda: _compare(arguments), echo=echo))
    return max(codes)


def _misuse(arguments: argparse.Namespace) -> str:
    if bool(arguments.folders) == bool(arguments.external):
        return "give result folders, or --external FILE --out DIR, not both and not neither"
    if arguments.external and arguments.out is None:
        return "--external needs --out DIR, where the report goes"
    if not arguments.external and (arguments.run or arguments.filter or arguments.metric):
        return "--run, --filter and --metric go with --external"
    if not arguments.external and (arguments.baseline or arguments.delta is not None or arguments.claims):
        return "--baseline, --delta and --claims go with --external; a folder of ours has them in its grid"
    if not arguments.external and (arguments.unit or arguments.shared_seeds):
        return "--unit and --shared-seeds go with --external"
    if arguments.out is not None and len(arguments.folders) == 1:
        return "--out goes with --external or with several folders; one folder is rebuilt in place"
    if arguments.delta is not None and not 0 < arguments.delta < 1:
        return f"--delta must be a fraction between 0 and 1, got {arguments.delta:g}"
    unpaired = [b for b in arguments.baseline if "=" not in b]
    if unpaired:
        return f"--baseline must be AXIS=LEVEL, got {unpaired[0]!r}"
    return ""


def _told(make: Callable[[], tuple[str, bool]], *, echo: bool) -> int:
    """Wrong input ends one report, not those of the other folders."""
    from harness.spec.errors import SpecError
    from harness.store.errors import StoreError

    try:
        text, failed = make()
    except SpecError as error:
        print(f"harness.report: {error}", file=sys.stderr)
        return BAD_INPUT
    except (StoreError, OSError) as error:
        print(f"harness.report: {error}", file=sys.stderr)
        if "\n" not in str(error):
            print(
                "  give an output folder of harness.ablate, such as results/runs/quickstart", file=sys.stderr
            )
        return BAD_INPUT
    if echo:
        print(text)
    return FAILED_RUNS if failed else DONE


def _rebuild(folder: Path) -> tuple[str, bool]:
    from harness.reporting.report import write_report

    return write_report(folder)


def _external(arguments: argparse.Namespace) -> tuple[str, bool]:
    from harness.reporting.report import write_external_report
    from harness.reporting.sources.choices import Choices, parse_run
    from harness.reporting.sources.inference import Inference

    choices = Choices(arguments.filter, arguments.metric, [parse_run(text) for text in arguments.run])
    baselines = dict(b.split("=", 1) for b in arguments.baseline)
    return write_external_report(
        arguments.external,
        arguments.out,
        baselines=baselines,
        delta=0.02 if arguments.delta is None else arguments.delta,
        claims=arguments.claims,
        choices=choices,
        inference=Inference(arguments.unit or "recipe", arguments.shared_seeds),
    )


def _compare(arguments: argparse.Namespace) -> tuple[str, bool]:
    from harness.reporting.report import write_comparison

    return write_comparison(arguments.folders, arguments.out or arguments.folders[0].parent / "comparison")


if __name__ == "__main__":
    sys.exit(main())
