"""The folders of one output: runs, their attempts, checkpoints and evaluations."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.store.atomic import read_json, sync_folder, write_atomic, write_json
from harness.store.attempts import AttemptFolder, checked
from harness.store.job import SCHEMA as JOB_SCHEMA
from harness.store.job import RunJob

if TYPE_CHECKING:  # half a second that a worker's start and a plan do without
    import pandas as pd

OUTPUT_SCHEMA = 1
"""Version of `grid.resolved.json`, `plan.json` and invocation records."""

EVALUATION_SCHEMA = 1
"""Version of evaluation records."""

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

    @property
    def lock(self) -> Path:
        """Held by the worker that executes this run."""
        return self.path / ".lock"

    def write_job(self, job: RunJob) -> None:
        """Writes `run.json`, unless it says the same already."""
        data = job.to_json()
        path = self.path / "run.json"
        if path.exists() and read_json(path) == data:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(path, data)

    def read_job(self) -> RunJob:
        """The job in `run.json`.

        Raises:
            StoreError: there is none, or it is not one that this version can read.
        """
        path = self.path / "run.json"
        return RunJob.from_json(checked(read_json(path), path, JOB_SCHEMA))

    def attempts(self) -> list[AttemptFolder]:
        """All attempts, the earliest first."""
        if not self.path.exists():
            return []
        folders = [AttemptFolder(p) for p in self.path.iterdir() if _ATTEMPT.fullmatch(p.name)]
        return sorted(folders, key=lambda a: a.number)

    def attempt(self, number: int) -> AttemptFolder:
        """The attempt of this number, which exists."""
        return AttemptFolder(self.path / f"attempt-{number:03d}")

    def reserve_attempt(self) -> AttemptFolder:
        """Makes the next attempt's folder; of two processes that ask at once each gets its own."""
        self.path.mkdir(parents=True, exist_ok=True)
        number = max((a.number for a in self.attempts()), default=0)
        while True:
            number += 1
            attempt = self.attempt(number)
            try:
                attempt.path.mkdir()
            except FileExistsError:
                continue
            (attempt.path / "launched").touch()
            sync_folder(self.path)
            return attempt

    def new_attempt(self, provenance: dict[str, Any]) -> AttemptFolder:
        """Reserves the next attempt and begins it in this process."""
        attempt = self.reserve_attempt()
        attempt.begin(provenance)
        return attempt

    def _evaluation_file(self, step: int, benchmark: str, evaluation_id: str) -> Path:
        return self.path / "evaluations" / f"step-{step:06d}.{benchmark}.{evaluation_id}.json"

    def evaluation(self, step: int, benchmark: str, evaluation_id: str) -> dict[str, Any] | None:
        """One evaluation's record; None if it was not made yet."""
        path = self._evaluation_file(step, benchmark, evaluation_id)
        return checked(read_json(path), path, EVALUATION_SCHEMA) if path.exists() else None

    def evaluations(self) -> list[dict[str, Any]]:
        """All evaluation records, by step and benchmark; also those under settings no longer asked for."""
        return [
            checked(read_json(path), path, EVALUATION_SCHEMA) for _, _, _, path in self._evaluation_files()
        ]

    def _evaluation_files(self) -> Iterator[tuple[int, str, str, Path]]:
        folder = self.path / "evaluations"
        for path in sorted(folder.iterdir()) if folder.exists() else ():
            if match := _EVALUATION.fullmatch(path.name):
                yield int(match[1]), match[2], match[3], path

    def save_evaluation(self, record: dict[str, Any], samples: pd.DataFrame) -> None:
        """Saves an evaluation: its samples first, so that a record's presence means both are whole.

        Args:
            record: the record, with `step`, `benchmark` and `evaluation_id`.
            samples: one row per completion, with `SAMPLE_COLUMNS`.
        """
        if absent := [c for c in SAMPLE_COLUMNS if c not in samples.columns]:
            raise ValueError(f"`samples` must have the columns {', '.join(absent)}")
        path = self._evaluation_file(record["step"], record["benchmark"], record["evaluation_id"])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path.with_suffix(".parquet"), lambda file: samples.to_parquet(file, index=False))
        write_json(path, {"schema": EVALUATION_SCHEMA, **record})

    def samples(self, step: int, benchmark: str, evaluation_id: str, columns: list[str]) -> pd.DataFrame:
        """Columns of an evaluation's samples."""
        import pandas as pd

        path = self._evaluation_file(step, benchmark, evaluation_id).with_suffix(".parquet")
        return pd.read_parquet(path, columns=columns)

    def evaluated(self) -> set[tuple[int, str, str]]:
        """The evaluations on file: step, benchmark and evaluation identity."""
        return {(step, benchmark, identity) for step, benchmark, identity, _ in self._evaluation_files()}

    def missing(self, job: RunJob) -> list[tuple[int, str]]:
        """The evaluations (step, benchmark) that `job` asks for and this folder lacks."""
        there = self.evaluated()
        return [
            (step, benchmark)
            for step in job.steps
            for benchmark, identity in job.evaluation_ids.items()
            if (step, benchmark, identity) not in there
        ]

    def finished(self, job: RunJob) -> bool:
        """Whether nothing that `job` asks for is missing."""
        return not self.missing(job)


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
