"""Is the candidate slower, hungrier or less accurate than the baseline? Measured side by side on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.regression.compare import Verdict


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.regress",
        description=__doc__,
        epilog="a side is a git ref, a source tree, 'cmd:…' (a command line), an output folder of harness.ablate, "
        "or a JSON file of pytest-benchmark (or a folder of several); both of one kind. Exit codes: 0 no regression, "
        "1 regression, 2 wrong input, a missing baseline among it, 3 undecided, 4 the harness itself failed, "
        "5 another device, 6 the candidate failed, 130 stopped.",
    )
    parser.add_argument("--baseline", required=True, metavar="A", help="what it must not be worse than")
    parser.add_argument("--candidate", required=True, metavar="B", help="what is judged")
    parser.add_argument(
        "--checks",
        metavar="LIST",
        help="of kernels, training, memory, accuracy; default: all that fit the sides",
    )
    parser.add_argument(
        "--quick", action="store_true", help="kernels and memory at their smallest, under a minute"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for junit.xml, regress.md, regress.json"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="on a CPU; default %(default)s")
    parser.add_argument("--seconds", type=float, metavar="S", help="per case and set of fresh processes")
    parser.add_argument(
        "--blocks", type=int, default=4, metavar="N", help="most sets of fresh processes; default %(default)s"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="least slow-down that counts, a fraction; default 0.025, at least 0.1 between files of "
        "pytest-benchmark, and never below the measured noise",
    )
    parser.add_argument(
        "--delta",
        type=float,
        default=0.02,
        metavar="X",
        help="least loss of accuracy that counts; default %(default)s",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order of turns")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    from harness.cli.exits import guarded

    return guarded(lambda: _regress(arguments))


def _regress(arguments: argparse.Namespace) -> int:
    from harness.regression.errors import GateError
    from harness.regression.report import clear, junit_failure, markdown, write
    from harness.regression.revisions import interruptible
    from harness.store.atomic import write_text

    if arguments.out is not None and arguments.out.exists() and not arguments.out.is_dir():
        print(f"error: --out {arguments.out}: is not a folder", file=sys.stderr)
        return GateError.exit_code
    if arguments.out is not None:
        clear(arguments.out)
    try:
        with interruptible():
            verdict = _verdict(arguments)
    except GateError as error:
        print(f"error: {error}", file=sys.stderr)
        if arguments.out is not None:
            arguments.out.mkdir(parents=True, exist_ok=True)
            write_text(arguments.out / "junit.xml", junit_failure(str(error), type(error).__name__))
        return error.exit_code
    if arguments.out is not None:
        write(arguments.out, verdict)
    print(markdown(verdict))
    return verdict.exit_code


def _verdict(arguments: argparse.Namespace) -> Verdict:
    from harness.regression.compare import CHECKS, Options, compare_revisions, names_of, to_stderr
    from harness.regression.errors import GateError
    from harness.regression.gate import FLOORS, Settings

    for name in ("threads", "seconds", "blocks", "tolerance", "delta"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise GateError(f"--{name}: must be > 0, got {value}")
    floors = dict(FLOORS)
    if arguments.tolerance is not None:
        floors["time"] = arguments.tolerance
    options = Options(
        baseline=arguments.baseline,
        candidate=arguments.candidate,
        checks=names_of(arguments.checks, CHECKS, "--checks") if arguments.checks else None,
        quick=arguments.quick,
        device=arguments.device,
        threads=arguments.threads,
        seconds=arguments.seconds,
        delta=arguments.delta,
        settings=Settings(floors=floors, blocks=arguments.blocks, seed=arguments.seed),
        repository=Path.cwd(),
    )
    return compare_revisions(options, (lambda _: None) if arguments.quiet else to_stderr)


if __name__ == "__main__":
    sys.exit(main())
