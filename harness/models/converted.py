"""The plain copy of a model that a package carries as GGUF: where it lies, and whether all of it is there."""

from __future__ import annotations

from pathlib import Path

from harness.models.cache import cache_root, check_room
from harness.models.catalog import ModelSource
from harness.models.files import CONFIG, weight_files
from harness.models.token_files import read_json_object, read_token_files
from harness.models.weights import stored_tensors

BYTES_PER_PARAMETER = 2
"""The copy is in bfloat16."""


def converted_folder(source: ModelSource) -> Path:
    """Where the copy is or will be.

    Raises:
        ModelNotFound: there is no home folder to put it in.
    """
    return cache_root() / "models" / source.fingerprint[:16]


def is_whole(folder: Path) -> bool:
    """Whether a copy has all its files to their last byte: its maker, or what cleans caches, may have been at it."""
    try:
        weights = weight_files(folder)
        for path in weights:
            stored_tensors(path)
        return bool(weights and read_json_object(folder / CONFIG) and read_token_files(folder).ids)
    except (OSError, ValueError):
        return False


def check_convertible(source: ModelSource) -> None:
    """Checks that the copy is there or can be made. Does nothing for a model that needs none.

    Raises:
        ModelNotFound: the cache cannot be written or has no room, naming the folder and the variable that moves it.
    """
    if source.gguf_file is None:
        return
    target = converted_folder(source)
    if not is_whole(target):
        check_room(source.name, target.parent, BYTES_PER_PARAMETER * source.parameters)
