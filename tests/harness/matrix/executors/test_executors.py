"""Ray and Slurm run the worker command as the local executor does; a lost node loses an attempt and nothing else."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.matrix.executors import registry
from harness.matrix.executors.base import Slot
from harness.matrix.executors.registry import make_executor
from harness.matrix.executors.remote_worker import STOP, order_file, send_signal, supervise
from harness.spec.errors import SpecError
from harness.store.attempts import STARTED

ROOT = Path(__file__).resolve().parents[4]

SAVES_ON_SIGTERM = (
    "import os, signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(3)))\n"
    "print('threads', os.environ['OMP_NUM_THREADS'], os.environ['EXTRA'], os.getcwd(), flush=True)\n"
    "time.sleep(99)\n"
)


def log_in(folder):
    log = folder / "run" / "attempt-001" / "log.txt"
    log.parent.mkdir(parents=True)
    return log


def until(done, seconds=60):
    end = time.monotonic() + seconds
    while not (value := done()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return value


def text(log):
    return log.read_text() if log.exists() else ""


def code_of(executor, handle, seconds=60):
    return until(lambda: (code := executor.poll(handle)) is not None and (code,), seconds)[0]


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_executor_without_its_package_says_so(name, package, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        registry.importlib.util, "find_spec", lambda n, *a: None if n == package else real(n, *a)
    )
    with pytest.raises(
        SpecError, match=f"--executor {name}: the package {package} is not installed"
    ) as error:
        make_executor(name)
    assert len(str(error.value).splitlines()) == 2


def test_an_order_beside_the_log_reaches_the_worker(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = log_in(tmp_path)
    send_signal(log, STOP)  # before it starts, as for a job that waits in a queue
    code = supervise(
        [sys.executable, "-c", SAVES_ON_SIGTERM.replace("time.sleep(99)", "time.sleep(30)")],
        {"EXTRA": "x"},
        Slot(0, (), 3),
        log,
        tmp_path,
    )
    assert code in (3, -15)  # the order may be there before the worker's handler is
    assert not order_file(log).exists()
    assert log.with_name(STARTED).exists()


class TestSlurm:
    """Through submitit's local executor: the same pickled call, the same states, processes for jobs."""

    @pytest.fixture
    def executor(self, monkeypatch):
        pytest.importorskip("submitit")
        monkeypatch.setenv("HARNESS_SLURM_CLUSTER", "local")
        executor = make_executor("slurm")
        yield executor
        executor.close()

    def test_without_slurm_it_says_so(self, monkeypatch):
        pytest.importorskip("submitit")
        monkeypatch.delenv("HARNESS_SLURM_CLUSTER", raising=False)
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(SpecError, match="`srun` is not on this machine's PATH"):
            make_executor("slurm")

    def test_a_job_runs_and_stops_as_a_local_worker(self, executor, tmp_path):
        log = log_in(tmp_path)
        slots = executor.slots(2, False, 3)
        assert [slot.devices for slot in slots] == [2, 2, 2]
        handle = executor.submit([sys.executable, "-c", SAVES_ON_SIGTERM], {"EXTRA": "yes"}, slots[0], log)
        until(lambda: "threads" in text(log))
        assert text(log).split() == ["threads", "2", "yes", os.getcwd()]
        assert executor.poll(handle) is None
        executor.stop(handle)
        assert code_of(executor, handle) == 3
        assert "saved" in text(log)

    def test_a_killed_job_leaves_no_process(self, executor, tmp_path):
        log = log_in(tmp_path)
        command = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(99)"]
        handle = executor.submit(command, {}, executor.slots(1, False, None)[0], log)
        pid = int(until(lambda: text(log).strip()))
        executor.kill(handle)
        assert executor.poll(handle) < 0
        until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)

    def test_the_script_asks_for_what_the_plan_says(self, tmp_path, monkeypatch):
        submitit = pytest.importorskip("submitit")
        from harness.matrix.executors import slurm

        bin_folder = tmp_path / "bin"
        bin_folder.mkdir()
        (bin_folder / "srun").write_text("#!/bin/sh\n")
        (bin_folder / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 4242\n")
        for file in bin_folder.iterdir():
            file.chmod(0o755)
        monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
        monkeypatch.delenv("HARNESS_SLURM_CLUSTER", raising=False)
        executor = slurm.SlurmExecutor()
        executor.slots(2, True, None)
        log = tmp_path / "runs" / "0123456789ab" / "attempt-001" / "log.txt"
        log.parent.mkdir(parents=True)
        slot = Slot(0, (), 2, memory_gib=20.0, estimated_seconds=7200.0)
        handle = executor.submit([sys.executable, "-m", "harness.matrix.worker"], {"A": "1"}, slot, log)
        assert handle.name == "4242"
        (script,) = log.parent.glob("slurm/4242_submission.sh")
        lines = script.read_text().splitlines()
        for expected in (
            "#SBATCH --job-name=harness-0123456789ab",
            "#SBATCH --nodes=1",
            "#SBATCH --cpus-per-task=2",
            "#SBATCH --gpus-per-node=2",
            "#SBATCH --time=360",  # three times two hours
            "#SBATCH --signal=USR2@120",
        ):
            assert expected in lines, script.read_text()
        assert not [line for line in lines if "--mem" in line]
        (pickled,) = log.parent.glob("slurm/4242_submitted.pkl")
        delayed = submitit.core.utils.DelayedSubmission.load(pickled)
        assert delayed.args[0] == [sys.executable, "-m", "harness.matrix.worker"]
        assert delayed.args[3] == log

    def test_the_time_limit(self):
        pytest.importorskip("submitit")
        from harness.matrix.executors.slurm import minutes_of

        assert minutes_of(Slot(0, (), 1, time_limit_seconds=3600)) == 62
        assert minutes_of(Slot(0, (), 1, estimated_seconds=60)) == 30
        assert minutes_of(Slot(0, (), 1, estimated_seconds=4000)) == 200
        assert minutes_of(Slot(0, (), 1)) == 24 * 60


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU each on this machine."""
    pytest.importorskip("ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    cluster.add_node(**small)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


GRID = """
name: small
question: Does the executor matter?
base:
  model: tiny
  data: {size: 100, sources: [{source: sums, terms: [2, 3]}]}
  rollout: {prompts_per_step: 4, completions_per_prompt: 4, max_completion_tokens: 16}
  reward: {functions: [{name: accuracy}, {name: format, weight: 0.5}]}
  optimizer: {learning_rate: 1e-4}
axes:
  steps: {training.steps: [2]}
evaluate:
  samples: 1
  max_completion_tokens: 16
  benchmarks: [{name: sums-2, questions: 10, source: {source: sums, terms: [2], digits: [2]}}]
hardware: {device: cpu, devices_per_run: 1}
"""


def ablate(folder, executor, environment):
    command = [sys.executable, "-m", "harness.ablate", "--grid", str(folder / "grid.yaml")]
    with (folder / f"{executor}.txt").open("w") as output:
        return subprocess.Popen(
            [*command, "--out", str(folder / executor), "--executor", executor],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
        )


class TestRay:
    def test_a_lost_node_ends_its_worker_and_no_other(self, cluster, tmp_path):
        executor = make_executor("ray")
        slots = executor.slots(1, False, None)
        assert len(slots) == 2
        logs = [log_in(tmp_path / str(i)) for i in (0, 1)]
        command = [sys.executable, "-c", SAVES_ON_SIGTERM]
        handles = [executor.submit(command, {"EXTRA": "yes"}, s, log) for s, log in zip(slots, logs)]
        for log in logs:
            until(lambda log=log: "threads 1 yes" in text(log))
        lost = cluster.list_all_nodes()[-1]
        cluster.remove_node(lost)
        gone = until(lambda: [h for h in handles if executor.poll(h) is not None])
        assert [executor.poll(h) for h in gone] == [-9]
        (left,) = set(handles) - set(gone)
        assert executor.poll(left) is None
        executor.stop(left)
        assert code_of(executor, left) == 3
        executor.close()
        cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)

    def test_more_than_a_node_holds_is_told(self, cluster):
        executor = make_executor("ray")
        with pytest.raises(
            SpecError, match=r"2 CPUs per run, but no node of the Ray cluster has more than 1"
        ):
            executor.slots(2, False, None)
        executor.close()

    @pytest.mark.slow
    def test_a_matrix_that_loses_a_node_has_the_local_executors_results(self, cluster, tmp_path):
        """Base run and training run are at work, one on each node, when a node goes."""
        (tmp_path / "grid.yaml").write_text(GRID)
        local = ablate(tmp_path, "local", {})
        assert local.wait() == 0, (tmp_path / "local.txt").read_text()
        matrix = ablate(tmp_path, "ray", {"RAY_ADDRESS": cluster.address})
        try:
            until(lambda: len(list(tmp_path.glob("ray/runs/*/attempt-001/attempt.json"))) == 2, 300)
            cluster.remove_node(cluster.list_all_nodes()[-1])
            assert matrix.wait(500) == 0, (tmp_path / "ray.txt").read_text()
        finally:
            matrix.kill()
            matrix.wait()
        assert len(list(tmp_path.glob("ray/runs/*/attempt-002"))) == 1, (tmp_path / "ray.txt").read_text()
        tables = [(tmp_path / name / "tables" / "accuracy.csv").read_bytes() for name in ("local", "ray")]
        assert tables[0] == tables[1]
