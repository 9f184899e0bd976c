"""What a grid comes to, before anything is spent: cells, runs, evaluations, hours, $, GB, detectable effects."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.matrix.planning.planner import Plan
    from harness.simulation.jobs import SimulatedJobs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.plan",
        description=__doc__,
        epilog="exit codes: 0 done, 2 the input is wrong or known to fail, 4 the harness itself failed",
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
    parser.add_argument(
        "--why",
        metavar="CELL",
        help="why this cell would be rerun or reused, field by field; CELL is like 'reward=cosine seed=0'",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="runs at a time (default: what fits)")
    parser.add_argument(
        "--probe",
        action="store_true",
        help="first train a few steps on this machine (kept in DIR/.probes) and reckon with what they take",
    )
    parser.add_argument(
        "--simulate",
        action="store_true",
        help="also run a step of every recipe without weights or device, and print the memory it allocates",
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    from harness.cli.exits import guarded

    return guarded(lambda: _plan(arguments))


def _plan(arguments: argparse.Namespace) -> int:
    from harness.cli.exits import DONE
    from harness.cli.grids import grid_file
    from harness.matrix.execution.run_matrix import prepare
    from harness.matrix.planning.explain import explain, find_cell
    from harness.matrix.planning.gate import check_gate
    from harness.matrix.planning.render import plan_record, print_plan
    from harness.store.atomic import to_json
    from harness.store.schema import written

    grid = grid_file(arguments.grid)
    if arguments.probe:
        from harness.matrix.execution.probe import run_probe

        matrix = prepare(grid, arguments.out, workers=arguments.workers)
        check_gate(matrix.plan)
        run_probe(matrix)
    matrix = prepare(grid, arguments.out, workers=arguments.workers, planning=True)
    if arguments.why is not None:
        print("\n".join(explain(matrix.plan, find_cell(matrix.plan, arguments.why))))
        return DONE
    check_gate(matrix.plan)
    record = plan_record(matrix.plan, matrix.estimator, matrix.slots)
    simulated = _simulated(matrix.plan) if arguments.simulate else []
    if arguments.json:
        memory = {"simulated": [jobs.record() for jobs in simulated]} if arguments.simulate else {}
        print(to_json({**written("output", record), **memory}, indent=1))
    else:
        print_plan(matrix.plan, record)
        if simulated:
            from harness.simulation.jobs import LEFT_OUT

            print("\n".join([*(line for jobs in simulated for line in jobs.words()), LEFT_OUT]))
    return DONE


def _simulated(plan: Plan) -> list[SimulatedJobs]:
    from harness.simulation.jobs import simulate_jobs

    return simulate_jobs(plan.jobs, plan.models, plan.hardware.spec)


if __name__ == "__main__":
    sys.exit(main())
