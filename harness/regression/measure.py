"""Measurement: baseline, baseline again (the control) and candidate in fresh processes that take turns.

The speed of a shared machine changes by tens of per cent within milliseconds and stays changed for seconds. Turns of
a few milliseconds in random order on one core see the same changes; what remains shows in the control as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import psutil

from harness.regression.errors import CandidateFailed, GateError
from harness.stats.paired import burst_difference
from harness.units import RU_MAXRSS_BYTES

BASELINE, CONTROL, CANDIDATE = ROLES = ("baseline", "control", "candidate")
TIME, WALL, MEMORY = "time", "waiting", "memory"
"""Kinds of figure: CPU seconds of the process, wall-clock seconds, bytes."""

WORKER = Path(__file__).with_name("worker.py")
TURN_SECONDS = 0.002
"""Length of a turn, at least one call. Short, because the machine's speed changes within milliseconds."""
TURNS = 8
"""Rounds of turns in a burst. A burst gives one pair."""
LEAST_BURSTS = 12

_OWN_SLACK_BYTES = 1 << 20
"""Added to all bytes before they are compared, so that a few pages more do not count."""


@dataclass
class Pairs:
    """Pairs of one case, as logarithms of ratios.

    Attributes:
        differences: candidate over baseline.
        control: baseline over baseline.
    """

    differences: list[float] = field(default_factory=list)
    control: list[float] = field(default_factory=list)

    def extend(self, other: Pairs) -> None:
        """Appends the pairs of another block."""
        self.differences += other.differences
        self.control += other.control


@dataclass
class Block:
    """The pairs measured with one set of fresh processes.

    Attributes:
        pairs: by case: (kind, name).
        device: the device they were measured on.
    """

    pairs: dict[tuple[str, str], Pairs] = field(default_factory=dict)
    device: str = ""

    def add(self, case: tuple[str, str], rounds: Mapping[str, Sequence[float]]) -> None:
        """Adds the pair of one burst.

        Args:
            case: its kind and name.
            rounds: figures by role and round.
        """
        pairs = self.pairs.setdefault(case, Pairs())
        pairs.differences.append(burst_difference(rounds[BASELINE], rounds[CANDIDATE]))
        pairs.control.append(burst_difference(rounds[BASELINE], rounds[CONTROL]))


class Source(Protocol):
    """Measures blocks of pairs."""

    def block(self, names: Sequence[str], draw: random.Random, share: float) -> Block:
        """Measures the cases `names` in fresh processes.

        Args:
            names: the cases.
            draw: for the random order of turns.
            share: factor on the usual measuring time.
        """


@dataclass(frozen=True, kw_only=True)
class Job:
    """The workloads of a worker process.

    Attributes:
        cases: workloads to time.
        memory: workloads whose memory alone is measured.
        device: `cpu` or `cuda`.
        threads: CPU threads; 0 for torch's default.
        dtype: dtype of the head.
        recipe: recipe of the training workload.
    """

    cases: tuple[str, ...]
    memory: tuple[str, ...]
    device: str
    threads: int
    dtype: str
    recipe: Mapping[str, Any]


class _Process:
    """A worker process for one role."""

    def __init__(self, role: str, tree: Path, job: dict[str, Any]) -> None:
        self.role = role
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()
        env = {
            **os.environ,
            "PYTHONPATH": str(tree),
            "PYTHONHASHSEED": "0",
            "TOKENIZERS_PARALLELISM": "false",
        }
        command = [sys.executable, "-P", str(WORKER), json.dumps(job)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=tree,
            env=env,
            start_new_session=True,
        )

    def pin(self, core: int) -> None:
        """Pins all threads of the process to one core."""
        with contextlib.suppress(psutil.Error, OSError):
            for thread in psutil.Process(self._process.pid).threads():
                os.sched_setaffinity(thread.id, {core})

    def read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        words = [x for x in self._errors.read().decode(errors="replace").strip().splitlines() if x.strip()]
        last = words[-1][:400] if words else f"exit code {self._process.returncode}"
        if self.role == CANDIDATE:
            raise CandidateFailed(f"the candidate fails: {last}", "nothing of it was compared")
        hint = "a baseline must run: choose another; one without harness.regression has --checks kernels,memory alone"
        raise GateError(f"the baseline fails: {last}", hint)

    def turn(self, case: str, calls: int) -> tuple[list[float], list[float]]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{case} {calls}\n")
            self._process.stdin.flush()
        own, wall = self.read()
        return own, wall

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert stream is not None
                stream.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            self._process.wait()
        self._errors.close()


class Trees:
    """Measures two source trees under the same interpreter.

    Args:
        baseline: its tree.
        candidate: its tree.
        job: the workloads.
        seconds: measuring time per timed case and block.
    """

    def __init__(self, baseline: Path, candidate: Path, job: Job, seconds: float) -> None:
        self._trees = {BASELINE: baseline, CONTROL: baseline, CANDIDATE: candidate}
        self._job, self._seconds = job, seconds

    def block(self, names: Sequence[str], draw: random.Random, share: float) -> Block:
        """Starts three processes, checks that they measure the same problem, and times them in turns.

        Raises:
            CandidateFailed: the candidate's process fails.
            GateError: the baseline's does, or the two measure different problems.
        """
        seconds = share * self._seconds
        cases = [name for name in self._job.cases if name in names]
        with self._processes(cases, [n for n in self._job.memory if n in names], draw) as (processes, ready):
            block = Block(device=ready[BASELINE]["device"])
            for name, figures in ready[BASELINE]["cases"].items():
                problems = {role: ready[role]["cases"][name]["problem"] for role in ROLES}
                if len(set(problems.values())) > 1:
                    raise GateError(
                        f"{name}: the two sides do not measure the same problem",
                        "the benchmark's inputs were changed: compare from the commit that changed them",
                    )
                if "extra" in figures["memory"]:
                    extra = {role: ready[role]["cases"][name]["memory"]["extra"] for role in ROLES}
                    block.add((MEMORY, name), {role: [extra[role] + _OWN_SLACK_BYTES] for role in ROLES})
            self._take_turns(cases, processes, ready, block, draw, seconds)
        return block

    def _take_turns(
        self,
        cases: Sequence[str],
        processes: Mapping[str, _Process],
        ready: Mapping[str, Any],
        block: Block,
        draw: random.Random,
        seconds: float,
    ) -> None:
        calls = {n: max(1, round(TURN_SECONDS / ready[BASELINE]["seconds"][n])) for n in cases}
        spent = dict.fromkeys(cases, 0.0)
        bursts = 0
        while cases and (bursts < LEAST_BURSTS or min(spent.values()) < seconds):
            bursts += 1
            for name in cases:
                begin = time.perf_counter()
                turns: dict[str, list[tuple[float, float]]] = {role: [] for role in ROLES}
                for _ in range(TURNS):
                    for role in draw.sample(ROLES, len(ROLES)):
                        own, wall = processes[role].turn(name, calls[name])
                        turns[role].append((statistics.median(own), statistics.median(wall)))
                block.add((TIME, name), {role: [own for own, _ in taken] for role, taken in turns.items()})
                if self._job.device == "cpu":
                    block.add(
                        (WALL, name), {role: [wall for _, wall in taken] for role, taken in turns.items()}
                    )
                spent[name] += time.perf_counter() - begin

    @contextlib.contextmanager
    def _processes(
        self, cases: Sequence[str], memory: Sequence[str], draw: random.Random
    ) -> Iterator[tuple[dict[str, _Process], dict[str, Any]]]:
        job = {
            "cases": list(dict.fromkeys([*cases, *memory])),
            "device": self._job.device,
            "threads": self._job.threads,
            "dtype": self._job.dtype,
            "recipe": dict(self._job.recipe),
        }
        processes: dict[str, _Process] = {}
        try:
            for role in draw.sample(ROLES, len(ROLES)):
                processes[role] = _Process(role, self._trees[role], job)
            # The baseline is read first: if neither starts, the baseline is reported.
            ready = {role: processes[role].read()["ready"] for role in ROLES}
            core = calmest_core() if self._job.device == "cpu" and self._job.threads == 1 else None
            if core is not None:
                for process in processes.values():
                    process.pin(core)
            yield processes, ready
        finally:
            for process in processes.values():
                process.close()


class Commands:
    """Measures two command lines, with a fresh process for each turn. Both must exit with 0.

    Args:
        baseline: its command line.
        candidate: its command line.
        seconds: measuring time per block.
        name: name of the case.
    """

    def __init__(self, baseline: str, candidate: str, seconds: float, name: str = "command") -> None:
        self._commands = {BASELINE: baseline, CONTROL: baseline, CANDIDATE: candidate}
        self._seconds, self._name = seconds, name

    def block(self, names: Sequence[str], draw: random.Random, share: float) -> Block:
        """Runs the commands in random order until the time is up.

        Raises:
            CandidateFailed: the candidate's command fails.
            GateError: the baseline's does.
        """
        block, end, rounds = Block(device="cpu"), time.monotonic() + share * self._seconds, 0
        while rounds < LEAST_BURSTS or time.monotonic() < end:
            rounds += 1
            taken = {role: self._run(role) for role in draw.sample(ROLES, len(ROLES))}
            for number, kind in enumerate((TIME, WALL, MEMORY)):
                block.add((kind, self._name), {role: [figures[number]] for role, figures in taken.items()})
        return block

    def _run(self, role: str) -> tuple[float, float, float]:
        begin = time.perf_counter()
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    shlex.split(self._commands[role]), stdout=subprocess.DEVNULL, stderr=errors
                )
            except OSError as error:
                raise self._failed(role, str(error)) from None
            try:
                _, status, used = os.wait4(process.pid, 0)
            except BaseException:  # interrupted, as by SIGTERM, which the command does not get
                process.kill()
                process.wait()
                raise
            process.returncode = os.waitstatus_to_exitcode(status)
            wall = time.perf_counter() - begin
            if process.returncode:
                errors.seek(0)
                words = errors.read().decode(errors="replace").strip().splitlines()
                raise self._failed(
                    role, f"exit code {process.returncode}" + (f": {words[-1][:300]}" if words else "")
                )
        own = max(used.ru_utime + used.ru_stime, 1e-6)
        return own, wall, float(used.ru_maxrss * RU_MAXRSS_BYTES) + _OWN_SLACK_BYTES

    def _failed(self, role: str, words: str) -> GateError:
        if role == CANDIDATE:
            return CandidateFailed(f"the candidate's command fails: {words}")
        return GateError(f"the baseline's command fails: {words}")


def calmest_core() -> int | None:
    """The least busy core that this process may use; all three processes share it, and so the load on it."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    busy = psutil.cpu_percent(interval=0.2, percpu=True)
    return min(allowed, key=lambda core: busy[core] if core < len(busy) else 0.0)
