"""Two processes over gloo against one: the same losses, the same weights; one that dies, and the run going on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import socket
import time
from datetime import datetime

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from harness.matrix.execution.run_matrix import prepare
from harness.rollout.vllm_core import vllm_available
from harness.spec.errors import SpecError
from harness.spec.recipe import Recipe
from harness.store.folders import RunFolder
from harness.training import run, torchrun
from harness.training.data_parallel import DataParallel
from harness.training.errors import Diverged, Interrupted, RanksFailed
from harness.training.torchrun import launch

GRID = """
name: ranks
question: Do several processes train what one trains?
base:
  model: tiny
  data: {size: 50, sources: [{source: sums, terms: [2, 3]}]}
  rollout: {prompts_per_step: 4, completions_per_prompt: 4, max_completion_tokens: 16}
  reward: {functions: [{name: accuracy}, {name: format, weight: 0.5}]}
  objective: {loss: grpo, beta: 0.04}
  optimizer: {learning_rate: 1e-4}
  training: {checkpoint_every: 1, minibatches: 2, microbatch_tokens: 256}
axes:
  steps: {training.steps: [2, 4]}
evaluate:
  base: false
  samples: 1
  max_completion_tokens: 12
  benchmarks: [{name: sums-2, questions: 5, source: {source: sums, terms: [2], digits: [1]}}]
hardware: {device: cpu, devices_per_run: 2, training_devices: 2}
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    (folder / "grid.yaml").write_text(GRID)
    (job,) = prepare(str(folder / "grid.yaml"), folder / "out").plan.jobs
    return job


@pytest.fixture(scope="module")
def alone(job, tmp_path_factory):
    """The run in one process."""
    torch.set_num_threads(1)
    folder = prepared(job, tmp_path_factory.mktemp("alone"))
    run.execute(job, folder, folder.reserve_attempt(), lambda: False)
    return folder


def prepared(job, path):
    folder = RunFolder(path / job.run_id)
    folder.path.mkdir(parents=True)
    folder.write_job(job)
    return folder


def weights(folder, step):
    return load_file(folder.checkpoints / f"step-{step:06d}" / "model.safetensors")


def furthest(one, other, step):
    a, b = weights(one, step), weights(other, step)
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def records(folder):
    return {r.step: r for attempt in folder.attempts() for r in attempt.steps()}


def hold_to(truth, folder, steps):
    ours, theirs = records(folder), records(truth)
    for step in steps:
        a, b = ours[step], theirs[step]
        assert a.reward == b.reward, "other samples: the losses say nothing"
        for name in ("loss", "kl", "entropy", "clip_fraction", "rollout_kl"):
            assert a.objective[name] == pytest.approx(b.objective[name], abs=1e-5, rel=0), (step, name)
        assert a.tokens == b.tokens
    assert len({theirs[step].objective["loss"] for step in steps}) == len(steps)


def rank_process(rank):
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.environ().get("RANK") == str(rank):
                return process
    return None


def test_two_processes_train_what_one_trains_and_survive_a_dead_rank(job, alone, tmp_path):
    folder = prepared(job, tmp_path)
    killed = []

    def kill_at_step_2():
        if not killed and (folder.checkpoints / "step-000002").exists():
            os.kill(rank_process(1).pid, signal.SIGKILL)
            killed.append(time.monotonic())
        return False

    with pytest.raises(RanksFailed, match="rank 1 was ended by SIGKILL"):
        launch(job, folder, folder.reserve_attempt(), kill_at_step_2, processes=2)
    assert time.monotonic() - killed[0] < 60
    assert rank_process(0) is None
    hold_to(alone, folder, (1, 2))
    assert furthest(folder, alone, 2) < 1e-4
    made = records(folder)[2]
    assert made.timing.total_seconds == pytest.approx(sum(made.timing.seconds.values()))
    assert made.timing.seconds["idle"] >= 0
    # Another number of processes goes on from the same checkpoint.
    run.execute(job, folder, folder.reserve_attempt(), lambda: False)
    hold_to(alone, folder, (1, 2, 3, 4))
    assert furthest(folder, alone, 4) < 1e-4
    (event,) = [e for e in folder.attempts()[-1].events() if e.kind == "resumed"]
    assert event.step >= 2
    one, other = ({(e.step, e.accuracy) for e in f.evaluations()} for f in (alone, folder))
    assert one == other


def vllm_processes():
    """By rank, the vLLM process that it started: not what an engine starts, for a moment under its name."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            above = process.parent()
            if "harness.rollout.vllm_process" in process.cmdline() and above and "RANK" in above.environ():
                found[above.environ()["RANK"]] = process
    return found


@pytest.mark.slow
@pytest.mark.skipif(not vllm_available(), reason="vLLM is not installed")
def test_every_process_samples_with_an_engine_of_its_own_and_survives_its_death(job, tmp_path):
    sections = job.recipe.model_dump()
    sections["rollout"] |= {"engine": "vllm", "vllm": {"cache_gib": 0.2}}
    sections["training"] |= {"steps": 3}
    job = dataclasses.replace(job, recipe=Recipe.model_validate(sections), steps=(3,))
    alone, folder, seen = prepared(job, tmp_path / "alone"), prepared(job, tmp_path / "two"), set()
    run.execute(job, alone, alone.reserve_attempt(), lambda: False)

    def kill_the_second_after_step_1():
        engines = vllm_processes()
        if "killed" not in seen and set(engines) == {"0", "1"} and records(folder):
            engines["1"].kill()
            seen.add("killed")
        return False

    launch(job, folder, folder.reserve_attempt(), kill_the_second_after_step_1, processes=2)
    hold_to(alone, folder, (1, 2, 3))
    assert furthest(folder, alone, 3) < 1e-4
    (restart,) = [e for e in folder.attempts()[-1].events() if e.kind == "engine_restarted"]
    assert restart.figures["rank"] == 1
    made = records(folder)
    for step in (2, 3):  # the restart, of ten seconds and more, is in a step
        passed = datetime.fromisoformat(made[step].time) - datetime.fromisoformat(made[step - 1].time)
        assert passed.total_seconds() - made[step].timing.total_seconds < 5


def in_two_processes(work):
    """What `work(parallel)` returns in each of two forks of this process that form a group."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as server:
        server.bind(("localhost", 0))
        port = server.getsockname()[1]

    def fork(rank, results):
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        parallel = DataParallel("cpu")
        try:
            results.put((rank, work(parallel)))
        finally:
            parallel.close()

    results = context.Queue()
    processes = [context.Process(target=fork, args=(rank, results)) for rank in range(2)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=100) for _ in processes)
    for process in processes:
        process.join(100)
        assert process.exitcode == 0
    return [found[rank] for rank in range(2)]


class FakeEngine:
    """Completions say which rank sampled them; fails, or is slow to take weights, where it is told to."""

    def __init__(self, rank, *, fails=False, slow=0.0):
        self.rank, self.fails, self.slow = rank, fails, slow

    def generate(self, requests, sampling):
        if self.fails:
            raise RuntimeError("no room")
        return [(self.rank, request) for request in requests]

    def update_weights(self):
        time.sleep(self.slow)


@pytest.mark.parametrize(
    ("bad", "told"), [(0, "no room"), (1, "sampling failed on rank 1: RuntimeError: no room")]
)
def test_an_engine_that_fails_on_one_rank_fails_the_call_on_all_of_them(bad, told):
    def work(parallel):
        engine = parallel.shared_engine(FakeEngine(parallel.rank, fails=parallel.rank == bad))
        try:
            return parallel.on_rank0(lambda: engine.generate([1, 2, 3], None))
        except RuntimeError as error:
            return str(error)

    assert in_two_processes(work) == [told] * 2


@pytest.mark.parametrize(
    ("ranks", "sampled"),
    [((0, 1), [(0, 1), (0, 2), (1, 3), (1, 4), (1, 5)]), ((0,), [(0, n) for n in (1, 2, 3, 4, 5)])],
)
def test_the_ranks_that_have_an_engine_sample_contiguous_parts(ranks, sampled):
    def work(parallel):
        own = FakeEngine(parallel.rank) if parallel.rank in ranks else None
        engine = parallel.shared_engine(own)
        return parallel.on_rank0(lambda: engine.generate([1, 2, 3, 4, 5], None))

    assert in_two_processes(work) == [sampled] * 2


def test_waiting_for_the_engine_of_another_rank_is_counted():
    def work(parallel):
        engine = parallel.shared_engine(FakeEngine(parallel.rank, slow=0.5 * parallel.rank))
        parallel.wait_for_all(None)
        before = parallel.waited_seconds
        engine.update_weights()
        parallel.wait_for_all(None)
        return parallel.waited_seconds - before

    first, second = in_two_processes(work)
    assert first > second
    assert first > 0.3


@pytest.mark.slow
def test_a_run_stopped_in_one_process_goes_on_in_three_and_ends_the_same(job, alone, tmp_path):
    folder = prepared(job, tmp_path)
    with pytest.raises(Interrupted):
        run.execute(job, folder, folder.reserve_attempt(), lambda: len(records(folder)) >= 1)
    assert max(records(folder)) == 1
    with pytest.raises(Interrupted):
        launch(job, folder, folder.reserve_attempt(), lambda: len(records(folder)) >= 3, processes=3)
    launch(job, folder, folder.reserve_attempt(), lambda: False, processes=3)
    hold_to(alone, folder, (1, 2, 3, 4))
    assert furthest(folder, alone, 4) < 1e-4


def failed_ranks(folder, *, exceptions=None, exit_codes=None):
    """torchrun's error over ranks that left the given exceptions, in this order, or ended with the given codes."""
    failures = {}
    for number, (rank, message) in enumerate((exceptions or {}).items()):
        file = folder / f"error-{rank}.json"
        file.write_text(json.dumps({"message": {"message": message, "extraInfo": {"timestamp": "1000"}}}))
        os.utime(file, (1000 + 0.01 * number,) * 2)
        failures[rank] = ProcessFailure(local_rank=rank, pid=5, exitcode=1, error_file=str(file))
    for rank, code in (exit_codes or {}).items():
        failures[rank] = ProcessFailure(local_rank=rank, pid=5, exitcode=code, error_file="")
        failures[rank].timestamp = 1001  # when torchrun noticed
    return ChildFailedError("train", {rank: failures[rank] for rank in sorted(failures)})


CLOSED = "RuntimeError: Connection closed by peer"


@pytest.mark.parametrize(
    ("failures", "told"),
    [
        (
            {"exceptions": {2: "ValueError: no reward", 0: CLOSED}},
            "rank 2: ValueError: no reward; see ranks.log",
        ),
        (
            {"exceptions": {0: "ValueError: no reward", 1: CLOSED}},
            "rank 0: ValueError: no reward; see ranks.log",
        ),
        (
            {"exceptions": {0: CLOSED}, "exit_codes": {1: -signal.SIGKILL, 2: -signal.SIGTERM}},
            "rank 1 was ended by SIGKILL, and the others with it; see ranks.log",
        ),
        (
            {"exceptions": {1: "ValueError: no reward"}, "exit_codes": {0: -signal.SIGTERM}},
            "rank 1: ValueError: no reward; see ranks.log",
        ),
        ({"exit_codes": {0: -signal.SIGTERM, 1: 7}}, "rank 1 ended with exit code 7; see ranks.log"),
    ],
)
def test_the_first_failure_is_told_not_what_followed_from_it(tmp_path, failures, told):
    assert torchrun.describe_failure(failed_ranks(tmp_path, **failures)) == told


@pytest.mark.parametrize(
    "raised", [Interrupted(), Diverged("kl: 3"), SpecError("no such layer"), ValueError("x")]
)
def test_an_exception_of_the_ranks_is_raised_again_by_its_class(tmp_path, raised):
    attempt = RunFolder(tmp_path).reserve_attempt()
    (attempt.path / "ranks.log").write_text("a traceback")
    torchrun.write_outcome(attempt, *torchrun.outcome_of(raised))
    kept = isinstance(raised, Interrupted | Diverged | SpecError)
    with pytest.raises(type(raised) if kept else RanksFailed) as found:
        torchrun.raise_outcome(attempt, 1)
    assert str(raised) in str(found.value)


def test_namesakes_of_our_exceptions_are_failures():
    for name in ("Interrupted", "Diverged", "SpecError"):
        assert torchrun.outcome_of(type(name, (Exception,), {})("mine")) == ("failed", f"{name}: mine")
