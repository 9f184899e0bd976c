"""A matrix from its grid to its report: prepare, lock, run, tell."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from harness.matrix.command import DONE, FAILED, INTERRUPTED
from harness.matrix.estimate import Estimator
from harness.matrix.executors.base import Slot, make_executor
from harness.matrix.lint import before_spending
from harness.matrix.machine import Machine, detect, slot_count
from harness.matrix.planner import Plan, grid_json, make_plan
from harness.matrix.progress import dollars, duration, make_progress
from harness.matrix.scheduler import WORKER, Budget, Outcome, Scheduler
from harness.matrix.show import plan_data
from harness.spec.errors import SpecError
from harness.spec.grid import Grid, load_grid
from harness.store.atomic import read_json, write_json
from harness.store.folders import Store

RESULTS = Path("results/runs")
"""Where outputs go that are given no folder."""


@dataclass(frozen=True)
class Matrix:
    """A grid that can be run on this machine.

    Attributes:
        plan: its jobs.
        store: its output folder.
        estimator: what jobs take.
        machine: this machine.
        slots: how many runs execute at a time.
        executor: name of what executes them.
        budget: upper bounds.
    """

    plan: Plan
    store: Store
    estimator: Estimator
    machine: Machine
    slots: int
    executor: str
    budget: Budget


def prepare(
    file: str,
    out: Path | None,
    *,
    workers: int | None = None,
    executor: str = "local",
    budget_usd: float | None = None,
    budget_hours: float | None = None,
    planning: bool = False,
) -> Matrix:
    """Reads and checks a grid and plans it. Writes nothing.

    Args:
        file: the grid.
        out: the output folder; None for the default.
        workers: runs at a time; None for what fits.
        executor: name of the executor.
        budget_usd: overrides the grid's budget.
        budget_hours: overrides the grid's budget.
        planning: nothing is to be run here, so devices need not be there.

    Raises:
        SpecError: the input is wrong.
    """
    for name, value in (("workers", workers), ("budget-usd", budget_usd), ("budget-hours", budget_hours)):
        if value is not None and not value > 0:
            raise SpecError(f"--{name}: must be > 0, got {value}")
    grid = load_grid(file)
    machine = detect()
    folder = out if out is not None else RESULTS / grid.head.name
    plan = make_plan(grid, folder, machine, out_given=out is not None, planning=planning)
    if not planning:
        _check_devices(grid, plan, machine)
        make_executor(executor).close()
    store = Store(folder)
    limits = grid.head.budget
    return Matrix(
        plan=plan,
        store=store,
        estimator=Estimator(store, plan.jobs, plan.models, plan.hardware),
        machine=machine,
        slots=slot_count(plan.hardware, machine, workers),
        executor=executor,
        budget=Budget(budget_usd or limits.usd, budget_hours or limits.hours),
    )


def _check_devices(grid: Grid, plan: Plan, machine: Machine) -> None:
    if not plan.hardware.on_gpu:
        return
    wanted, there = plan.hardware.devices, len(machine.gpu_ids)
    if not there:
        hint = "set it to auto or cpu, or run on a machine with GPUs"
        raise grid.sourced.error(("hardware", "device"), "hardware.device: no CUDA device here", hint)
    if wanted > there:
        message = f"hardware.devices_per_run: {wanted} CUDA devices per run, but there are {there}"
        raise grid.sourced.error(("hardware", "devices_per_run"), message, f"set it to {there} or less")


def execute(matrix: Matrix, worker: Sequence[str] | None = None) -> int:
    """Runs what is missing, then builds tables and report; returns the exit code.

    Raises:
        SpecError: another process is at work in the folder, or it cannot be written.
    """
    with _locked(matrix):
        _write_plan(matrix)
        unfinished = [job for job in matrix.plan.jobs if not matrix.store.run(job.run_id).finished(job)]
        if not unfinished:
            print(f"all {len(matrix.plan.jobs)} runs are done")
            _report(matrix)
            return DONE
        outcome = _run(matrix, worker)
        _report(matrix)
    _tell(matrix, outcome)
    if outcome.interrupted:
        return INTERRUPTED
    return FAILED if outcome.failures else DONE


@contextmanager
def _locked(matrix: Matrix) -> Iterator[None]:
    """Holds the output folder: no two runners at once."""
    root = matrix.store.root
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        owner = root / ".owner.json"
        who = f" (process {read_json(owner)['pid']})" if owner.exists() else ""
        raise SpecError(
            f"{root}: another ablate{who} is at work in this folder",
            hint="wait for it, stop it, or choose another folder with --out",
        ) from None
    except OSError as error:
        raise SpecError(
            f"{root}: cannot be written: {error}", hint="choose another folder with --out"
        ) from None
    try:
        write_json(root / ".owner.json", {"pid": os.getpid()})
        yield
    finally:
        (root / ".owner.json").unlink(missing_ok=True)
        lock.release()


def _write_plan(matrix: Matrix) -> None:
    """Writes the resolved grid and the plan, where they changed.

    A plan with the same jobs stays: its estimates are those made before spending.
    """
    store, grid = matrix.store, grid_json(matrix.plan.grid)
    if not store.grid_file.exists() or read_json(store.grid_file) != grid:
        write_json(store.grid_file, grid)
    if store.plan_file.exists() and _bare(read_json(store.plan_file)) == _bare(matrix.plan.to_json()):
        return
    write_json(store.plan_file, plan_data(matrix.plan, matrix.estimator, matrix.slots))


def _bare(data: dict[str, object]) -> dict[str, object]:
    """A plan without its estimates."""
    jobs = data.get("jobs")
    assert isinstance(jobs, list)
    return {"cells": data.get("cells"), "jobs": [{**job, "estimate": None} for job in jobs]}


def _run(matrix: Matrix, worker: Sequence[str] | None) -> Outcome:
    plan, progress = matrix.plan, make_progress()
    estimates = [matrix.estimator.remaining(job) for job in plan.jobs]
    left = sum(e.seconds for e in estimates)
    progress.note(
        f"{plan.grid.head.name}: {len(plan.cells)} cells from "
        f"{sum(job.kind == 'train' for job in plan.jobs)} runs, {matrix.slots} at a time; about "
        f"{duration(left / matrix.slots)} and {dollars(sum(e.usd for e in estimates))} to go (estimate); "
        f"results in {matrix.store.root}"
    )
    for line in (*plan.sharing, *(f"warning: {w}" for w in (*plan.warnings[:10], *plan.hardware.notes))):
        progress.note(f"  {line}")
    for line in before_spending(plan.grid):
        progress.note(line)
    scheduler = Scheduler(
        matrix.store,
        plan.jobs,
        make_executor(matrix.executor),
        slots_of(matrix),
        matrix.estimator,
        progress,
        budget=matrix.budget,
        worker=WORKER if worker is None else worker,
    )
    return scheduler.run()


def slots_of(matrix: Matrix) -> list[Slot]:
    """The devices of every slot; with more slots than devices allow, slots share them."""
    ids, per_run = matrix.machine.gpu_ids, matrix.plan.hardware.devices
    if not matrix.plan.hardware.on_gpu:
        return [Slot(i, (), per_run) for i in range(matrix.slots)]
    groups = [ids[i : i + per_run] for i in range(0, len(ids) - per_run + 1, per_run)]
    return [Slot(i, groups[i % len(groups)], per_run) for i in range(matrix.slots)]


def _report(matrix: Matrix) -> None:
    """Builds tables and report from what is there."""
    folders = (matrix.store.run(job.run_id) for job in matrix.plan.jobs)
    if not any(folder.evaluated() for folder in folders):
        print("no evaluation was finished, so there are no tables")
        return
    from harness.reporting import build

    build(matrix.store.root)


def _tell(matrix: Matrix, outcome: Outcome) -> None:
    """What did not get done, and why."""
    for failure in outcome.failures:
        tried = f"{failure.attempts} attempts" if failure.attempts > 1 else "1 attempt"
        print(
            f"failed after {tried}: [{failure.job.label}] {failure.message}\n  log: {failure.log}",
            file=sys.stderr,
        )
    if outcome.failures:
        print("the same command tries failed runs again", file=sys.stderr)
    if outcome.left_out:
        estimates = [matrix.estimator.remaining(job) for job in outcome.left_out]
        print(
            f"left out for the budget: {len(outcome.left_out)} runs, about {dollars(sum(e.usd for e in estimates))} "
            f"and {duration(sum(e.seconds for e in estimates) / matrix.slots)} more:"
        )
        for job in outcome.left_out[:20]:
            print(f"  [{job.label}]")
    if outcome.interrupted:
        print("stopped; the same command continues")
