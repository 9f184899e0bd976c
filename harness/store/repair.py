"""What the world damaged in an output folder: found, set aside, and made to be done again.

Nothing is deleted: a damaged file keeps its content under the name `….damaged-N` beside its place. What goes with it
is set aside too, so that the run is as it was before it made the damaged part, and the matrix makes that part again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from harness.store.atomic import set_aside, write_atomic
from harness.store.attempts import AttemptFolder
from harness.store.checkpoints import CheckpointFolder
from harness.store.contents import CONTENTS, check_contents, write_contents
from harness.store.errors import Damaged
from harness.store.folders import RunFolder, Store
from harness.store.records import AttemptError
from harness.store.schema import write_record

Tell = Callable[[str], None]


def damages(run: RunFolder) -> list[Damaged]:
    """Every file of a run that is not what was written, or is gone; checkpoints are verified when they are used.

    Raises:
        StoreError: a newer version wrote one.
    """
    found = check_contents(run.path)
    if (run.path / "run.json").exists():
        found += _caught(run.read_job)
    for attempt in run.attempts():
        for read in (attempt.info, attempt.end, attempt.events, attempt.steps):
            found += _caught(read)
    for key in sorted(run.evaluated()):
        found += _caught(partial(run.samples_content, *key))
    if not found:
        found = _caught(run.sound_steps)
    known: dict[Path, Damaged] = {}
    for damage in found:
        known.setdefault(damage.path, damage)
    return list(known.values())


def _caught(read: Callable[[], object]) -> list[Damaged]:
    try:
        read()
    except Damaged as error:
        return [error]
    return []


def repair(store: Store, tell: Tell) -> list[str]:
    """Sets aside what is damaged in the runs of a folder that no process is at work on.

    Args:
        store: the output folder.
        tell: is told each damage and what becomes of it, in a line.

    Returns:
        The ids of the runs with damage.
    """
    hurt = []
    for run in store.runs():
        attempts = run.attempts()
        if attempts and not attempts[-1].ended and attempts[-1].alive():
            continue
        found = damages(run)
        if found:
            hurt.append(run.run_id)
            repair_run(run, found, tell)
    return hurt


def repair_run(run: RunFolder, found: list[Damaged], tell: Tell) -> None:
    """Sets aside what is damaged in a run's folder, and what goes with it.

    Args:
        run: its folder.
        found: what `damages` found in it.
        tell: see `repair`.
    """
    for damage in found:
        tell(f"damaged: {damage}; set aside, and made again")
        _set_aside_file(run, damage.path)
    _cut(run)
    write_contents(run.path)


def _set_aside_file(run: RunFolder, path: Path) -> None:
    if path == run.path:  # lacks records, which is mended below
        return
    attempt = AttemptFolder(path.parent) if path.parent.name.startswith("attempt-") else None
    if path.name == CONTENTS or attempt is None or not attempt.path.is_dir():
        _aside(path)
        if path.parent.name == "evaluations":  # a record and its samples stand and fall together
            _aside(path.with_suffix(".parquet" if path.suffix == ".json" else ".json"))
        return
    if path.suffix == ".jsonl":
        _keep_sound_lines(attempt, path)
        return
    _aside(path)
    if path.name == "end.json":
        _end_anew(attempt)


def _aside(path: Path) -> None:
    if path.exists():
        set_aside(path)


def _end_anew(attempt: AttemptFolder) -> None:
    """An end for an attempt whose own is damaged: that it held its devices until its last beat is known."""
    message = "its end.json was damaged: the time is that of its last beat"
    attempt.finish(
        "interrupted",
        wall_seconds=attempt.held_seconds(at_work=False),
        error=AttemptError(type="DamagedRecord", message=message),
    )


def _keep_sound_lines(attempt: AttemptFolder, path: Path) -> None:
    """Sets a file of lines aside and leaves those before the first damaged one in its place."""
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")[:-1]
    set_aside(path)
    sound = _sound(attempt, path, lines)
    path.unlink(missing_ok=True)
    if sound:
        write_atomic(path, lambda file: file.write(_joined(lines[:sound])))


def _joined(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def _sound(attempt: AttemptFolder, path: Path, lines: list[bytes]) -> int:
    """How many lines to keep: those up to the first that cannot be read."""
    low, high = 0, len(lines)
    read = attempt.events if path == attempt.events_file else attempt.step_lines
    while low < high:  # each line vouches for those before it
        middle = (low + high + 1) // 2
        path.write_bytes(_joined(lines[:middle]))
        if _caught(read):
            high = middle - 1
        else:
            low = middle
    if low and path == attempt.steps_file:
        path.write_bytes(_joined(lines[:low]))
        steps = [record.step for record in attempt.step_lines()[0]]
        # A step with a checkpoint has two lines, of which the second may be among those lost.
        while low and steps[low - 1] == steps[-1]:
            low -= 1
    return low


def _cut(run: RunFolder) -> None:
    """Sets aside what a run made after the last step that its records reach without a gap."""
    reached = run.reached()
    evaluated = [key for key in run.evaluated() if key[0] > reached]
    checkpoints = CheckpointFolder(run.checkpoints)
    later = [step for step in checkpoints.steps() if step > reached]
    if not evaluated and not later:
        return
    for step in later:
        set_aside(checkpoints.path(step))
    for key in evaluated:
        record = run.evaluation_file(*key)
        _aside(record)
        _aside(record.with_suffix(".parquet"))
    for attempt in run.attempts():
        # A step that could not be made was found by training that is to be done again.
        if (end := attempt.end()) is not None and end.diverged_at is not None and end.diverged_at > reached:
            write_record(
                "end", replace(end, status="interrupted", diverged_at=None), attempt.path / "end.json"
            )
