"""Which files of a model folder make the model, and a fingerprint of what they hold."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
CONFIG = "config.json"


def weight_files(folder: Path) -> list[Path]:
    """Safetensors shards of a folder, or its older PyTorch files where there are none; sorted."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def missing_shard(folder: Path) -> str | None:
    """A shard that the folder's index names but that isn't there."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return None
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return next((shard for shard in sorted(shards) if not (folder / shard).exists()), None)


def model_files(folder: Path) -> list[Path]:
    """Config, tokenizer and weights: everything that decides what the model says."""
    small = [folder / CONFIG, *(folder / name for name in TOKENIZER_FILES)]
    return [path for path in small if path.is_file()] + weight_files(folder)


def combined_fingerprint(hashes: Iterable[tuple[str, str]]) -> str:
    """One sha256 over pairs of file name and sha256, in the order of names."""
    digest = hashlib.sha256()
    for name, content in sorted(hashes):
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def folder_fingerprint(folder: Path) -> str:
    """Fingerprint of a model folder's content: the same for two copies, whatever their path."""
    return combined_fingerprint((path.name, file_sha256(path)) for path in model_files(folder))


def file_sha256(path: Path) -> str:
    """sha256 of a file; computed once per path, size and modification time.

    The hub's cache names large files by their sha256, so those are not read at all.
    """
    target = path.resolve()
    if target.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", target.name):
        return target.name
    status = target.stat()
    return _hashed(target, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hashed(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def recorded_sha256(distribution: str, path: Path) -> str:
    """sha256 of a file that a package installed, from the package's own record where it has one."""
    for file in importlib.metadata.files(distribution) or []:
        if file.name == path.name and file.hash is not None and file.hash.mode == "sha256":
            padded = file.hash.value + "=" * (-len(file.hash.value) % 4)
            return urlsafe_b64decode(padded).hex()
    return file_sha256(path)
