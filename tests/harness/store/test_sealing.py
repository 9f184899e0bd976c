"""Checksums of records: a changed bit is found, and lines are found that are missing, doubled or moved."""

import shutil

import pytest

from harness.store.errors import Damaged, StoreError
from harness.store.folders import Store
from harness.store.records import Provenance
from harness.store.run_folder import RunFolder
from harness.store.schema import load, write_record
from harness.store.sealing import seal_file, seal_line

from ..examples import step_record


def test_seals_by_hand():
    """Digests by `printf '{\\n "a": 1' | sha256sum` and `printf 'r/a{"a": 1' | sha256sum`."""
    assert seal_file('{\n "a": 1\n}') == b'{\n "a": 1,\n "seal": "a62d71e05280b3e7"\n}\n'
    assert seal_line('{"a": 1}', "r/a") == b'{"a": 1, "seal": "0603aede03195e2b"}'


def test_a_flipped_bit_of_a_record_is_found_wherever_it_is(tmp_path):
    path = tmp_path / "plan.json"
    write_record("output", {"name": "g", "text": "ü", "n": 1}, path)
    whole = path.read_bytes()
    assert load("output", path) == {"name": "g", "text": "ü", "n": 1}
    for bit in range(0, 8 * len(whole), 3):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(StoreError):
            load("output", path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged):
            load("output", path)


def attempt_of(folder, steps):
    attempt = RunFolder(folder).new_attempt(Provenance())
    for step in steps:
        attempt.append_step(step_record(step, run_id=folder.name, attempt=1))
    return attempt


HARM = {
    "a line is gone": lambda lines: [lines[0], lines[2]],
    "the first line is gone": lambda lines: lines[1:],
    "a line is doubled": lambda lines: [lines[0], lines[0], *lines[1:]],
    "lines changed places": lambda lines: [lines[0], lines[2], lines[1]],
    "a line lost its seal": lambda lines: [lines[0], lines[1].partition(b', "seal"')[0] + b"}\n", lines[2]],
}


@pytest.mark.parametrize("harm", HARM)
def test_lines_vouch_for_those_before_them(tmp_path, harm):
    attempt = attempt_of(tmp_path / "r", (1, 2, 3))
    lines = attempt.steps_file.read_bytes().splitlines(keepends=True)
    attempt.steps_file.write_bytes(b"".join(HARM[harm](lines)))
    with pytest.raises(Damaged, match=r"line [123]: "):
        attempt.steps()


def test_lines_of_another_run_are_found(tmp_path):
    one, other = attempt_of(tmp_path / "a", (1, 2)), attempt_of(tmp_path / "b", (1, 2))
    shutil.copy(other.steps_file, one.steps_file)
    with pytest.raises(Damaged, match="line 1: was changed since it was written, is of another run"):
        one.steps()


def test_lines_are_read_on_from_where_they_were_left(tmp_path):
    attempt = attempt_of(tmp_path / "r", (1, 2))
    _, offset = attempt.step_lines()
    attempt.append_step(step_record(3, run_id="r", attempt=1))
    assert [record.step for record in attempt.step_lines(offset)[0]] == [3]


def test_a_record_of_another_place_says_whose_it_is(tmp_path):
    for name in ("a", "b"):
        attempt_of(tmp_path / name, (1,)).finish("finished")
    end = tmp_path / "a" / "attempt-001" / "end.json"
    shutil.copy(tmp_path / "b" / "attempt-001" / "end.json", end)
    with pytest.raises(Damaged, match=r"belongs elsewhere: it is b/attempt-001/end\.json"):
        RunFolder(tmp_path / "a").attempts()[0].end()


def test_an_output_folder_may_be_moved(tmp_path):
    attempt_of(tmp_path / "out" / "runs" / "a", (1,)).finish("finished")
    (tmp_path / "out").rename(tmp_path / "moved")
    (run,) = Store(tmp_path / "moved").runs()
    assert run.attempts()[0].end().status == "finished"
    assert [record.step for record in run.sound_steps()] == [1]


@pytest.mark.parametrize("tail", [b'{"schema": 2}\n', b"{}\n", b"\x00\xff\n"])
def test_a_damaged_listing_tells_what_it_held_before(tmp_path, tail):
    store = Store(tmp_path)
    store.note_run("a")
    with (tmp_path / "listing.jsonl").open("ab") as file:
        file.write(tail)
    store.note_run("b")
    assert store.begun_runs() == {"a"}
