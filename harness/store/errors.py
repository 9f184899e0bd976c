"""Exceptions of the store: records that cannot be trusted or written, and attempts that lost their run."""

from __future__ import annotations

import errno
import os
from pathlib import Path


class StoreError(Exception):
    """A record is missing, unreadable, foreign, written by a newer version, or cannot be written.

    Args:
        message: what is wrong.
        path: the record.
    """

    def __init__(self, message: str, path: Path) -> None:
        self.message = message
        self.path = path
        super().__init__(f"{path}: {message}")


class Damaged(StoreError):
    """A record is not what was written: changed, cut, moved from another place, or gone."""

    MENDS = "the command that made the folder, given again, sets it aside and makes that part again"
    """What to do about it, in an output folder."""


class Fenced(RuntimeError):
    """A later attempt holds the run's lease, so this one may publish nothing any more."""


_HINTS = {
    errno.ENOSPC: "make room on the disk; the same command continues",
    errno.EDQUOT: "make room in the quota; the same command continues",
    errno.EROFS: "choose another folder with --out",
    errno.EACCES: "change its permissions, or choose another folder with --out",
    errno.EPERM: "change its permissions, or choose another folder with --out",
}


def unreadable(error: OSError, path: Path) -> StoreError:
    """What to tell of a file that cannot be read: one that is not there is damage, others may be readable later."""
    if isinstance(error, FileNotFoundError):
        return Damaged("no such record", path)
    return StoreError(f"cannot be read: {error}", path)


def unwritable(error: OSError, path: Path) -> StoreError:
    """What to tell of a file that cannot be written: why, which, and how to mend it."""
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    hint = _HINTS.get(error.errno or 0)
    return StoreError(f"cannot be written: {reason}" + (f"\n  {hint}" if hint else ""), path)
