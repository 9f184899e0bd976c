"""The user's cache of converted models: where it is, and whether it can be written, before anything is converted."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from pathlib import Path

from harness.models.errors import ModelNotFound

VARIABLE = "XDG_CACHE_HOME"
"""The environment variable that moves the cache."""

_STORAGE = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ENOENT,
        errno.ELOOP,
        errno.EIO,
        errno.ENAMETOOLONG,
    }
)


def cache_root() -> Path:
    """The user's cache folder of the harness.

    Raises:
        ModelNotFound: there is no home folder to put it in.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named) / "grpo-ablation-harness"
    try:
        return Path.home() / ".cache" / "grpo-ablation-harness"
    except RuntimeError:
        raise ModelNotFound(
            "no home folder is known, so there is no cache", f"set {VARIABLE} to a folder"
        ) from None


def unwritable(error: BaseException) -> str | None:
    """Why a file could not be written, in words; None where `error` is about something else.

    safetensors reports the system's errors as its own, with the number in the text.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(found[1])
    return os.strerror(number).lower() if number in _STORAGE else None


def cannot_convert(name: str, folder: Path, reason: str) -> ModelNotFound:
    """The error of a model whose converted copy has no place."""
    return ModelNotFound(
        f"model {name!r}: its converted copy cannot be written in {folder}: {reason}",
        f"set {VARIABLE} to a folder that can be written and has room",
    )


def check_room(name: str, folder: Path, needed_bytes: int) -> None:
    """Tries whether files can be written in `folder`, and whether there is room for `needed_bytes`.

    Raises:
        ModelNotFound: naming the folder and the variable that moves it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A permission check does not see a read-only file system, and root passes every one.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise cannot_convert(name, folder, unwritable(error) or str(error)) from None
    if free < needed_bytes:
        reason = f"it takes {needed_bytes / 2**30:.2f} GiB, {free / 2**30:.2f} are free"
        raise cannot_convert(name, folder, reason)
