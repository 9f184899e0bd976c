"""The folders of one output: runs, their attempts, checkpoints and evaluations."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from harness.store.atomic import make_folder, read_json, sync_path, to_json, write_atomic, write_json
from harness.store.attempts import AttemptFolder, abandoned
from harness.store.checkpoints import CheckpointFolder
from harness.store.errors import StoreError, unwritable
from harness.store.job import RunJob
from harness.store.leases import LeaseWatch, Owner, machine_digest
from harness.store.records import (
    EvaluationRecord,
    JobEntry,
    LookRecord,
    LooksRecord,
    PlanRecord,
    Provenance,
    StepRecord,
)
from harness.store.records.form import to_data
from harness.store.schema import read_record, written

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

    def write_job(self, job: RunJob) -> None:
        """Writes `run.json`, unless it says the same already."""
        data = written("run", job)
        path = self.path / "run.json"
        if path.exists() and read_json(path) == data:
            return
        make_folder(self.path)
        write_json(path, data)

    def read_job(self) -> RunJob:
        """The job in `run.json`.

        Raises:
            StoreError: there is none, or it is not one that this version can read.
        """
        path = self.path / "run.json"
        return read_record("run", RunJob, read_json(path), path)

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

    def _evaluation_file(self, step: int, benchmark: str, evaluation_id: str) -> Path:
        return self.path / "evaluations" / f"step-{step:06d}.{benchmark}.{evaluation_id}.json"

    def evaluation(self, step: int, benchmark: str, evaluation_id: str) -> EvaluationRecord | None:
        """One evaluation's record; None if it was not made yet."""
        path = self._evaluation_file(step, benchmark, evaluation_id)
        return _read_evaluation(path) if path.exists() else None

    def evaluations(self) -> list[EvaluationRecord]:
        """All evaluation records, by step and benchmark; also those under settings no longer asked for."""
        return [_read_evaluation(self._evaluation_file(*key)) for key in sorted(self.evaluated())]

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
        path = self._evaluation_file(record.step, record.benchmark, record.evaluation_id)
        make_folder(path.parent)
        attempt = self.attempt(record.attempt) if record.attempt is not None else None
        publish = attempt.publish if attempt and attempt.path.exists() else write_atomic
        text = to_json(written("evaluation", record), indent=1) + "\n"
        publish(path.with_suffix(".parquet"), lambda file: samples.to_parquet(file, index=False))
        publish(path, lambda file: file.write(text.encode()))

    def samples(
        self, step: int, benchmark: str, evaluation_id: str, columns: list[str] | None
    ) -> pd.DataFrame:
        """Columns of an evaluation's samples; all where `columns` is None.

        Raises:
            StoreError: they are not there, or cannot be read.
        """
        import pandas as pd

        path = self._evaluation_file(step, benchmark, evaluation_id).with_suffix(".parquet")
        try:
            return pd.read_parquet(path, columns=columns)
        except (ValueError, OSError) as error:
            hint = f"remove it and {path.with_suffix('.json').name}: harness.ablate evaluates again"
            raise StoreError(f"cannot be read: {str(error).splitlines()[0]}\n  {hint}", path) from error

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
    data = read_json(path)
    if isinstance(data, dict) and data.get("settings") == {}:  # those of early versions
        data["settings"] = None
    return read_record("evaluation", EvaluationRecord, data, path)


def _names(folder: Path) -> list[str]:
    """What is in a folder; nothing where there is none."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


class Store:
    """One output folder.

    Args:
        root: the folder, which need not exist yet.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    @property
    def grid_file(self) -> Path:
        """The resolved grid."""
        return self.root / "grid.resolved.json"

    @property
    def plan_file(self) -> Path:
        """The plan as it was when runs were first started."""
        return self.root / "plan.json"

    @property
    def looks_file(self) -> Path:
        """The looks at the study; there is none before its first."""
        return self.root / "looks.json"

    def looks(self) -> tuple[LookRecord, ...]:
        """Looks at the study so far.

        Raises:
            StoreError: the file cannot be read by this version.
        """
        if not self.looks_file.exists():
            return ()
        return read_record("output", LooksRecord, read_json(self.looks_file), self.looks_file).looks

    def add_look(self, look: LookRecord) -> None:
        """Records a look at the study."""
        write_json(self.looks_file, written("output", LooksRecord(looks=(*self.looks(), look))))

    def plan(self) -> PlanRecord:
        """What `plan.json` holds.

        Raises:
            StoreError: there is none, or it is not one that this version can read.
        """
        return read_record("output", PlanRecord, read_json(self.plan_file), self.plan_file)

    @property
    def invocations(self) -> Path:
        """A record per call of the runner, for idle time."""
        return self.root / "invocations"

    def run(self, run_id: str) -> RunFolder:
        """The folder of a run, which need not exist yet."""
        return RunFolder(self.root / "runs" / run_id)

    def runs(self) -> list[RunFolder]:
        """All runs on file."""
        folder = self.root / "runs"
        if not folder.exists():
            return []
        return [RunFolder(Path(entry.path)) for entry in sorted(os.scandir(folder), key=lambda e: e.name)]
