"""How long a large grid takes to plan, and to resume when all of it is finished, and how much memory.

    python -m tests.campaigns.scale                    1,000 and 10,000 cells
    python -m tests.campaigns.scale --cells 200 1000   smaller

Every figure is of a fresh process that runs the command itself. Results: results/campaigns/scale.json and scale.md.
"""

from __future__ import annotations

import argparse
import json
import runpy
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "campaigns"
LIMITS = {"plan": 5.0, "plan, forks": 10.0, "resume": 5.0}
"""Seconds, at 10,000 cells; with forks each of them is a run, else two share one."""
LIMIT_MIB = 500.0
MOST_GROWTH = 1.3
"""Time may grow so many times faster than the number of cells."""

GRID = """
name: scale
question: Does a large grid plan in seconds?
base:
  model: tiny
  data: {{sources: [{{source: sums, terms: [2]}}]}}
  reward: {{functions: [{{name: accuracy}}]}}
  optimizer: {{schedule: {schedule}}}
axes:
  rate: {{optimizer.learning_rate: [{rates}]}}
  cap: {{rollout.max_completion_tokens: [8, 16, 24, 32, 40]}}
  loss: {{objective.loss: [dapo, grpo]}}
  steps: {{training.steps: [5, 10]}}
seeds: [0, 1, 2, 3, 4]
evaluate:
  benchmarks: [{{name: sums-2, questions: 8, source: {{source: sums, terms: [2], digits: [1]}}}}]
hardware: {{device: cpu, devices_per_run: 1}}
"""
PER_RATE = 5 * 2 * 2 * 5
WHEN = "2026-01-01T00:00:00+00:00"

PLAN = "import sys; from harness.plan import main; sys.exit(main(sys.argv[1:]))"
RESUME = (
    "import sys; from harness.matrix.execution import run_matrix as matrix; matrix.report_matrix = lambda _: None; "
    "from harness.ablate import main; sys.exit(main(sys.argv[1:]))"
)


def write_grid(file, cells, schedule="constant"):
    """A grid of so many cells, a multiple of 100."""
    assert cells % PER_RATE == 0, cells
    rates = ", ".join(f"{i + 1}e-6" for i in range(cells // PER_RATE))
    file.write_text(GRID.format(rates=rates, schedule=schedule))


def finish(grid, out):
    """Fills the folder with the records of a matrix that has run."""
    from harness.matrix.execution.run_matrix import _write_plan, prepare
    from harness.store.atomic import make_folder
    from harness.store.checkpoints import OPTIMIZER_FILE
    from harness.store.leases import Owner
    from harness.store.records.form import to_data
    from harness.store.schema import append_record, write_record

    example = runpy.run_path(str(ROOT / "tests" / "harness" / "examples.py"))
    owner, matrix = to_data(Owner.here()) | {"pid": 1, "process_started": 1.0}, prepare(str(grid), out)
    make_folder(out)
    _write_plan(matrix)
    for job in matrix.plan.jobs:
        folder = out / "runs" / job.run_id
        attempt = folder / "attempt-001"
        (folder / "evaluations").mkdir(parents=True)
        attempt.mkdir()
        write_record("run", job, folder / "run.json")
        (attempt / "launched").write_text(json.dumps(owner))
        started = {"run_id": job.run_id, "attempt": 1, "started_at": WHEN, "worker": owner}
        started["provenance"] = {"device": "x"}
        write_record("attempt", started, attempt / "attempt.json")
        end = {
            "status": "finished",
            "ended_at": WHEN,
            "wall_seconds": 20.0,
            "error": None,
            "diverged_at": None,
        }
        write_record("end", {**end, "seconds_by_phase": {}}, attempt / "end.json")
        memory = {"update": {"resident_gib": 0.5}}
        for s in range(1, max(job.steps) + 1):
            append_record({**example["STEP"], "step": s, "memory": memory}, attempt / "steps.jsonl")
        for step in job.steps:
            for name, identity in job.evaluation_ids.items():
                record = {
                    **example["EVALUATION"],
                    "step": step,
                    "attempt": 1,
                }
                record |= {"benchmark": name, "evaluation_id": identity}
                file = folder / "evaluations" / f"step-{step:06d}.{name}.{identity}.json"
                write_record("evaluation", record, file)
                file.with_suffix(".parquet").touch()
            checkpoint = folder / "checkpoints" / f"step-{step:06d}"
            checkpoint.mkdir(parents=True)
        (checkpoint / OPTIMIZER_FILE).touch()


BETWEEN = """
import json, os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
seconds = time.perf_counter() - began
print(json.dumps({
    "seconds": seconds,
    "processor_seconds": usage.ru_utime + usage.ru_stime,
    "peak_mib": usage.ru_maxrss / 1024,
}))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def measured(code, *arguments):
    """Seconds, processor seconds and peak MiB of a fresh process."""
    # A process starts with the peak of the one that starts it: one of its own, with nothing loaded, stands between.
    command = [sys.executable, "-S", "-c", BETWEEN, sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def benchmark(sizes, repeats):
    """Figures by number of cells and by what is done, the medians of some repetitions."""
    figures = {}
    for cells in sizes:
        with tempfile.TemporaryDirectory(prefix="scale-") as name:
            folder = Path(name)
            grid, forking, out = folder / "grid.yaml", folder / "forking.yaml", folder / "out"
            write_grid(grid, cells)
            write_grid(forking, cells, "wsd")
            arguments = {
                "plan": (PLAN, "--grid", grid, "--out", out),
                "plan, forks": (PLAN, "--grid", forking, "--out", out),
                "resume": (RESUME, "--grid", grid, "--out", out),
            }
            figures[cells] = {}
            for what, call in arguments.items():
                if what == "resume":
                    finish(grid, out)
                    measured(*call)  # writes the plan and the index, as the call that finished the matrix did
                found = [measured(*call) for _ in range(repeats)]
                figures[cells][what] = {key: statistics.median(f[key] for f in found) for key in found[0]}
                print(f"{cells} cells, {what}: {figures[cells][what]}", flush=True)
    return figures


def judged(figures):
    """What does not hold, in sentences."""
    wrong = []
    (small, few), (large, many) = min(figures.items()), max(figures.items())
    for what in LIMITS:
        seconds = many[what]["processor_seconds"]
        if large >= 10_000 and seconds > LIMITS[what]:
            wrong.append(f"{what} of {large} cells takes {seconds:.1f} s, more than {LIMITS[what]:g}")
        if many[what]["peak_mib"] > LIMIT_MIB:
            wrong.append(f"{what} of {large} cells takes {many[what]['peak_mib']:.0f} MiB")
        growth = seconds / few[what]["processor_seconds"] / (large / small)
        if growth > MOST_GROWTH:
            wrong.append(f"{what} grows {growth:.2f} times faster than the number of cells")
    return wrong


def write(results, figures, wrong):
    """The figures, as data and for people."""
    from harness.meters.provenance import collect
    from harness.store.atomic import write_json, write_text

    found = collect()
    code = {key: getattr(found, key) for key in ("commit", "dirty", "device", "cores")}
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / "scale.json", {"figures": figures, "wrong": wrong, "code": code})
    rows = [
        f"| {cells} | {what} | {f['seconds']:.2f} | {f['processor_seconds']:.2f} | {f['peak_mib']:.0f} |"
        for cells, by in figures.items()
        for what, f in by.items()
    ]
    lines = [
        "# Large grids",
        "",
        "`plan` is `python -m harness.plan`; `resume` is `python -m harness.ablate` on a folder whose runs are all",
        "finished, up to where the report would be built. Each is a fresh process, start included. `plan, forks`",
        "is of the same grid under WSD, where every cell is a run, and the shorter ones fork from the longer ones.",
        "",
        "| cells | command | s | processor s | peak MiB |",
        "| ---: | --- | ---: | ---: | ---: |",
        *rows,
        "",
        *(wrong or ["All within the limits: 5 s (10 s with forks), 500 MiB, linear growth."]),
        "",
        f"Code {code['commit'][:12]}{' with local changes' if code['dirty'] else ''}, {code['device']}, "
        f"{code['cores']} cores.",
    ]
    write_text(results / "scale.md", "\n".join(lines) + "\n")


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.scale", description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    arguments = parser.parse_args(argv)
    figures = benchmark(sorted(arguments.cells), arguments.repeats)
    wrong = judged(figures)
    write(arguments.results, figures, wrong)
    print("\n".join(wrong) or "all within the limits")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
