"""A matrix from its grid to its report: prepare, lock, run, tell."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import psutil
from filelock import FileLock

from harness.cli.exits import DONE, FAILED, INTERRUPTED
from harness.matrix.execution.budget import Budget
from harness.matrix.execution.checkpoint_cleanup import CheckpointCleaner
from harness.matrix.execution.device_pool import DevicePool
from harness.matrix.execution.progress import make_progress
from harness.matrix.execution.result import ScheduleResult
from harness.matrix.execution.scheduler import Scheduler
from harness.matrix.execution.worker_command import WORKER
from harness.matrix.executors.base import Executor, Slot
from harness.matrix.executors.registry import make_executor
from harness.matrix.planning.data_rules import before_spending, lint_json
from harness.matrix.planning.disk_model import disk_need, disk_warnings
from harness.matrix.planning.estimator import Estimator
from harness.matrix.planning.gate import check_gate, memory_shortages
from harness.matrix.planning.hardware import Machine, detect, slot_count
from harness.matrix.planning.planner import Plan, grid_json, make_plan
from harness.matrix.planning.preflight import check_output
from harness.matrix.planning.render import plan_record
from harness.matrix.planning.start_order import start_order
from harness.safe_text import visible
from harness.spec.errors import SpecError
from harness.spec.grid import Grid, load_grid
from harness.spec.identity import flattened
from harness.store.atomic import make_folder, set_aside, to_json
from harness.store.cancellations import Cancellations
from harness.store.errors import Damaged
from harness.store.folders import Store
from harness.store.leases import Owner
from harness.store.records import CellEntry, JobEntry, PlanRecord
from harness.store.repair import repair
from harness.store.runners import Runners
from harness.store.schema import load, write_record
from harness.units import dollars, duration

T = TypeVar("T")

RESULTS = Path("results/runs")
"""Where outputs go that are given no folder."""

MEMORY_SHARE = 0.9
"""Share of a device's memory that runs side by side may be estimated to take."""


@dataclass(frozen=True)
class Matrix:
    """A grid that can be run on this machine.

    Attributes:
        plan: its jobs.
        store: its output folder.
        estimator: what jobs take.
        machine: this machine.
        slots: how many runs execute at a time on this machine.
        executor: name of what executes them.
        budget: upper bounds.
        workers: runs at a time, as the user asked; None where not.
    """

    plan: Plan
    store: Store
    estimator: Estimator
    machine: Machine
    slots: int
    executor: str
    budget: Budget
    workers: int | None = None


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
    """Reads and checks a grid and plans it. Writes nothing, but sets aside what is damaged in the folder.

    Args:
        file: the grid.
        out: the output folder; None for the default.
        workers: runs at a time; None for what fits.
        executor: name of the executor.
        budget_usd: overrides the grid's budget.
        budget_hours: overrides the grid's budget.
        planning: nothing is to be run here, so devices need not be there, and damaged files stay where they are.

    Raises:
        SpecError: the input is wrong.
    """
    for name, value in (("workers", workers), ("budget-usd", budget_usd), ("budget-hours", budget_hours)):
        if value is not None and not value > 0:
            raise SpecError(f"--{name}: must be > 0, got {value}")
    grid = load_grid(file)
    machine = detect()
    folder = _folder(grid, out)
    if not planning:
        check_output(grid, folder, given=out is not None)  # whose it is, before anything in it is touched
        repair(Store(folder), _say)
    plan = make_plan(grid, folder, machine, out_given=out is not None, planning=planning)
    if not planning:
        if executor == "local":
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
        workers=workers,
    )


def _folder(grid: Grid, out: Path | None) -> Path:
    return out if out is not None else RESULTS / grid.head.name


def output_folder(file: str, out: Path | None) -> Path:
    """Where a grid's results are.

    Raises:
        SpecError: the grid is wrong, and no folder is given.
    """
    return out if out is not None else _folder(load_grid(file), out)


def _check_devices(grid: Grid, plan: Plan, machine: Machine) -> None:
    if not plan.hardware.on_gpu:
        return
    wanted, there = plan.hardware.devices, len(machine.gpu_ids)
    if not there:
        hint = "set it to auto or cpu, or run on a machine with GPUs"
        raise grid.located.error(("hardware", "device"), "hardware.device: no CUDA device here", hint)
    if wanted > there:
        message = f"hardware.devices_per_run: {wanted} CUDA devices per run, but there are {there}"
        raise grid.located.error(("hardware", "devices_per_run"), message, f"set it to {there} or less")


def execute(matrix: Matrix, worker: Sequence[str] | None = None, *, force: bool = False) -> int:
    """Runs what is missing, then builds tables and report; returns the exit code.

    Args:
        matrix: what to run.
        worker: command of a worker, in place of the harness's own.
        force: start runs that are estimated to take more memory than there is.

    Raises:
        SpecError: what is missing is known to fail, or another grid is at work in the folder.
        StoreError: the folder cannot be written.
    """
    cancelled = Cancellations(matrix.store.root).run_ids()
    wanted = [job for job in matrix.plan.jobs if job.run_id not in cancelled]
    if not all(matrix.store.run(job.run_id).finished(job) for job in wanted):
        check_gate(matrix.plan)
        short = memory_shortages(matrix.plan, matrix.estimator)
        if short and not force:
            raise SpecError(short[0], hint="--force starts it all the same")
    make_folder(matrix.store.root)
    digest = hashlib.sha256(to_json(grid_json(matrix.plan.grid)).encode()).hexdigest()
    with Runners(matrix.store.root).one_of(digest) as other:
        if other is not None:
            raise _another_grid(matrix, other)
        return _execute(matrix, worker)


def _execute(matrix: Matrix, worker: Sequence[str] | None) -> int:
    _write_plan(matrix)
    finished = [job for job in matrix.plan.jobs if matrix.store.run(job.run_id).finished(job)]
    cleaner = CheckpointCleaner(matrix.store, matrix.plan.jobs)
    for job in finished:
        if not (folder := matrix.store.run(job.run_id)).job_file.exists():  # it was damaged
            folder.write_job(job)
        cleaner.on_finished(job)
    if len(finished) == len(matrix.plan.jobs):
        print(f"all {len(matrix.plan.jobs)} runs are done")
        report_matrix(matrix)
        return DONE
    outcome = _run(matrix, worker)
    report_matrix(matrix)
    _tell(matrix, outcome)
    if outcome.interrupted:
        return INTERRUPTED
    return FAILED if outcome.failures else DONE


def _another_grid(matrix: Matrix, other: Owner) -> SpecError:
    """Why this grid cannot run in the folder now."""
    there: dict[str, object] = {}
    with contextlib.suppress(Damaged):
        there = flattened(matrix.store.grid())
    here = flattened(grid_json(matrix.plan.grid))
    differ = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    what = f"; it differs in {differ[0]}" if differ else ""
    return SpecError(
        f"{matrix.store.root}: {other} is at work here on another grid of this name{what}",
        hint="wait until it ends, or choose another folder with --out; if it is long gone, delete "
        f"{matrix.store.root / '.runners'}",
    )


def _write_plan(matrix: Matrix) -> None:
    """Writes the resolved grid and the plan, where they changed.

    A plan with the same jobs stays: its estimates are those made before spending.
    """
    store, grid = matrix.store, grid_json(matrix.plan.grid)
    lint = store.root / "lint.json"
    if _sound(store.grid, store.grid_file) != grid:
        if lint.exists():
            lint.unlink()  # which would be of another grid, were this process killed in between
        # First of all: by this file a folder is known to hold results.
        write_record("output", grid, store.grid_file)
    # A finished matrix is only reprinted: looking at its data again takes seconds.
    if _sound(lambda: load("output", lint), lint) is None:
        write_record("output", lint_json(matrix.plan.linted), lint)
    for file in store.mend_looks():
        _say(f"damaged: {file}; set aside, and written anew from its copy")
    for file in store.mend_invocations():
        _say(f"damaged or gone: {file}; set aside: the cost table goes without that call's idle time")
    known = _sound(store.plan, store.plan_file)
    if known is None or _bare(known) != _bare(matrix.plan.record()):
        record = plan_record(matrix.plan, matrix.estimator, matrix.slots)
        write_record("output", record, store.plan_file)


def _sound(read: Callable[[], T], path: Path) -> T | None:
    """What a file of the folder holds; None where it is not there, or damaged and set aside."""
    if not path.exists():
        return None
    try:
        return read()
    except Damaged as damage:
        _say(f"damaged: {damage}; set aside as {set_aside(path).name}, and written anew")
        return None


def _say(line: str) -> None:
    print(visible(line), file=sys.stderr)


def _bare(plan: PlanRecord) -> tuple[tuple[CellEntry, ...], tuple[JobEntry, ...]]:
    """The cells and jobs of a plan, without estimates."""
    return plan.cells, tuple(replace(job, estimate=None) for job in plan.jobs)


def _run(matrix: Matrix, worker: Sequence[str] | None) -> ScheduleResult:
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
    to_do = ((job, plan.models[job.run_id]) for job, e in zip(plan.jobs, estimates) if e.evaluations)
    for line in disk_warnings(disk_need(to_do, matrix.slots, matrix.store).peak, plan.out):
        progress.note(f"  warning: {line}")
    for line in before_spending(plan.linted):
        progress.note(line)
    executor = make_executor(matrix.executor)
    scheduler = Scheduler(
        matrix.store,
        start_order(plan),
        executor,
        _pool(matrix, executor),
        matrix.estimator,
        progress,
        budget=matrix.budget,
        worker=WORKER if worker is None else worker,
    )
    return scheduler.run()


def _pool(matrix: Matrix, executor: Executor) -> DevicePool:
    """The executor's slots, or those of this machine, which runners on this folder share."""
    hardware = matrix.plan.hardware
    own = executor.slots(hardware.devices, hardware.on_gpu, matrix.workers)
    if own is not None:
        return DevicePool(own)
    slots = slots_of(matrix)
    locks = matrix.store.root / ".slots"
    make_folder(locks)
    memory = hardware.profile.memory_gib if hardware.on_gpu else psutil.virtual_memory().total / 2**30
    limit = {slot.gpu_ids: MEMORY_SHARE * memory for slot in slots} if memory is not None else {}
    return DevicePool(slots, locks, limit)


def slots_of(matrix: Matrix) -> list[Slot]:
    """The devices of every slot; with more slots than devices allow, slots share them."""
    ids, per_run = matrix.machine.gpu_ids, matrix.plan.hardware.devices
    if not matrix.plan.hardware.on_gpu:
        return [Slot(i, (), per_run) for i in range(matrix.slots)]
    groups = [ids[i : i + per_run] for i in range(0, len(ids) - per_run + 1, per_run)]
    return [Slot(i, groups[i % len(groups)], per_run) for i in range(matrix.slots)]


def report_matrix(matrix: Matrix) -> None:
    """Builds tables and report from what is there, one runner after the other."""
    folders = (matrix.store.run(job.run_id) for job in matrix.plan.jobs)
    if not any(folder.evaluated() for folder in folders):
        print("no evaluation was finished, so there are no tables")
        return
    from harness.reporting import build

    with FileLock(matrix.store.root / ".lock"):
        build(matrix.store.root)


def _tell(matrix: Matrix, outcome: ScheduleResult) -> None:
    """What did not get done, and why."""
    for failure in outcome.failures:
        tried = f"{failure.attempts} attempts" if failure.attempts > 1 else "1 attempt"
        print(
            visible(f"failed after {tried}: [{failure.job.label}] {failure.message}\n  log: {failure.log}"),
            file=sys.stderr,
        )
    if outcome.failures:
        print("the same command tries failed runs again", file=sys.stderr)
    if outcome.halted:
        print(f"stopped: {outcome.halted}", file=sys.stderr)
    for job in outcome.cancelled:
        print(f"cancelled: [{job.label}]; `--resume {job.run_id}` takes it up again")
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
