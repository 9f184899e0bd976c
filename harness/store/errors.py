"""The exception for records that cannot be trusted."""

from __future__ import annotations

from pathlib import Path


class StoreError(Exception):
    """A record is missing, unreadable, foreign, or written by a newer version.

    Args:
        message: what is wrong.
        path: the record.
    """

    def __init__(self, message: str, path: Path) -> None:
        self.message = message
        self.path = path
        super().__init__(f"{path}: {message}")
