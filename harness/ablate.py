"""Runs a grid's matrix. Given again, it continues where it stopped; when all is done, it only reprints the tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.cli.run_options import add_run_options
from harness.matrix.executors.registry import EXECUTORS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.ablate",
        description=__doc__,
        epilog="exit codes: 0 done, 1 finished with failed runs, 2 the input is wrong or known to fail, 4 the "
        "harness itself failed, 130 stopped by Ctrl-C (once: runs save their work; twice: at once)",
    )
    parser.add_argument(
        "--grid",
        required=True,
        metavar="FILE",
        help="the grid: a YAML file, or the name of a shipped one, such as quickstart",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="output folder (default: results/runs/<grid name>)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="runs at a time (default: what fits)")
    parser.add_argument("--executor", choices=tuple(EXECUTORS), default="local", help="where runs execute")
    parser.add_argument(
        "--budget-usd",
        type=float,
        metavar="X",
        help="start no run that would take the folder's cost beyond X dollars",
    )
    parser.add_argument(
        "--budget-hours",
        type=float,
        metavar="H",
        help="start no run that would end more than H hours from now",
    )
    add_run_options(parser)
    parser.add_argument(
        "--force",
        action="store_true",
        help="start runs although the estimate of their memory exceeds the device's",
    )
    parser.add_argument(
        "--cancel",
        metavar="CELL",
        help="have whoever runs it end this cell's run, its work saved, and leave it alone; CELL is like "
        "'reward=cosine seed=0', or a run's id",
    )
    parser.add_argument(
        "--resume", metavar="CELL", help="take up a run again that was cancelled, and run the matrix"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and write nothing")
    return parser


def main(argv: Sequence[str] | None = None, *, worker: Sequence[str] | None = None) -> int:
    """The command; returns the exit code.

    Args:
        argv: arguments, without the program's name.
        worker: command of a worker, in place of the harness's own.
    """
    arguments = _parser().parse_args(argv)
    from harness.cli.exits import guarded

    log = arguments.out / "error.log" if arguments.out else None
    return guarded(lambda: _ablate(arguments, worker), log)


def _ablate(arguments: argparse.Namespace, worker: Sequence[str] | None) -> int:
    from harness.cli.exits import DONE
    from harness.cli.grids import grid_file
    from harness.cli.run_options import RunOptions
    from harness.matrix.execution.run_matrix import execute, output_folder, prepare
    from harness.matrix.execution.worker_command import WORKER
    from harness.matrix.planning.gate import check_gate
    from harness.matrix.planning.render import plan_record, print_plan

    options = RunOptions.from_arguments(arguments)
    options.check()
    if arguments.cancel is not None or arguments.resume is not None:
        from harness.matrix.execution.cancelling import cancel, resume

        out = output_folder(grid_file(arguments.grid), arguments.out)
        if arguments.cancel is not None:
            print(cancel(out, arguments.cancel))
            return DONE
        print(resume(out, arguments.resume))
    matrix = prepare(
        grid_file(arguments.grid),
        arguments.out,
        workers=arguments.workers,
        executor=arguments.executor,
        budget_usd=arguments.budget_usd,
        budget_hours=arguments.budget_hours,
        planning=arguments.dry_run,
    )
    if arguments.dry_run:
        check_gate(matrix.plan)
        print_plan(matrix.plan, plan_record(matrix.plan, matrix.estimator, matrix.slots))
        return DONE
    return execute(
        matrix, [*(WORKER if worker is None else worker), *options.to_argv()], force=arguments.force
    )


if __name__ == "__main__":
    sys.exit(main())
