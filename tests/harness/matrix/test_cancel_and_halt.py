"""Runs that are cancelled from outside and taken up again; failures that are not tried again, and stop the matrix."""

from __future__ import annotations

import json
import threading
import time

import pytest

from harness import ablate as ablate_command
from harness.matrix.execution import cancelling
from harness.matrix.execution.failures import FailureLog
from harness.matrix.failure import is_deterministic, kind_of
from harness.rewards.calls import call_reward
from harness.rewards.errors import RewardFailed
from harness.rewards.types import RewardContext, RewardInput
from harness.spec.errors import SpecError
from harness.store.cancellations import Cancellations
from harness.store.folders import Store
from harness.store.records import AttemptError
from harness.store.schema import VERSIONS
from harness.store.study import load_study


def command(*arguments):
    return ablate_command.main([str(a) for a in arguments], worker=[])


def statuses(out):
    return dict(zip(*[load_study(out).runs[column] for column in ("label", "status")], strict=True))


def test_a_run_at_work_is_cancelled_left_alone_and_taken_up_again(
    grid, tmp_path, ablate, capsys, monkeypatch
):
    monkeypatch.setattr(cancelling, "LOOK_SECONDS", 0.05)
    out, store = tmp_path / "out", Store(tmp_path / "out")
    text = grid.read_text().replace("training.steps: [2, 4]", "training.steps: [2, 40]")
    grid.write_text(text)

    def cancel_when_it_trains():
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for run in store.runs():
                if (
                    (run.path / "run.json").exists()
                    and run.read_job().label == "cap=16 seed=0"
                    and run.steps()
                ):
                    Cancellations(out).request(run.run_id, "cap=16 seed=0")
                    return
            time.sleep(0.02)

    thread = threading.Thread(target=cancel_when_it_trains)
    thread.start()
    done = ablate("--grid", grid, "--out", out, "--workers", 2, FAKE_STEP_SECONDS="0.1")
    thread.join()
    assert done.returncode == 0
    assert "cancelling [cap=16 seed=0]: it saves its work" in done.stdout
    assert "cancelled [cap=16 seed=0] after step" in done.stdout
    assert statuses(out)["cap=16 seed=0"] == "cancelled"
    assert statuses(out)["cap=32 seed=0"] == "finished"
    run = next(r for r in store.runs() if r.read_job().label == "cap=16 seed=0")
    assert [a.status for a in run.attempts()] == ["interrupted"]
    trained = len(run.steps())
    assert 0 < trained < 40

    again = ablate("--grid", grid, "--out", out)
    assert again.returncode == 0
    assert f"cancelled: [cap=16 seed=0]; `--resume {run.run_id}` takes it up again" in again.stdout
    assert len(run.attempts()) == 1

    resumed = ablate("--grid", grid, "--out", out, "--resume", "cap=16 steps=40")
    assert resumed.returncode == 0
    assert f"run {run.run_id} [cap=16 seed=0] is taken up again" in resumed.stdout
    assert set(statuses(out).values()) == {"finished"}
    assert (run.path / "trained.txt").read_text().split() == [str(step) for step in range(1, 41)]


def test_a_run_that_waits_is_cancelled_by_the_command_and_by_its_id(grid, tmp_path, ablate, capsys):
    out = tmp_path / "out"
    assert ablate("--grid", grid, "--out", out, FAKE_CRASH="cap=16@1").returncode == 1
    assert command("--grid", grid, "--out", out, "--cancel", "cap=16") == 0
    said = capsys.readouterr().out
    assert "[cap=16 seed=0], with its 2 cells is cancelled" in said
    done = ablate("--grid", grid, "--out", out)
    assert done.returncode == 0
    assert "cancelled: [cap=16 seed=0]" in done.stdout
    (run_id,) = Cancellations(out).run_ids()
    assert Cancellations(out).read(run_id).label == "cap=16 seed=0"
    assert ablate("--grid", grid, "--out", out, "--resume", run_id).returncode == 0
    assert set(statuses(out).values()) == {"finished"}


@pytest.mark.parametrize(
    ("option", "cell", "words"),
    [
        ("--cancel", "cap=99", "--cancel cap=99: no such cell\n  such as"),
        (
            "--cancel",
            "seed=0",
            "--cancel seed=0: 2 runs, such as [cap=32 seed=0]; [cap=16 seed=0]\n  name more axes",
        ),
        ("--resume", "cap=16", "was not cancelled"),
    ],
)
def test_what_cannot_be_cancelled_or_resumed(grid, tmp_path, ablate, option, cell, words):
    out = tmp_path / "out"
    assert ablate("--grid", grid, "--out", out, option, cell).returncode == 2
    assert "nothing has run in" in ablate("--grid", grid, "--out", out, option, cell).stderr
    assert ablate("--grid", grid, "--out", out).returncode == 0
    refused = ablate("--grid", grid, "--out", out, option, cell)
    assert refused.returncode == 2
    assert words in refused.stderr


@pytest.fixture
def many(grid):
    """A grid of six runs that go one by one."""
    grid.write_text(grid.read_text().replace("seeds: [0]", "seeds: [0, 1, 2]"))
    return grid


@pytest.mark.parametrize(("how", "tried"), [("value", [3]), ("raise", [4, 5])])
def test_the_same_failure_in_three_runs_stops_the_matrix(many, tmp_path, ablate, how, tried):
    """A mistake is not tried again at all; what may be chance is, until a run was given up for it: while the first
    one waits for its second attempt, another may be tried in between."""
    out = tmp_path / "out"
    done = ablate("--grid", many, "--out", out, "--workers", 1, FAKE_CRASH="cap@1", FAKE_CRASH_HOW=how)
    assert done.returncode == 1
    assert "stopped: 3 runs failed alike, so the others are not started" in done.stderr
    assert done.stderr.count("planted crash") == 3
    trained = [run for run in Store(out).runs() if run.read_job().kind == "train"]
    assert sum(len(run.attempts()) for run in trained) in tried
    mended = ablate("--grid", many, "--out", out)
    assert mended.returncode == 0
    assert set(statuses(out).values()) == {"finished"}


def test_deaths_by_the_machine_do_not_stop_it(many, tmp_path, ablate):
    out = tmp_path / "out"
    done = ablate("--grid", many, "--out", out, "--workers", 1, FAKE_CRASH="cap@1", FAKE_CRASH_HOW="kill")
    assert done.returncode == 1
    assert "failed alike" not in done.stderr
    assert done.stderr.count("SIGKILL") == 6


def raised(function):
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError


def reward_failure(text, action):
    item = RewardInput(
        text=text, answer="1", tokens=1, cap=2, truncated=False, question=f"question of {text}"
    )
    with pytest.raises(RewardFailed) as caught:
        call_reward("mine:f", lambda batch, context: action(), [item], RewardContext(checks=[]), {})
    return caught.value


def boom(error):
    raise error


def test_what_is_a_mistake_and_what_is_chance():
    mistakes = [SpecError("no"), KeyError("a"), ValueError("b"), TypeError("c"), ZeroDivisionError()]
    assert all(map(is_deterministic, mistakes))
    chance = [OSError("disk"), ConnectionError(), TimeoutError(), RuntimeError("CUDA"), MemoryError()]
    assert not any(map(is_deterministic, chance))
    assert is_deterministic(reward_failure("x", lambda: [1] * 3))
    assert is_deterministic(reward_failure("x", lambda: 1 / 0))
    assert not is_deterministic(reward_failure("x", lambda: boom(ConnectionError("judge"))))


def test_failures_are_the_same_by_class_and_place_whatever_the_completion():
    def at_one_place(number):
        return raised(lambda: boom(KeyError(number)))

    assert kind_of(at_one_place(1)) == kind_of(at_one_place(2))
    assert kind_of(at_one_place(1)) != kind_of(raised(lambda: {}["a"]))
    one, other = (reward_failure(text, lambda: boom(KeyError("x"))) for text in ("a", "b"))
    assert str(one) != str(other)
    assert kind_of(one) == kind_of(other)
    assert kind_of(RuntimeError("step 3")) == kind_of(RuntimeError("step 14"))
    assert kind_of(OSError("disk")) is None


def test_a_failure_that_one_run_got_over_is_tried_again_in_others():
    log, error = FailureLog(), AttemptError(type="RuntimeError", message="m", kind="RuntimeError x.py:1")
    assert log.try_again("a", error, retries=1)  # which then finishes
    assert log.try_again("b", error, retries=1)
    assert not log.try_again("b", error, retries=5)  # twice the same
    assert not log.try_again("c", error, retries=5)  # a run was given up for it
    assert not log.halted
    assert not log.try_again("d", error, retries=5)
    assert log.halted
    assert log.try_again("e", AttemptError(type="WorkerDied", message="m"), retries=1)


def test_a_cancellation_is_a_record(tmp_path):
    requests = Cancellations(tmp_path)
    assert requests.run_ids() == frozenset()
    requests.request("0" * 12, "cap=16 seed=0")
    record = json.loads((tmp_path / "cancelled" / f"{'0' * 12}.json").read_text())
    assert record["schema"] == VERSIONS["output"]
    assert record["label"] == "cap=16 seed=0"
    assert requests.withdraw("0" * 12)
    assert not requests.withdraw("0" * 12)
