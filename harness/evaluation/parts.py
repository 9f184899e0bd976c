"""What an unfinished evaluation has on file: its completions, part by part, each whole or absent."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from harness.store.atomic import make_folder, write_atomic


class Parts:
    """A folder of numbered Parquet files.

    A part of the same size always holds the same questions, whether it is sampled at once or after any number of
    interruptions, so that what is sampled together is the same too.

    Args:
        folder: where they are; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, number: int) -> pd.DataFrame | None:
        """A part; None if it was not sampled yet."""
        if self._folder is None:
            return None
        path = self._path(number)
        return pd.read_parquet(path) if path.exists() else None

    def write(self, number: int, samples: pd.DataFrame) -> None:
        """Keeps a part."""
        if self._folder is not None:
            make_folder(self._folder)
            write_atomic(self._path(number), lambda file: samples.to_parquet(file, index=False))

    def clear(self) -> None:
        """Forgets them, once the evaluation is on file whole."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"part-{number:05d}.parquet"


@contextmanager
def parts_for(path: Path | None) -> Iterator[Parts]:
    """The parts of an evaluation, cleared when the block ends well."""
    parts = Parts(path)
    yield parts
    parts.clear()
