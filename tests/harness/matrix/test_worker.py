"""A worker always leaves its end: success, failure, interruption, a run that another process holds."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from harness.matrix import worker
from harness.matrix.executors.base import Slot
from harness.matrix.executors.local import LocalExecutor, slot_environment
from harness.matrix.planning.hardware import Machine
from harness.matrix.planning.planner import make_plan
from harness.meters import provenance
from harness.spec.grid import load_grid
from harness.store.folders import SAMPLE_COLUMNS, Store
from harness.training.errors import Diverged, Interrupted
from tests.harness.examples import evaluation_record, step_record
from tests.harness.matrix.fake_worker import Samples


@pytest.fixture
def run(grid, tmp_path, monkeypatch):
    """A run's folder with its job; signal handlers that a worker sets are undone."""
    monkeypatch.setattr(provenance, "collect", lambda: {"commit": "0"})
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    plan = make_plan(load_grid(grid), tmp_path / "out", Machine(cores=2))
    folder = Store(plan.out).run(plan.jobs[1].run_id)
    folder.write_job(plan.jobs[1])
    yield folder
    for number, handler in handlers.items():
        signal.signal(number, handler)


def work(run, execute):
    attempt = run.reserve_attempt()
    return worker.main([str(run.path), "--attempt", str(attempt.number)], execute), attempt


def test_success(run):
    seen = []
    code, attempt = work(run, lambda job, folder, attempt, stop: seen.append((job.label, stop())))
    assert (code, attempt.end().status, attempt.end().error) == (0, "finished", None)
    assert seen == [("cap=32 seed=0", False)]
    assert attempt.info().provenance.commit == "0"


def test_failure_says_what_and_where(run, capsys):
    def execute(job, folder, attempt, stop):
        raise MemoryError("no more")

    code, attempt = work(run, execute)
    error = attempt.end().error
    assert (code, attempt.status, error.type, error.message) == (1, "failed", "MemoryError", "no more")
    assert "in execute" in error.traceback_tail
    assert "MemoryError: no more" in capsys.readouterr().err


def test_sigterm_asks_the_run_to_stop(run):
    def execute(job, folder, attempt, stop):
        os.kill(os.getpid(), signal.SIGTERM)
        while not stop():
            time.sleep(0.01)
        raise Interrupted

    code, attempt = work(run, execute)
    assert (code, attempt.status, attempt.end().error) == (3, "interrupted", None)


def test_a_job_that_cannot_be_read_is_a_failure_with_an_end(run, capsys):
    (run.path / "run.json").write_text("{")
    code, attempt = work(run, lambda *_: None)
    assert (code, attempt.end().error.type) == (1, "Damaged")


def test_a_worker_that_lost_its_run_does_nothing(run):
    """It was queued, say, and its runner died; another one has taken the run over since."""
    late = run.reserve_attempt()
    run.reserve_attempt()
    done = []
    code = worker.main([str(run.path), "--attempt", str(late.number)], lambda *_: done.append(1))
    assert (code, done, late.status) == (3, [], "interrupted")


def test_a_worker_that_loses_its_run_stops_and_publishes_nothing(run, monkeypatch):
    monkeypatch.setattr(worker, "BEAT_SECONDS", 0.02)

    def execute(job, folder, attempt, stop):
        record = evaluation_record(step=2, evaluation_id="aaaaaaaaaaaa", attempt=attempt.number)
        folder.save_evaluation(record, Samples([dict.fromkeys(SAMPLE_COLUMNS, 0)]))
        folder.reserve_attempt()
        while not stop():
            time.sleep(0.01)
        folder.save_evaluation(
            dataclasses.replace(record, step=4), Samples([dict.fromkeys(SAMPLE_COLUMNS, 0)])
        )

    code, attempt = work(run, execute)
    assert (code, attempt.status) == (3, "interrupted")
    assert {step for step, _, _ in run.evaluated()} == {2}


def test_a_run_that_diverged_has_ended_with_a_result(run):
    def execute(job, folder, attempt, stop):
        attempt.append_step(step_record(1))
        raise Diverged("the gradient norm is nan")

    job = run.read_job()
    code, attempt = work(run, execute)
    assert (code, attempt.end().status, attempt.end().diverged_at) == (0, "diverged", 2)
    assert [step for step, _ in run.missing(job)] == []


def test_exceptions_of_a_users_reward_are_failures_whatever_their_names(run, capsys):
    for name in ("Diverged", "Interrupted", "Fenced"):
        namesake = type(name, (RuntimeError,), {})

        def execute(job, folder, attempt, stop, error=namesake):
            os.kill(os.getpid(), signal.SIGTERM)
            while not stop():
                time.sleep(0.01)
            raise error("in my reward")

        code, attempt = work(run, execute)
        end = attempt.end()
        assert (code, end.status, end.error.type) == (1, "failed", name)
        assert end.diverged_at is None


def test_the_worker_loads_no_torch_before_it_has_read_its_run():
    code = "import sys, harness.matrix.worker; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_seconds_by_phase(run):
    def execute(job, folder, attempt, stop):
        for step in (1, 2):
            attempt.append_step(step_record(step, timing={"seconds": {"rollout": 1.0, "update": 0.5}}))

    _, attempt = work(run, execute)
    assert attempt.end().seconds_by_phase == {"rollout": 2.0, "update": 1.0}


HELPER = (
    "import subprocess, sys, time\n"
    "helper = [sys.executable, '-c', 'import time; time.sleep(99)']\n"
    "print(subprocess.Popen(helper, start_new_session=True).pid, flush=True)\n"
)
"""A helper in a session of its own, which no signal to the worker's group reaches."""


def test_the_local_executor_ends_what_a_worker_started(tmp_path):
    executor = LocalExecutor()
    log = tmp_path / "log.txt"
    command = [sys.executable, "-c", HELPER + "print('started', flush=True); time.sleep(99)"]
    handle = executor.submit(command, {"EXTRA": "1"}, Slot(0, (), 2), log)
    end = time.monotonic() + 30
    while "started" not in log.read_text():
        assert time.monotonic() < end
        time.sleep(0.02)
    family = [psutil.Process(int(handle.name)), *psutil.Process(int(handle.name)).children()]
    assert len(family) == 2
    environment = family[0].environ()
    assert (environment["OMP_NUM_THREADS"], environment["EXTRA"]) == ("2", "1")
    assert os.getsid(family[0].pid) == family[0].pid
    assert executor.poll(handle) is None
    executor.close()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_helpers_of_an_ended_worker_end_too(tmp_path):
    executor = LocalExecutor()
    command = [sys.executable, "-c", HELPER + "sys.exit(7)"]
    log = tmp_path / "log.txt"
    handle = executor.submit(command, {}, Slot(0, (), 1), log)
    end = time.monotonic() + 30
    while (code := executor.poll(handle)) is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert code == 7
    helper = int(log.read_text())
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(helper)
        _, alive = psutil.wait_procs([process], timeout=10)
        assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_slots_say_which_devices():
    assert slot_environment(Slot(0, ("2", "3"), 2)) == {"CUDA_VISIBLE_DEVICES": "2,3"}
    assert slot_environment(Slot(0, (), 3))["OMP_NUM_THREADS"] == "3"
    assert slot_environment(Slot(0, (), 3))["CUDA_VISIBLE_DEVICES"] == ""


def test_the_worker_command_has_help():
    done = subprocess.run(
        [sys.executable, "-m", "harness.matrix.worker", "--help"], capture_output=True, text=True
    )
    assert done.stdout.startswith("usage: python -m harness.matrix.worker")
