"""What an unfinished evaluation has on file: its completions, part by part, each whole or absent."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pandas as pd

from harness.store.atomic import make_folder, set_aside, write_atomic
from harness.store.sealing import content_digest


class Parts:
    """A folder of numbered Parquet files.

    A part of the same size always holds the same questions, whether it is sampled at once or after any number of
    interruptions, so that what is sampled together is the same too.

    Args:
        folder: where they are; None keeps nothing.
        owner: whose they are, so that those of another evaluation are not taken for them.
    """

    def __init__(self, folder: Path | None, owner: str = "") -> None:
        self._folder = folder
        self._owner = owner

    def read(self, number: int) -> pd.DataFrame | None:
        """A part; None if it was not sampled yet, or is not what was kept.

        The file's name has the digest of its content; early versions kept none.
        """
        if self._folder is None:
            return None
        stem = f"part-{number:05d}"
        for path in sorted(self._folder.glob(f"{stem}.*parquet")):
            content = path.read_bytes()
            if path.stem not in (stem, f"{stem}.{content_digest(content, self._owner)}"):
                set_aside(path)
                continue
            try:
                return pd.read_parquet(BytesIO(content))
            except (ValueError, OSError):
                set_aside(path)
        return None

    def write(self, number: int, samples: pd.DataFrame) -> None:
        """Keeps a part."""
        if self._folder is not None:
            make_folder(self._folder)
            buffer = BytesIO()
            samples.to_parquet(buffer, index=False)
            content = buffer.getvalue()
            name = f"part-{number:05d}.{content_digest(content, self._owner)}.parquet"
            write_atomic(self._folder / name, lambda file: file.write(content))

    def clear(self) -> None:
        """Forgets them, once the evaluation is on file whole."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def parts_for(path: Path | None, owner: str) -> Iterator[Parts]:
    """The parts of an evaluation, cleared when the block ends well."""
    parts = Parts(path, owner)
    yield parts
    parts.clear()
