"""The ablate command as a user meets it: crashes, continuation, kills, signals, budget, two at once."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.matrix.execution.run_matrix import prepare
from harness.store.atomic import write_json
from harness.store.folders import Store
from harness.store.leases import Owner
from harness.store.records import Provenance
from harness.store.records.form import to_data
from harness.store.study import load_study
from tests.harness.examples import step_record
from tests.harness.matrix import fake_worker
from tests.harness.matrix.conftest import FAKE_ABLATE, ROOT, ForkExecutor


def steps_trained(out):
    """Every step that some attempt trained, by run: a repeated one stands twice."""
    return {p.parent.name: p.read_text().split() for p in sorted(out.glob("runs/*/trained.txt"))}


def evaluations_made(out):
    return [line for p in out.glob("runs/*/evaluated.txt") for line in p.read_text().splitlines()]


def wait_for(condition, seconds=40):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def started(grid, out, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, str(FAKE_ABLATE), "--grid", str(grid), "--out", str(out), *arguments],
        cwd=ROOT,
        env={**os.environ, "FAKE_NO_REPORT": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_runs_once_and_then_only_reprints(grid, tmp_path, ablate):
    out = tmp_path / "out"
    first = ablate("--grid", grid, "--out", out)
    assert first.returncode == 0, first.stderr + first.stdout
    study = load_study(out)
    assert len(study.cells) == 4
    assert list(study.runs["status"]) == ["finished"] * 3
    assert set(study.evaluations["step"]) == {0, 2, 4}
    assert all(steps == ["1", "2", "3", "4"] for steps in steps_trained(out).values())
    assert study.runs["cost_usd"].gt(0).all()
    assert study.invocations["device_seconds"].item() >= study.invocations["busy_device_seconds"].item() > 0
    before = {p: p.stat().st_mtime_ns for p in sorted(out.rglob("*")) if p.is_file() and p.name != ".lock"}
    again = ablate("--grid", grid, "--out", out)
    assert again.returncode == 0
    assert "all 3 runs are done" in again.stdout
    assert {
        p: p.stat().st_mtime_ns for p in sorted(out.rglob("*")) if p.is_file() and p.name != ".lock"
    } == before


def test_a_crash_leaves_the_others_going_and_is_continued(grid, tmp_path, ablate):
    out = tmp_path / "out"
    crash = ablate("--grid", grid, "--out", out, FAKE_CRASH="cap=16@3")
    assert crash.returncode == 1
    assert "failed after 2 attempts: [cap=16 seed=0] RuntimeError: planted crash" in crash.stderr
    assert "Traceback" not in crash.stderr + crash.stdout
    runs = load_study(out).runs.set_index("label")
    assert runs.loc["cap=32 seed=0", "status"] == "finished"
    failed = runs.loc["cap=16 seed=0"]
    assert (failed["status"], failed["attempts"], failed["failed_attempts"]) == ("failed", 2, 2)
    assert failed["error"].startswith("RuntimeError: planted crash")
    end = Store(out).run(failed["run"]).attempts()[-1].end()
    assert "planted crash" in end.error.traceback_tail
    rest = ablate("--grid", grid, "--out", out)
    assert rest.returncode == 0
    assert list(load_study(out).runs["status"]) == ["finished"] * 3
    # The run went on from its checkpoint at step 2, and nothing was evaluated twice.
    assert steps_trained(out)[failed["run"]] == ["1", "2", "3", "4"]
    made = [line for line in evaluations_made(out)]
    assert len(made) == 5


def test_a_killed_worker_is_retried_and_its_end_is_written(grid, tmp_path, ablate):
    out = tmp_path / "out"
    done = ablate("--grid", grid, "--out", out, FAKE_CRASH="cap=16@3", FAKE_CRASH_HOW="kill")
    assert done.returncode == 1
    assert "WorkerDied: the worker was ended by SIGKILL" in done.stderr
    attempts = load_study(out).attempts
    assert list(attempts[attempts["error"].notna()]["status"]) == ["failed", "failed"]


def test_one_retry_is_enough_for_a_crash_that_passes(grid, tmp_path, ablate):
    out = tmp_path / "out"
    done = ablate("--grid", grid, "--out", out, FAKE_CRASH="cap=16@3", FAKE_CRASH_HOW="once")
    assert done.returncode == 0
    runs = load_study(out).runs.set_index("label")
    assert (runs.loc["cap=16 seed=0", "attempts"], runs.loc["cap=16 seed=0", "failed_attempts"]) == (2, 1)


def test_added_levels_reuse_finished_work(grid, tmp_path, ablate):
    out = tmp_path / "out"
    assert ablate("--grid", grid, "--out", out).returncode == 0
    grid.write_text(grid.read_text().replace("[32, 16]", "[32, 16, 8]").replace("[2, 4]", "[2, 4, 6]"))
    assert ablate("--grid", grid, "--out", out).returncode == 0
    trained = sorted(steps_trained(out).values())
    assert trained == [["1", "2", "3", "4", "5", "6"]] * 3
    assert len(evaluations_made(out)) == 1 + 3 * 3
    assert len(load_study(out).cells) == 9


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_scheduler_is_continued(grid, tmp_path, ablate, number):
    """Killed or stopped by Ctrl-C half-way: workers end, and the rerun repeats no finished run."""
    out = tmp_path / "out"
    process = started(grid, out, FAKE_STEP_SECONDS="0.4")
    wait_for(lambda: list(out.glob("runs/*/trained.txt")))
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130, text
        assert "the same command continues" in text
        study = load_study(out)
        assert "interrupted" in set(study.attempts["status"])
    _, alive = psutil.wait_procs(workers, timeout=120)  # twice what an orphan is given to save its work
    assert not alive, "a worker outlived its runner"
    rest = ablate("--grid", grid, "--out", out)
    assert rest.returncode == 0, rest.stderr
    # Training stops at a checkpoint of the step it is in, so that even then no step is trained twice.
    assert all(steps == ["1", "2", "3", "4"] for steps in steps_trained(out).values())
    assert len(evaluations_made(out)) == 5


def test_two_interrupts_stop_at_once(grid, tmp_path):
    out = tmp_path / "out"
    process = started(grid, out, FAKE_STEP_SECONDS="60")
    # The untrained model's run is soon done; with a second one at work, one is in a step of a minute.
    wait_for(lambda: len(list(out.glob("runs/*/checkpoints"))) >= 2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=20)
    assert process.returncode == 130, text
    assert "stopping now" in text


def test_an_interrupt_does_not_wait_for_a_worker_in_the_queue(grid, tmp_path, ablate, monkeypatch):
    submit, out = ForkExecutor.submit, tmp_path / "out"

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return submit(*arguments)

    monkeypatch.setattr(ForkExecutor, "queue_seconds", 20.0)
    monkeypatch.setattr(ForkExecutor, "submit", interrupted)
    begun = time.monotonic()
    assert ablate("--grid", grid, "--out", out, "--workers", 1).returncode == 130
    assert time.monotonic() - begun < 15
    attempts = load_study(out).attempts
    assert (list(attempts["status"]), list(attempts["wall_seconds"])) == (["interrupted"], [0.0])


@pytest.mark.parametrize("workers", [1, 2])
def test_two_runners_on_one_folder_share_the_work(grid, tmp_path, workers):
    """Started together, each takes runs that the other has not; nothing is done twice, and both end well."""
    out = tmp_path / "out"
    both = [started(grid, out, "--workers", str(workers), FAKE_STEP_SECONDS="0.3") for _ in range(2)]
    texts = [process.communicate(timeout=90)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    assert all(steps == ["1", "2", "3", "4"] for steps in steps_trained(out).values())
    assert len(evaluations_made(out)) == 5
    attempts = load_study(out).attempts
    assert (list(attempts["status"]), len(attempts)) == (["finished"] * 3, 3)
    done = [line for text in texts for line in text.splitlines() if line.startswith("done ")]
    assert sum("by another runner" not in line for line in done) == 3


def test_a_run_beyond_its_time_limit_is_stopped_and_goes_on_from_there(grid, tmp_path, ablate):
    out = tmp_path / "out"
    grid.write_text(
        grid.read_text().replace(
            "devices_per_run: 1", "devices_per_run: 1, retries: 0, run_timeout_hours: 1.4e-4"
        )
    )
    done = ablate("--grid", grid, "--out", out, "--workers", 1, FAKE_STEP_SECONDS="0.4")
    assert done.returncode == 1
    assert "failed after 1 attempt: [cap=32 seed=0] Timeout: ran longer than " in done.stderr
    grid.write_text(grid.read_text().replace("1.4e-4", "1"))
    assert ablate("--grid", grid, "--out", out).returncode == 0
    assert all(steps == ["1", "2", "3", "4"] for steps in steps_trained(out).values())


def test_what_a_worker_waits_for_its_devices_is_neither_paid_nor_limited(grid, tmp_path, ablate, monkeypatch):
    """As in a cluster's queue, from which the run's limit is not reckoned either."""
    out = tmp_path / "out"
    monkeypatch.setattr(ForkExecutor, "queue_seconds", 3.0)
    limit = "devices_per_run: 1, retries: 0, run_timeout_hours: 5.0e-4"
    grid.write_text(grid.read_text().replace("devices_per_run: 1", limit))
    done = ablate("--grid", grid, "--out", out)
    assert done.returncode == 0, done.stderr
    assert max(load_study(out).attempts["wall_seconds"]) < 2
    (invocation,) = Store(out).invocations.glob("*.json")
    assert json.loads(invocation.read_text())["busy_device_seconds"] < 6


def test_what_the_user_must_mend_is_not_tried_again(grid, tmp_path, ablate):
    out = tmp_path / "out"
    done = ablate("--grid", grid, "--out", out, FAKE_CRASH="cap=16@1", FAKE_CRASH_HOW="spec")
    assert done.returncode == 1
    assert "failed after 1 attempt: [cap=16 seed=0] SpecError: planted mistake" in done.stderr


def test_a_run_that_diverges_is_a_result(grid, tmp_path, ablate):
    out = tmp_path / "out"
    done = ablate("--grid", grid, "--out", out, FAKE_CRASH="cap=16@3", FAKE_CRASH_HOW="diverge")
    assert done.returncode == 0, done.stderr
    assert "diverged at step 3, a result [cap=16 seed=0]" in done.stdout
    study = load_study(out)
    runs = study.runs.set_index("label")
    assert list(runs["status"]) == ["finished", "finished", "diverged"]
    assert set(study.evaluations.query(f"run == '{runs.loc['cap=16 seed=0', 'run']}'")["step"]) == {2}
    assert "all 3 runs are done" in ablate("--grid", grid, "--out", out).stdout


def test_a_diverged_run_stays_a_result_when_a_benchmark_is_added(grid, tmp_path, ablate):
    out = tmp_path / "out"
    crash = {"FAKE_CRASH": "cap=16@3", "FAKE_CRASH_HOW": "diverge"}
    assert ablate("--grid", grid, "--out", out, **crash).returncode == 0
    added = "- {name: more, questions: 3, source: {source: sums, terms: [2]}}"
    grid.write_text(
        grid.read_text()
        .replace("    - {name: easy", f"    {added}\n    - {{name: easy")
        .replace("devices_per_run: 1", "devices_per_run: 1, retries: 0")
    )
    done = ablate("--grid", grid, "--out", out)
    assert done.returncode == 0, done.stderr
    study = load_study(out)
    assert list(study.runs.set_index("label")["status"]) == ["finished", "finished", "diverged"]
    (folder,) = (f for f in Store(out).runs() if f.diverged_at() is not None)
    assert {(step, name) for step, name, _ in folder.evaluated()} == {(2, "easy"), (2, "more")}
    assert [attempt.status for attempt in folder.attempts()] == ["diverged", "finished"]
    attempt = folder.new_attempt(Provenance())
    attempt.append_step(step_record(3))
    assert folder.diverged_at() is None, "the step was made after all"


def test_what_died_before_it_wrote_its_end_is_tidied(grid, tmp_path, ablate):
    out = tmp_path / "out"
    grid.write_text(grid.read_text().replace("  prompt:", "  training: {keep: nothing}\n  prompt:"))
    assert ablate("--grid", grid, "--out", out).returncode == 0
    (job, *_), gone = (
        prepare(str(grid), out).plan.jobs[1:],
        to_data(Owner.here()) | {"process_started": 1.0, "started_ticks": 1},
    )
    folder = Store(out).run(job.run_id)
    (attempt,) = folder.attempts()
    (attempt.path / "end.json").unlink()
    fake_worker.checkpoint(folder, 4)
    write_json(attempt.path / "launched", to_data(Owner.here()))
    assert "all 3 runs are done" in ablate("--grid", grid, "--out", out).stdout
    assert folder.checkpoint_steps() == [4], "its runner is alive"
    write_json(attempt.path / "launched", gone)
    assert "all 3 runs are done" in ablate("--grid", grid, "--out", out).stdout
    assert folder.checkpoint_steps() == []


OTHER_GRID = r"""
import sys, time
from pathlib import Path
from harness.store.runners import Runners
with Runners(Path(sys.argv[1])).one_of(sys.argv[2]):
    print("at work", flush=True)
    time.sleep(60)
"""


def test_another_grid_is_refused_while_a_runner_is_at_work_on_the_folder(grid, tmp_path, ablate):
    out = tmp_path / "out"
    assert ablate("--grid", grid, "--out", out).returncode == 0
    before = {p: p.read_bytes() for p in out.rglob("*.json")}
    command = [sys.executable, "-c", OTHER_GRID, str(out), "0" * 64]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        try:
            other.stdout.readline()
            edited = tmp_path / "edited.yaml"
            edited.write_text(grid.read_text().replace("[32, 16]", "[32, 8]"))
            refused = ablate("--grid", edited, "--out", out)
        finally:
            other.kill()
    assert refused.returncode == 2
    assert "is at work here on another grid of this name; it differs in axes.cap" in refused.stderr
    assert "wait until it ends, or choose another folder with --out" in refused.stderr
    assert {p: p.read_bytes() for p in out.rglob("*.json") if ".runners" not in p.parts} == before
    assert ablate("--grid", edited, "--out", out).returncode == 0, "what was killed keeps nobody out"
    assert list((out / ".runners").glob("*.json")) == []


def test_a_grid_that_shares_only_the_name_is_refused(grid, tmp_path, ablate):
    out = tmp_path / "out"
    assert ablate("--grid", grid, "--out", out).returncode == 0
    other = tmp_path / "other.yaml"
    text = grid.read_text()
    axes = "axes:\n  group: {rollout.completions_per_prompt: [2, 4]}\nseeds"
    other.write_text(text[: text.index("axes:")] + axes + text[text.index("seeds") + 5 :])
    refused = ablate("--grid", other, "--out", out)
    assert refused.returncode == 2
    assert "holds the results of another grid of this name, over cap, steps" in refused.stderr


def test_a_full_disk_ends_in_two_lines_and_leaves_nothing_half_written(grid, tmp_path, ablate, monkeypatch):
    out = tmp_path / "out"

    def full(source, target):
        if Path(target).name == "plan.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        done = ablate("--grid", grid, "--out", out)
    assert done.returncode == 2
    assert "plan.json: cannot be written: no space left on device\n  make room on the disk" in done.stderr
    assert not [p for p in out.rglob("*") if p.name.endswith(".tmp")]
    assert ablate("--grid", grid, "--out", out).returncode == 0


def test_the_budget_leaves_runs_out_and_says_so(grid, tmp_path, ablate):
    out = tmp_path / "out"
    # A dear device: each run costs dollars, by its start-up time alone.
    grid.write_text(grid.read_text().replace("devices_per_run: 1", "devices_per_run: 1, usd_per_hour: 3600"))
    arguments = ("--grid", grid, "--out", out, "--workers", 1)
    done = ablate(*arguments, "--budget-usd", "0.3")
    assert done.returncode == 0, done.stderr
    assert "left out for the budget: " in done.stdout
    study = load_study(out)
    assert "pending" in set(study.runs["status"])
    assert study.runs["cost_usd"].sum() <= 0.3
    none = ablate(*arguments, "--budget-hours", "0.0001")
    assert none.returncode == 0
    assert len(load_study(out).attempts) == len(study.attempts)
    assert ablate(*arguments).returncode == 0
    assert list(load_study(out).runs["status"]) == ["finished"] * 3


def test_plan_json_keeps_the_estimates_made_before_spending(grid, tmp_path, ablate):
    out = tmp_path / "out"
    assert ablate("--grid", grid, "--out", out, FAKE_CRASH="cap=16@3").returncode == 1
    before = json.loads((out / "plan.json").read_text())
    assert before["totals"]["estimate"]["usd"] > 0
    assert ablate("--grid", grid, "--out", out).returncode == 0
    assert json.loads((out / "plan.json").read_text()) == before


def test_a_disturbed_matrix_gives_the_same_accuracies(grid, tmp_path, ablate):
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    assert ablate("--grid", grid, "--out", calm).returncode == 0
    assert ablate("--grid", grid, "--out", rough, FAKE_CRASH="cap=32@4").returncode == 1
    assert ablate("--grid", grid, "--out", rough).returncode == 0
    columns = ["run", "step", "benchmark", "correct"]

    def accuracies(out: Path):
        return load_study(out).evaluations[columns].to_dict("records")

    assert accuracies(calm) == accuracies(rough)
