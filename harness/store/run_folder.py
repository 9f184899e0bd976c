"""The folder of one run: its attempts, checkpoints and evaluations."""

from __future__ import annotations

import errno
import os
import re
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from harness.store.atomic import make_folder, sync_path, write_atomic, write_json
from harness.store.attempts import AttemptFolder, abandoned
from harness.store.checkpoints import CheckpointFolder
from harness.store.errors import Damaged, StoreError, unreadable, unwritable
from harness.store.job import RunJob
from harness.store.leases import LeaseWatch, Owner, machine_digest
from harness.store.records import (
    EvaluationRecord,
    JobEntry,
    Provenance,
    StepRecord,
)
from harness.store.records.form import parse, to_data
from harness.store.schema import (
    load,
    place_of,
    read_record,
    sealed_text,
    write_record,
)
from harness.store.sealing import content_digest

if TYPE_CHECKING:  # half a second that a worker's start and a plan do without
    import pandas as pd

SAMPLE_COLUMNS = (
    "question_index",
    "question_id",
    "question",
    "gold",
    "sample",
    "seed",
    "text",
    "answer",
    "correct",
    "parsable",
    "truncated",
    "tokens",
)
"""Columns of an evaluation's samples."""

_ATTEMPT = re.compile(r"attempt-\d{3,}")
_EVALUATION = re.compile(r"step-(\d+)\.(.+)\.([0-9a-f]+)\.json")


class RunFolder:
    """The folder of one run.

    Args:
        path: `<out>/runs/<run id>`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_id = path.name

    @property
    def checkpoints(self) -> Path:
        """Where training keeps its checkpoints."""
        return self.path / "checkpoints"

    def checkpoint_steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        return CheckpointFolder(self.checkpoints).steps()

    def resumable_steps(self) -> list[int]:
        """Those of `checkpoint_steps` from which training can go on, ascending."""
        return CheckpointFolder(self.checkpoints).resumable()

    @property
    def job_file(self) -> Path:
        """The run's job."""
        return self.path / "run.json"

    def write_job(self, job: RunJob) -> None:
        """Writes `run.json`, unless it says the same already."""
        path = self.job_file
        if path.exists() and path.read_bytes() == sealed_text("run", job, place_of("run", path)):
            return
        make_folder(self.path)
        write_record("run", job, path)

    def read_job(self) -> RunJob:
        """The job in `run.json`.

        Raises:
            StoreError: there is none, or it is not one that this version can read.
        """
        return read_record("run", RunJob, self.job_file)

    def attempts(self) -> list[AttemptFolder]:
        """All attempts, the earliest first."""
        folders = [AttemptFolder(self.path / name) for name in _names(self.path) if _ATTEMPT.fullmatch(name)]
        return sorted(folders, key=lambda a: a.number)

    def attempt(self, number: int) -> AttemptFolder:
        """The attempt of this number, which exists."""
        return AttemptFolder(self.path / f"attempt-{number:03d}")

    def steps(self) -> list[StepRecord]:
        """The step records that count, ascending, each with its `attempt`: the latest of every step.

        Steps that a rollback left behind and training has not reached again are no part of the run.
        """
        latest: dict[int, StepRecord] = {}
        last: StepRecord | None = None
        for attempt in self.attempts():
            for record in attempt.steps():
                latest[record.step] = last = record
        return [r for _, r in sorted(latest.items()) if last is not None and not abandoned(r, last)]

    def reached(self) -> int:
        """The last step up to which every step has its record."""
        steps = [record.step for record in self.steps()]
        return next((n - 1 for n, step in enumerate(steps, start=1) if n != step), len(steps))

    def sound_steps(self) -> list[StepRecord]:
        """`steps()`, if they are all that there must be: each up to the last, the last checkpoint and evaluation.

        Raises:
            Damaged: one is gone: a step is recorded before its checkpoint and its evaluation.
        """
        if not self.attempts():
            return []
        # In this order: the run may be at work.
        made = [*self.checkpoint_steps(), *(step for step, *_ in self.evaluated())]
        records = self.steps()
        last = max([0, *made, *(record.step for record in records[-1:])])
        there = {record.step for record in records}
        gone = next((step for step in range(1, last + 1) if step not in there), None)
        if gone is not None:
            raise Damaged(f"the record of step {gone} is gone, and the run went on to step {last}", self.path)
        return records

    def claim(self, watch: LeaseWatch) -> AttemptFolder | None:
        """Takes the lease on the run by making its next attempt; None while another attempt holds it.

        Its number is the fencing token: earlier attempts can publish nothing any more.

        Args:
            watch: decides whether another attempt still holds the run; pass the same one at every call.

        Raises:
            StoreError: the folder cannot be written.
        """
        earlier = self.attempts()
        if earlier and watch.is_held(earlier[-1]):
            return None
        return self._take(earlier[-1].number + 1 if earlier else 1)

    def reserve_attempt(self) -> AttemptFolder:
        """The next attempt, whoever holds the run; of two processes that ask at once each gets its own."""
        while True:
            earlier = self.attempts()
            attempt = self._take(earlier[-1].number + 1 if earlier else 1)
            if attempt is not None:
                return attempt

    def _take(self, number: int) -> AttemptFolder | None:
        """Makes the folder of attempt `number` and fences the earlier ones; None if another process was first."""
        attempt = self.attempt(number)
        new = self.path / f".{attempt.path.name}.{machine_digest()}.{os.getpid()}.{os.urandom(4).hex()}"
        try:
            make_folder(new / "stage")
            write_json(new / "launched", to_data(Owner.here()))
            # A folder that holds something is never replaced, so the rename can be won once alone.
            os.rename(new, attempt.path)
            sync_path(self.path)
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return None
            raise unwritable(error, attempt.path) from error
        except StoreError:
            shutil.rmtree(new, ignore_errors=True)
            raise
        for before in self.attempts():
            if before.number < number:
                before.fence()
        self._remove_stale()
        return attempt

    def _remove_stale(self) -> None:
        """Removes half-made attempts of processes that crashed on this machine in `claim`."""
        for left in self.path.glob(f".attempt-*.{machine_digest()}.*"):
            pid = left.name.split(".")[-2]
            if not psutil.pid_exists(int(pid)):
                shutil.rmtree(left, ignore_errors=True)

    def new_attempt(self, provenance: Provenance) -> AttemptFolder:
        """Reserves the next attempt and begins it in this process."""
        attempt = self.reserve_attempt()
        attempt.begin(provenance)
        return attempt

    def evaluation_file(self, step: int, benchmark: str, evaluation_id: str) -> Path:
        """Where one evaluation's record is; its samples are beside it."""
        return self.path / "evaluations" / f"step-{step:06d}.{benchmark}.{evaluation_id}.json"

    def evaluation(self, step: int, benchmark: str, evaluation_id: str) -> EvaluationRecord | None:
        """One evaluation's record; None if it was not made yet."""
        path = self.evaluation_file(step, benchmark, evaluation_id)
        return _read_evaluation(path) if path.exists() else None

    def evaluations(self) -> list[EvaluationRecord]:
        """All evaluation records, by step and benchmark; also those under settings no longer asked for."""
        return [_read_evaluation(self.evaluation_file(*key)) for key in sorted(self.evaluated())]

    def save_evaluation(self, record: EvaluationRecord, samples: pd.DataFrame) -> None:
        """Saves an evaluation: its samples first, so that a record's presence means both are whole.

        Args:
            record: the record.
            samples: one row per completion, with `SAMPLE_COLUMNS`.

        Raises:
            Fenced: a later attempt has taken the run over.
            StoreError: the disk is full.
        """
        if absent := [c for c in SAMPLE_COLUMNS if c not in samples.columns]:
            raise ValueError(f"`samples` must have the columns {', '.join(absent)}")
        path = self.evaluation_file(record.step, record.benchmark, record.evaluation_id)
        make_folder(path.parent)
        attempt = self.attempt(record.attempt) if record.attempt is not None else None
        publish = attempt.publish if attempt and attempt.path.exists() else write_atomic
        buffer = BytesIO()
        samples.to_parquet(buffer, index=False)
        content = buffer.getvalue()
        publish(path.with_suffix(".parquet"), lambda file: file.write(content))
        sealed = replace(record, samples_digest=content_digest(content))
        write_record("evaluation", sealed, path, publish)

    def samples(
        self, step: int, benchmark: str, evaluation_id: str, columns: list[str] | None
    ) -> pd.DataFrame:
        """Columns of an evaluation's samples; all where `columns` is None.

        Raises:
            StoreError: they are not there, or cannot be read.
        """
        import pandas as pd

        path = self.evaluation_file(step, benchmark, evaluation_id).with_suffix(".parquet")
        content = self.samples_content(step, benchmark, evaluation_id)
        try:
            return pd.read_parquet(BytesIO(content), columns=columns)
        except (ValueError, OSError) as error:
            raise Damaged(f"cannot be read: {str(error).splitlines()[0]}", path) from error

    def samples_content(self, step: int, benchmark: str, evaluation_id: str) -> bytes:
        """The file of an evaluation's samples, verified where its record has their digest.

        Raises:
            Damaged: it is not there, or is not what was written; or the record is damaged.
        """
        record = self.evaluation(step, benchmark, evaluation_id)
        path = self.evaluation_file(step, benchmark, evaluation_id).with_suffix(".parquet")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise unreadable(error, path) from error
        digest = record.samples_digest if record is not None else None
        if digest is not None and digest != content_digest(content):
            raise Damaged("was changed since it was written: its checksum differs", path)
        return content

    def evaluated(self) -> set[tuple[int, str, str]]:
        """The evaluations on file: step, benchmark and evaluation identity."""
        matches = map(_EVALUATION.fullmatch, _names(self.path / "evaluations"))
        return {(int(match[1]), match[2], match[3]) for match in matches if match}

    def missing(self, job: RunJob | JobEntry) -> list[tuple[int, str]]:
        """The evaluations (step, benchmark) that `job` asks for and this folder lacks, and could still have.

        Args:
            job: the run's job, or its entry in the plan.
        """
        there = self.evaluated()
        missing = [
            (step, benchmark)
            for step in job.steps
            for benchmark, identity in job.evaluation_ids.items()
            if (step, benchmark, identity) not in there
        ]
        if missing and (end := self.diverged_at()) is not None:
            return [(step, benchmark) for step, benchmark in missing if step < end]
        return missing

    def untrained(self, job: RunJob) -> list[int]:
        """The steps that `missing` evaluations need and that have no checkpoint, ascending."""
        return sorted({step for step, _ in self.missing(job)} - {0, *self.checkpoint_steps()})

    def prune_finished(self, job: RunJob, resumable: frozenset[int]) -> None:
        """Deletes the checkpoints that `training.keep` does not retain.

        Does nothing unless `job` is finished and no attempt is running.

        Args:
            job: the run's job, with all its step levels.
            resumable: steps from which other runs are still to fork.
        """
        folder, policy = CheckpointFolder(self.checkpoints), job.recipe.training.keep
        if folder.is_pruned(policy, frozenset(job.steps), resumable):  # the usual case, and a cheap check
            return
        attempts = self.attempts()
        # An attempt that died together with its runner has written no end.
        if attempts and (attempts[-1].ended or not attempts[-1].alive()) and self.finished(job):
            levels = frozenset({*job.steps, *(step for step, *_ in self.evaluated())})
            folder.prune_finished(policy, levels, resumable)

    def diverged_at(self) -> int | None:
        """The step that training could not make, as the latest attempt to diverge found, unless one since made it."""
        later: list[AttemptFolder] = []
        for attempt in reversed(self.attempts()):
            if (end := attempt.end()) is not None and end.diverged_at is not None:
                step = end.diverged_at
                return None if any(r.step >= step for a in later for r in a.steps()) else step
            later.append(attempt)
        return None

    def finished(self, job: RunJob) -> bool:
        """Whether nothing that `job` asks for is missing."""
        return not self.missing(job)


def _read_evaluation(path: Path) -> EvaluationRecord:
    data = load("evaluation", path)
    if data.get("settings") == {}:  # those of early versions
        data["settings"] = None
    return parse(EvaluationRecord, data, path)


def _names(folder: Path) -> list[str]:
    """What is in a folder; nothing where there is none."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
