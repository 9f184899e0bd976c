"""Two runners on one run: one wins, a dead one is replaced, a late one publishes nothing, and clocks don't matter."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from harness.store import atomic, leases
from harness.store.atomic import append_line, read_lines, write_json
from harness.store.errors import Fenced, StoreError
from harness.store.folders import RunFolder, Store
from harness.store.leases import LeaseWatch, Owner, machine, machine_digest
from harness.store.records import Provenance
from harness.store.records.form import to_data
from harness.store.runners import Runner, Runners
from harness.store.schema import write_record
from harness.store.study import load_study

from ..examples import step_record

OLD = Path(__file__).with_name("assets") / "schema-1"
ELSEWHERE = Owner("another/boot/namespace", "another", 7, 1.0)
GONE = Owner(Owner.here().machine, "this", 2**22 + 1, 1.0)


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "0123456789ab")
    folder.path.mkdir(parents=True)
    return folder


def owned(attempt, owner):
    """The attempt as if another process had made it."""
    write_json(attempt.path / "launched", to_data(owner))
    return attempt


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def _claim(path, start, won):
    start.wait()
    attempt = RunFolder(path).claim(LeaseWatch())
    if attempt is not None:
        won.put((os.getpid(), attempt.number))
    won.put(None)
    start.wait()  # the winner stays alive until all have tried


@pytest.mark.parametrize("_", range(3))
def test_of_several_that_claim_at_once_one_wins(run, _):
    context = multiprocessing.get_context("fork")
    start, won = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_claim, args=(run.path, start, won)) for _ in range(4)]
    for process in processes:
        process.start()
    found = []
    while sum(item is None for item in found) < 4:
        found.append(won.get(timeout=30))
    for process in processes:
        process.join()
    assert [item[1] for item in found if item] == [1]
    assert sorted(p.name for p in run.path.iterdir()) == ["attempt-001"]


def test_a_dead_holder_on_this_machine_is_replaced_at_once(run):
    owned(run.reserve_attempt(), GONE)
    assert run.claim(LeaseWatch()).number == 2


def test_a_holder_on_another_machine_is_watched_by_the_own_clock(run):
    """However wrong its clock is: only whether the beat changes counts, over a time that is measured here."""
    other, clock = owned(run.reserve_attempt(), ELSEWHERE), Clock()
    os.utime(other.path / "launched", (1.0, 1.0))  # it seems to be of 1970
    watch = LeaseWatch(120.0, clock)
    for _ in range(5):
        other.beat()
        assert run.claim(watch) is None
        clock.now += 100
    clock.now += 19
    assert run.claim(watch) is None
    clock.now += 2
    assert run.claim(watch).number == 2


@pytest.mark.parametrize("step", [3600, -3600])
def test_a_step_of_the_wall_clock_steals_no_run_and_books_no_time(run, monkeypatch, step):
    attempt = run.new_attempt(Provenance())
    attempt.beat()
    real, started = time.time, psutil.Process.create_time
    # The time of boot is what the wall clock and the ticks since then make it.
    monkeypatch.setattr(time, "time", lambda: real() + step)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: started(process) + step)
    assert attempt.owners()[0].alive()
    assert attempt.owners()[0].is_this_process
    assert attempt.process_alive() is False, "no other process than this one"
    with monkeypatch.context() as another:
        another.setattr(Owner, "is_this_process", property(lambda _: False))
        assert run.claim(LeaseWatch()) is None
    assert attempt.status == "running"
    assert 0 <= attempt.wall_seconds < 60
    attempt.finish("finished")
    assert 0 <= attempt.end().wall_seconds < 60


def test_a_runner_from_before_a_reboot_keeps_no_other_grid_out(tmp_path):
    host, _, space = machine().split("/", 2)
    before = replace(Owner.here(), machine=f"{host}/another-boot/{space}")
    assert before.alive() is None
    assert before.rebooted
    assert not Owner.here().rebooted
    assert not ELSEWHERE.rebooted
    folder = tmp_path / ".runners"
    folder.mkdir()
    write_record("output", Runner(owner=before, grid_digest="0" * 64), folder / "x.json")
    with Runners(tmp_path).one_of("1" * 64) as other:
        assert other is None


def test_a_killed_attempt_held_its_devices_until_its_last_beat(run):
    attempt = owned(run.new_attempt(Provenance()), GONE)
    (attempt.path / "attempt.json").unlink()
    here = machine()
    (attempt.path / "started").write_text(f"100.0 {here}")
    (attempt.path / "beat").write_text(f"7 160.5 {here}")
    (attempt.path / "beat-of-launcher").write_text("8 99999.0 another/boot/namespace")
    assert attempt.status == "killed"
    assert attempt.wall_seconds == 60.5


def test_a_process_is_known_by_its_ticks(monkeypatch):
    here = Owner.here()
    assert here.alive()
    if sys.platform == "linux":
        assert here.started_ticks > 0
        assert not replace(here, started_ticks=here.started_ticks + 1).alive(), "the id was used again"
    assert replace(here, started_ticks=None).alive(), "an early record"


def test_a_late_writer_with_an_old_token_is_rejected(run):
    """It slept, as a suspended laptop does, between writing its file and renaming it."""
    late = owned(run.reserve_attempt(), ELSEWHERE)
    target = run.path / "evaluations" / "x.json"

    def sleep_and_lose(file):
        file.write(b"late")
        run.reserve_attempt().publish(target, lambda new: new.write(b"new"))

    with pytest.raises(Fenced, match="attempt 1 has lost the run to a later attempt"):
        late.publish(target, sleep_and_lose)
    assert target.read_bytes() == b"new"
    with pytest.raises(Fenced):
        late.append_step(step_record(1))
    assert late.steps() == []
    assert [p.name for p in target.parent.iterdir()] == ["x.json"], "nothing half-written"


def test_an_ended_attempt_holds_nothing(run):
    attempt = owned(run.reserve_attempt(), ELSEWHERE)
    attempt.finish("failed")
    assert run.claim(LeaseWatch()).number == 2


def test_claims_that_crashed_before_they_were_made_are_swept(run):
    left = run.path / f".attempt-001.{machine_digest()}.{GONE.pid}.abcd"
    making = run.path / f".attempt-001.{machine_digest()}.{os.getpid()}.abcd"
    elsewhere = run.path / f".attempt-001.0000ffff.{GONE.pid}.abcd"
    for folder in (left, making, elsewhere):
        folder.mkdir()
    run.reserve_attempt()
    assert not left.exists()
    assert making.exists()
    assert elsewhere.exists()


def test_a_store_of_the_first_schema_is_read(tmp_path):
    """As version 1 wrote it: three runs, one of which failed once."""
    out = tmp_path / "old"
    shutil.copytree(OLD, out)
    study = load_study(out)
    assert list(study.runs["status"]) == ["finished"] * 3
    assert list(study.runs["attempts"]) == [1, 1, 2]
    assert list(study.attempts["status"]).count("failed") == 1
    assert len(study.evaluations) == 5
    before = {p: p.read_bytes() for p in OLD.rglob("*") if p.is_file()}
    for folder in Store(out).runs():
        assert folder.finished(folder.read_job())
        info = folder.attempts()[0].info()
        assert (info.worker.host, info.worker.machine) == ("elsewhere", None)
    after = {OLD / p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert after == before, "reading migrates in memory alone"


def test_a_record_that_lacks_what_its_schema_has_is_named(run):
    path = run.reserve_attempt().path / "attempt.json"
    path.write_text(json.dumps({"schema": 1, "host": "x"}))
    with pytest.raises(StoreError, match="lacks 'pid', which schema 1 has") as caught:
        run.attempts()[0].info()
    assert str(path) in str(caught.value)


def test_appending_after_a_torn_line_cuts_it_off(tmp_path):
    path = tmp_path / "steps.jsonl"
    append_line(path, {"step": 1}, "a/b")
    with path.open("ab") as file:
        file.write(b'{"step": 2, "te')
    append_line(path, {"step": 2}, "a/b")
    assert read_lines(path, lambda data, *_: data["step"], place="a/b")[0] == [1, 2]
    path.write_bytes(b'{"torn')
    append_line(path, {"step": 1}, "a/b")
    assert read_lines(path, lambda data, *_: data["step"], place="a/b")[0] == [1]


def test_a_line_that_does_not_fit_on_the_disk_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "steps.jsonl"
    append_line(path, {"step": 1}, "a/b")
    before = path.read_bytes()
    real = os.write

    def nearly_full(handle, data):
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return real(handle, data[: len(data) // 2])

    monkeypatch.setattr(atomic.os, "write", nearly_full)
    with pytest.raises(StoreError, match="no space left on device\n  make room"):
        append_line(path, {"step": 2, "text": "x" * 50}, "a/b")
    monkeypatch.undo()
    assert path.read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="cannot be written: permission denied\n  change its permissions"):
        write_json(tmp_path / "a.json", {})


@pytest.mark.parametrize(
    ("number", "words"), [(13, "permission denied"), (30, "read-only file system"), (122, "quota exceeded")]
)
def test_why_a_file_cannot_be_written_is_told(tmp_path, monkeypatch, number, words):
    def refuse(*_, **__):
        raise OSError(number, "no")

    monkeypatch.setattr(atomic.tempfile, "mkstemp", refuse)
    with pytest.raises(StoreError, match=words) as caught:
        write_json(tmp_path / "a.json", {})
    assert len(str(caught.value).splitlines()) == 2
    assert os.listdir(tmp_path) == []


def test_a_mac_is_known_by_its_boot_session_and_not_by_a_time_that_its_clock_moves(monkeypatch):
    asked = []

    def run(command, **options):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="6F9619FF-8B86\n")

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(psutil, "boot_time", lambda: pytest.fail("the time of boot was asked for"))
    leases.machine.cache_clear()
    try:
        assert "6F9619FF-8B86" in leases.machine()
        assert asked == [["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]]
    finally:
        leases.machine.cache_clear()
