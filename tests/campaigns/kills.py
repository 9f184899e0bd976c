"""Kills a tiny run at every write boundary and at random moments, continues it, and compares byte for byte.

    python -m tests.campaigns.kills                     everything; given again, it continues
    python -m tests.campaigns.kills --boundaries 0 --random 50

What is compared with the undisturbed run: every file of every checkpoint, every step record but its clock, memory,
energy, cost and attempt, every evaluation's samples and figures. Trials are forks of one process that has imported
everything, each in a session of its own. Results: results/campaigns/kills.json and kills.md.
"""

from __future__ import annotations

import argparse
import hashlib
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

from .faults import Faults

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "campaigns"
GRID = """
name: kills
question: Does a killed run end as the undisturbed one?
base:
  model: tiny
  data: {size: 50, sources: [{source: sums, terms: [2, 3]}]}
  rollout: {prompts_per_step: 2, completions_per_prompt: 3, max_completion_tokens: 6}
  reward: {functions: [{name: accuracy}, {name: format, weight: 0.5}]}
  optimizer: {learning_rate: 1e-3}
  training: {checkpoint_every: 1}
axes:
  steps: {training.steps: [1, 4]}
evaluate:
  base: false
  samples: 1
  max_completion_tokens: 6
  benchmarks: [{name: sums-2, questions: 3, source: {source: sums, terms: [2], digits: [1]}}]
hardware: {device: cpu, devices_per_run: 1}
"""
CLOCKED = ("timing", "memory", "energy", "load", "cost_usd", "time", "created_at", "attempt", "provenance")
MOST_SECONDS = 120


def prepared(folder):
    """The job of the tiny run; everything that a worker imports is imported."""
    import torch

    from harness.evaluation import evaluate  # noqa: F401
    from harness.matrix.execution.run_matrix import prepare
    from harness.training import run  # noqa: F401

    torch.set_num_threads(1)
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}
    file = folder / "grid.yaml"
    file.write_text(GRID)
    (job,) = prepare(str(file), folder / "out").plan.jobs
    return job


def started(job, folder, log, faults=None, seen=None):
    """Forks a worker that executes `job` in `folder`; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = _worker(job, folder, faults)
        if seen is not None:
            Path(seen).write_text(json.dumps(faults.seen))
    finally:
        os._exit(code)


def _worker(job, folder, faults):
    from harness.matrix import worker
    from harness.store.folders import RunFolder

    if faults is not None:
        faults.install()
    run = RunFolder(folder)
    run.write_job(job)
    return worker.main([str(folder), "--attempt", str(run.reserve_attempt().number)])


def ended(pid, kill_after=None):
    """Waits for a worker, and kills it and its helpers after so many seconds; returns its exit code."""
    limit = time.monotonic() + (MOST_SECONDS if kill_after is None else kill_after)
    done = 0
    while not done and time.monotonic() < limit:
        done, status = os.waitpid(pid, os.WNOHANG)
        time.sleep(0.002)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if not done:
        _, status = os.waitpid(pid, 0)
        if kill_after is None:
            raise RuntimeError(f"a worker did not end within {MOST_SECONDS} s")
    return os.waitstatus_to_exitcode(status)


def outcome(folder):
    """Digests of all that must not depend on kills, by name."""
    found = {}
    for path in sorted((folder / "checkpoints").rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted((folder / "evaluations").glob("step-*")):
        found[f"evaluations/{path.name}"] = (
            _digest(json.loads(path.read_text()))
            if path.suffix == ".json"
            else hashlib.sha256(path.read_bytes()).hexdigest()
        )
    from harness.store.folders import RunFolder
    from harness.store.records.form import to_data

    steps = {}
    for attempt in RunFolder(folder).attempts():
        for record in attempt.steps():
            steps[record.step] = to_data(record)
    return found | {f"step {step}": _digest(record) for step, record in sorted(steps.items())}


def _digest(record):
    # The seal is a checksum of all, clocked values included.
    kept = {k: v for k, v in record.items() if k not in (*CLOCKED, "seal")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


class Campaign:
    """The undisturbed run, and trials that are compared with it."""

    def __init__(self, work):
        self.work = work
        self.job = prepared(work)
        self.log = work / "log.txt"
        whole = work / "whole" / self.job.run_id
        whole.parent.mkdir()
        seen = work / "seen.json"
        begin = time.monotonic()
        code = ended(started(self.job, whole, self.log, Faults(whole), seen))
        self.seconds = time.monotonic() - begin
        if code:
            raise RuntimeError(f"the undisturbed run ended with {code}:\n{self.log.read_text()[-3000:]}")
        self.boundaries = [tuple(pair) for pair in json.loads(seen.read_text())]
        self.truth = outcome(whole)
        self.unseen = sorted(self._files(whole) - {Path(path).name for _, path in self.boundaries})

    def _files(self, folder):
        return {p.name for p in folder.rglob("*") if p.is_file()} - {".lock"}

    def points(self):
        """Every boundary, and every write torn in half: (number, torn)."""
        return [
            (number, torn)
            for number, (operation, _) in enumerate(self.boundaries)
            for torn in ((False, True) if operation == "write" else (False,))
        ]

    def at_boundary(self, number, torn):
        """Dies there, continues; returns the trial's record."""
        operation, path = self.boundaries[number]
        name = f"boundary {number}{' torn' if torn else ''}"
        words = f"{'half of ' if torn else 'before '}{operation} {path}"
        return self._trial(name, words, lambda folder: self._die_at(folder, number, torn))

    def at_random(self, number):
        """Is killed at a moment drawn by `number`, continues; returns the trial's record."""
        moment = random.Random(number).uniform(0, self.seconds)
        return self._trial(
            f"random {number}",
            f"SIGKILL after {moment:.3f} s",
            lambda folder: ended(started(self.job, folder, self.log), kill_after=moment),
        )

    def _die_at(self, folder, number, torn):
        return ended(started(self.job, folder, self.log, Faults(folder, number, torn)))

    def _trial(self, name, words, first):
        folder = self.work / "trial" / self.job.run_id
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.parent.mkdir()
        killed = first(folder)
        found, codes = {}, []
        if killed == -signal.SIGKILL or not folder.exists():
            codes.append(ended(started(self.job, folder, self.log)))
        if folder.exists() and (codes or [killed])[-1] == 0:
            found = outcome(folder)
        differing = sorted(k for k in self.truth.keys() | found.keys() if self.truth.get(k) != found.get(k))
        return {
            "trial": name,
            "death": words,
            "killed": killed == -signal.SIGKILL,
            "continued": codes,
            "differing": differing,
            "same": not differing,
        }


def _summary(data):
    trials = list(data["trials"].values())
    at = [t for t in trials if t["trial"].startswith("boundary")]
    drawn = [t for t in trials if t["trial"].startswith("random")]
    lines = [
        "# Kills",
        "",
        "A tiny run (4 steps, a checkpoint after each, 2 evaluations) is killed with SIGKILL and continued. The "
        "continued run must have the undisturbed run's checkpoints byte for byte, and its step records and "
        "evaluations but for clocks, memory, energy, cost and the attempt's number.",
        "",
        "| | trials | died there | ended identical |",
        "|---|---|---|---|",
    ]
    for words, part in (("at a write boundary", at), ("at a random moment", drawn)):
        died, same = sum(t["killed"] for t in part), sum(t["same"] for t in part)
        lines.append(f"| {words} | {len(part)} of {data['planned'][words]} | {died} | {same} |")
    lines += [
        "",
        f"{len(data['operations'])} write boundaries, and half of every write; commits {', '.join(data['commits'])}; "
        f"torch {data['torch']}.",
        "",
    ]
    for trial in trials:
        if not trial["same"]:
            lines.append(
                f"* DIFFERENT: {trial['trial']}, {trial['death']}: {', '.join(trial['differing'][:8])}"
            )
    return "\n".join(lines) + "\n"


def main(argv=None):
    """The command; 1 if a continuation differed."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.kills", description=__doc__)
    parser.add_argument("--boundaries", type=int, help="how many boundaries, spread evenly (default: all)")
    parser.add_argument("--random", type=int, default=50, help="how many kills at random moments")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="stop after so long; continue later"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    from harness.meters.provenance import collect
    from harness.store.atomic import write_json, write_text

    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as work:
        campaign = Campaign(Path(work).resolve())
        where = collect()
        points = spread(campaign.points(), arguments.boundaries)
        # Whether boundaries, and so trials, are the same ones as in an earlier call.
        print(f"{len(campaign.boundaries)} boundaries; an undisturbed run takes {campaign.seconds:.1f} s")
        if campaign.unseen:
            print(f"written by means that are not watched: {', '.join(campaign.unseen)}")
            return 1
        data = _earlier(arguments.out / "kills.json", campaign)
        data["commits"] = sorted({*data["commits"], where.commit + (" (changed)" if where.dirty else "")})
        data["planned"] = {"at a write boundary": len(points), "at a random moment": arguments.random}
        data["torch"] = where.versions["torch"]
        trials = [
            (f"boundary {n}{' torn' if t else ''}", lambda n=n, t=t: campaign.at_boundary(n, t))
            for n, t in points
        ]
        trials += [(f"random {n}", lambda n=n: campaign.at_random(n)) for n in range(arguments.random)]
        for done, (name, trial) in enumerate(trials, 1):
            if name in data["trials"]:
                continue
            if time.monotonic() - begin > arguments.seconds:
                break
            data["trials"][name] = record = trial()
            if not record["same"] or done % 20 == 0 or done == len(trials):
                print(
                    f"{done}/{len(trials)} {name}: {record['death']}: {'same' if record['same'] else record}",
                    flush=True,
                )
            arguments.out.mkdir(parents=True, exist_ok=True)
            write_json(arguments.out / "kills.json", data)
        write_text(arguments.out / "kills.md", _summary(data))
    print(_summary(data))
    return int(not all(t["same"] for t in data["trials"].values()))


def spread(points, count):
    """`count` of the points, torn and whole ones each evenly spread; all of them if `count` is None."""
    if count is None or count >= len(points):
        return points
    torn = [point for point in points if point[1]]
    whole = [point for point in points if not point[1]]
    share = count // 2
    picked = [torn[i * len(torn) // share] for i in range(share)]
    return sorted(picked + [whole[i * len(whole) // (count - share)] for i in range(count - share)])


def _earlier(file, campaign):
    """Trials of an earlier call, as long as the run still has the same boundaries."""
    operations = [[operation, Path(path).suffix] for operation, path in campaign.boundaries]
    fresh = {"schema": 1, "commits": [], "operations": operations, "trials": {}}
    if not file.exists():
        return fresh
    data = json.loads(file.read_text())
    return data if data["operations"] == operations else fresh


if __name__ == "__main__":
    sys.exit(main())
