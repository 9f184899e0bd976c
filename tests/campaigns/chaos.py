"""Kills the scheduler, a worker or both of a tiny matrix, and gives the same command again until the matrix is done.

    python -m tests.campaigns.chaos                          everything; given again, it continues
    python -m tests.campaigns.chaos --random 20 --boundaries 50

Each trial starts `harness.ablate` on an empty folder and kills it: at a random moment, or at one of the write
boundaries of the scheduler or of a worker (a create, write, fsync, rename, unlink or mkdir in the output folder).
Then the same command must complete the matrix; runs that were finished before are not begun again (their attempts
are counted), and tables/accuracy.csv equals the undisturbed one byte for byte.

Schedulers and workers are forks of one process that has imported everything; each worker is a process of its own in
a session of its own, runs the worker's `main`, and dies and is waited for as one that was started by name. The report
is built with its tables alone. Results: results/campaigns/chaos.json and chaos.md.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from .faults import Faults

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "campaigns"
GRID = """
name: chaos
question: Does a matrix that is killed end as the undisturbed one?
base:
  model: tiny
  data: {size: 40, sources: [{source: sums, terms: [2]}]}
  rollout: {prompts_per_step: 2, completions_per_prompt: 2, max_completion_tokens: 4}
  reward: {functions: [{name: format}]}
  training: {steps: 2, checkpoint_every: 1}
axes:
  rate: {optimizer.learning_rate: [1e-3, 1e-4]}
  steps: {training.steps: [1, 2]}
evaluate:
  samples: 1
  max_completion_tokens: 4
  benchmarks: [{name: sums-2, questions: 2, source: {source: sums, terms: [2], digits: [1]}}]
hardware: {device: cpu, devices_per_run: 1, retries: 2}
lint: {waive: {reward-prefers-wrong: what is learned does not matter here}}
"""
MOST_SECONDS = 180.0
_SET_CHILD_SUBREAPER = 36
_WORKER_PREFIX = 3
"""`python -m harness.matrix.worker` before a worker's own arguments."""


class ForkExecutor:
    """Workers as forks of the scheduler, which has everything imported."""

    def __init__(self, faults=None):
        self._codes = {}
        self._faults = faults
        self._started = 0

    def slots(self, devices_per_run, on_gpu, workers):
        """Those of this machine."""

    def submit(self, command, env, slot, log):
        from harness.matrix import worker
        from harness.matrix.executors.base import Handle
        from harness.matrix.executors.local import PARENT_VARIABLE, slot_environment

        parent, number = os.getpid(), self._started
        self._started += 1
        pid = os.fork()
        if pid:
            handle = Handle(str(pid))
            self._codes[handle] = None
            return handle
        code = 99
        try:
            os.setsid()
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.environ.update({**env, **slot_environment(slot), PARENT_VARIABLE: str(parent)})
            if self._faults is not None:
                self._faults(f"worker {number}")
            code = worker.main(list(command)[_WORKER_PREFIX:])
        finally:
            os._exit(code)

    def poll(self, handle):
        if self._codes[handle] is None:
            pid, status = os.waitpid(int(handle.name), os.WNOHANG)
            if pid:
                self._codes[handle] = os.waitstatus_to_exitcode(status)
        return self._codes[handle]

    def stop(self, handle):
        os.kill(int(handle.name), signal.SIGTERM)

    def kill(self, handle):
        if self.poll(handle) is None:
            with suppress(ProcessLookupError):
                os.killpg(int(handle.name), signal.SIGKILL)
            while self.poll(handle) is None:
                time.sleep(0.01)

    def close(self):
        for handle in self._codes:
            self.kill(handle)


class Place:
    """One process that has imported everything, a grid, and a folder for trials.

    Args:
        folder: of the trials.
    """

    def __init__(self, folder):
        import torch  # noqa: F401

        from harness.evaluation import evaluate  # noqa: F401
        from harness.matrix.execution import run_matrix  # noqa: F401
        from harness.reporting.analysis import analysis  # noqa: F401
        from harness.reporting.tables import accuracy  # noqa: F401
        from harness.training import run, sinks_and_profiler  # noqa: F401

        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1)  # orphans are waited for here
        self.folder = folder
        self.grid = folder / "grid.yaml"
        self.grid.write_text(GRID)

    def launch(self, out, faults=None):
        """Starts the command; returns its process id.

        Args:
            out: the output folder.
            faults: called in each process with its name, `scheduler` or `worker N`, before it works.
        """
        pid = os.fork()
        if pid:
            return pid
        code = 99
        try:
            os.setsid()
            output = os.open(self.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            if faults is not None:
                faults("scheduler")
            code = self._ablate(out, faults)
        finally:
            os._exit(code)

    def _ablate(self, out, faults):
        from harness import ablate
        from harness.matrix.execution import run_matrix as matrix
        from harness.matrix.execution import scheduler

        matrix.make_executor = lambda name: ForkExecutor(faults)
        matrix.report_matrix = _tables
        scheduler.BACKOFF_SECONDS = 0.05
        return ablate.main(["--grid", str(self.grid), "--out", str(out), "--workers", "1"])


def _tables(matrix):
    from harness.reporting import formats
    from harness.reporting.analysis.analysis import analyse
    from harness.reporting.tables.accuracy import accuracy_table
    from harness.store.atomic import make_folder, write_text
    from harness.store.study import load_study

    tables = matrix.store.root / "tables"
    make_folder(tables)
    write_text(
        tables / "accuracy.csv",
        formats.csv_text(accuracy_table(analyse(load_study(matrix.store.root))).frame),
    )


def wait(pid, seconds=MOST_SECONDS):
    """The exit code of a child, negative for a signal."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(pid, signal.SIGKILL)
    raise TimeoutError(f"process {pid} did not end within {seconds:g} s")


def reap():
    """Waits for orphans of a trial, which save their work and end."""
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def attempts(out):
    """How often each run was begun, by run, and whether it has all that the plan asks for."""
    from harness.store.folders import Store

    store, found = Store(out), {}
    for folder in store.runs():
        try:
            done = folder.finished(folder.read_job())
        except Exception:  # killed before the job was written
            done = False
        found[folder.run_id] = (len(folder.attempts()), done)
    return found


def descendants(pid):
    """The processes of a trial: the scheduler, its workers and what they started."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def checked(place, out, calm):
    """Completes what a trial left, and says what is wrong with it; None if nothing is."""
    before = attempts(out)
    code = wait(place.launch(out))
    reap()
    if code != 0:
        return f"the same command ended with {code}"
    after = attempts(out)
    repeated = [run for run, (count, done) in before.items() if done and after[run][0] != count]
    if repeated:
        return f"finished runs were begun again: {repeated}"
    if not all(done for _, done in after.values()):
        return "a run is not finished"
    if (out / "tables" / "accuracy.csv").read_bytes() != calm:
        return "tables/accuracy.csv differs from the undisturbed one"
    return None


def at_random(place, out, rng, seconds):
    """Starts the matrix and kills at a random moment; what was killed when."""
    target, moment = rng.choice(["scheduler", "worker", "both"]), rng.uniform(0, seconds)
    pid = place.launch(out)
    end = time.monotonic() + moment
    while time.monotonic() < end:
        time.sleep(0.005)
    family = descendants(pid)
    if target in ("worker", "both"):
        if target == "both":
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    else:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    code = wait(pid)
    if target == "both":
        reap()
    return f"{target} at {moment:.2f} s", code


def at_boundary(place, out, name, number, torn):
    """Starts the matrix with a process that dies at a boundary."""

    def faults(process):
        if process == name:
            Faults(out.absolute(), die_at=number, torn=torn).install()

    return f"{name} at boundary {number}{' half-way' if torn else ''}", wait(place.launch(out, faults))


def boundaries(place, out):
    """Every write boundary of the undisturbed matrix: process, number, operation."""
    seen = place.folder / "seen"
    seen.mkdir()

    def faults(process):
        counted = Faults(out.absolute())
        counted.install()
        # Forks end by `os._exit`, so the list is written by a wrapper of it.
        leave = os._exit

        def last(code):
            (seen / process).write_text(json.dumps(counted.seen))
            leave(code)

        os._exit = last

    began = time.monotonic()
    code = wait(place.launch(out, faults))
    seconds = time.monotonic() - began
    assert code == 0, (place.folder / "log.txt").read_text()[-3000:]
    found = []
    for file in sorted(seen.iterdir()):
        for number, (operation, _) in enumerate(json.loads(file.read_text())):
            found.append((file.name, number, False))
            if operation == "write":
                found.append((file.name, number, True))
    return found, seconds


def trials(found, random_count, boundary_count):
    """Names of the trials: all boundaries, or as many evenly spread, and random moments."""
    if boundary_count is not None and boundary_count < len(found):
        found = [found[i * len(found) // boundary_count] for i in range(boundary_count)]
    named = {
        f"{name}, boundary {n}{', half-way' if torn else ''}": (name, n, torn) for name, n, torn in found
    }
    return {**named, **{f"random {i}": i for i in range(random_count)}}


def campaign(folder, results, random_count, boundary_count, seed):
    """Runs the trials that `results` does not hold yet; returns how many failed."""
    place = Place(folder)
    calm_out = folder / "calm"
    found, seconds = boundaries(place, calm_out)
    reap()
    calm = (calm_out / "tables" / "accuracy.csv").read_bytes()
    results.mkdir(parents=True, exist_ok=True)
    file = results / "chaos.json"
    data = json.loads(file.read_text()) if file.exists() else {}
    if data.get("seed") != seed:
        data = {"seed": seed, "trials": {}}
    data["boundaries"] = len(found)
    data["undisturbed_seconds"] = seconds
    data["code"] = _code()
    wanted = trials(found, random_count, boundary_count)
    began = time.monotonic()
    for count, (name, what) in enumerate(wanted.items(), 1):
        if data["trials"].get(name, {}).get("wrong", "new") is None:
            continue
        out = folder / "trial"
        shutil.rmtree(out, ignore_errors=True)
        if isinstance(what, int):
            killed, code = at_random(place, out, random.Random(f"{seed} {what}"), seconds)
        else:
            killed, code = at_boundary(place, out, *what)
        wrong = checked(place, out, calm)
        data["trials"][name] = {"killed": killed, "code": code, "wrong": wrong}
        _write(results, data)
        print(
            f"{count}/{len(wanted)} {name}: {killed}, ended with {code}: {wrong or 'completed'}", flush=True
        )
        if wrong:
            shutil.copytree(out, folder / f"wrong-{count}", dirs_exist_ok=True)
    failed = sum(t["wrong"] is not None for t in data["trials"].values())
    print(f"{len(data['trials'])} trials, {failed} failed, {time.monotonic() - began:.0f} s")
    return failed


def _code():
    from harness.meters.provenance import collect

    found = collect()
    return {"commit": found.commit, "dirty": found.dirty, "device": found.device}


def _write(results, data):
    from harness.store.atomic import write_json, write_text

    write_json(results / "chaos.json", data)
    done = data["trials"].values()
    at_random = [t for name, t in data["trials"].items() if name.startswith("random")]
    struck = [t for t in at_random if t["code"] != 0]
    lines = [
        "# Chaos: a tiny matrix, killed and given again",
        "",
        f"{len(done)} trials: {len(at_random)} at random moments ({len(struck)} of them ended the command), "
        f"{len(done) - len(at_random)} at write boundaries, of {data['boundaries']} that there are. "
        f"{sum(t['wrong'] is None for t in done)} completed with the same command, with no finished run begun again "
        "and the same tables/accuracy.csv, byte for byte; "
        f"{sum(t['wrong'] is not None for t in done)} did not.",
        "",
        f"Undisturbed, the matrix takes {data['undisturbed_seconds']:.1f} s. Code {data['code']['commit'][:12]}"
        f"{' with local changes' if data['code']['dirty'] else ''}, {data['code']['device']}.",
        "",
        *(f"* {name}: {t['killed']}: {t['wrong']}" for name, t in data["trials"].items() if t["wrong"]),
    ]
    write_text(results / "chaos.md", "\n".join(lines).rstrip() + "\n")


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.chaos", description=__doc__)
    parser.add_argument("--random", type=int, default=200, metavar="N", help="kills at random moments")
    parser.add_argument(
        "--boundaries", type=int, metavar="N", help="so many, evenly spread (default: every one)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work here and keep it")
    arguments = parser.parse_args(argv)
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        failed = campaign(
            folder, arguments.results.absolute(), arguments.random, arguments.boundaries, arguments.seed
        )
    finally:
        os.chdir(ROOT)
        if arguments.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
