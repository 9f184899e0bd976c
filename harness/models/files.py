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

from harness.models.token_files import end_list, read_json_object, stated_ends

TOKENIZER_FILES = (
    "added_tokens.json",
    "additional_chat_templates/default.jinja",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "sentencepiece.model",
    "spiece.model",
    "spm.model",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""Files from which transformers makes a tokenizer and its chat template, whatever the tokenizer's class."""
CONFIG = "config.json"
GENERATION = "generation_config.json"


def weight_files(folder: Path) -> list[Path]:
    """Safetensors shards of a folder, or its older PyTorch files where there are none; sorted."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def missing_shard(folder: Path) -> str | None:
    """A shard that the folder's index names but that isn't there.

    Raises:
        ValueError: the index is malformed.
    """
    index = read_json_object(folder / "model.safetensors.index.json")
    if not index:
        return None
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise ValueError("model.safetensors.index.json has no `weight_map` of tensors to files")
    return next((shard for shard in sorted(set(shards.values())) if not (folder / shard).exists()), None)


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


def folder_hashes(folder: Path) -> list[tuple[str, str]]:
    """Name and sha256 of everything in a model folder that decides what the model says, whatever the folder's path.

    Raises:
        ValueError: a file that decides where completions end is malformed.
    """
    hashes = [(path.relative_to(folder).as_posix(), file_sha256(path)) for path in model_files(folder)]
    return [*hashes, *generation_hashes(folder)]


_GENERATION_BOOKKEEPING = frozenset(
    {
        "_from_model_config",
        "bos_token_id",
        "eos_token_id",
        "output_attentions",
        "output_hidden_states",
        "output_logits",
        "output_scores",
        "pad_token_id",
        "return_dict_in_generate",
        "transformers_version",
        "use_cache",
    }
)
"""Keys of `generation_config.json` that decide no text; the end tokens are compared by themselves."""


def generation_hashes(folder: Path) -> list[tuple[str, str]]:
    """What `generation_config.json` adds to a fingerprint: its end tokens, where `config.json` names others, and its
    sampling settings.

    Here the recipe's sampling settings are used, but whatever else samples from the folder, or from a checkpoint of
    it, follows the file's. Where it says nothing of its own it adds nothing, so that such models have the fingerprint
    that they had before the file was looked at.

    Raises:
        ValueError: one of the two is malformed.
    """
    config, generation = read_json_object(folder / CONFIG), read_json_object(folder / GENERATION)
    ends = stated_ends(folder, config)
    hashes = []
    if ends != end_list(config.get("eos_token_id"), CONFIG):
        hashes.append((f"{GENERATION}:eos_token_id", _json_sha256(ends)))
    sampling = {
        key: value
        for key, value in generation.items()
        if value is not None and key not in _GENERATION_BOOKKEEPING
    }
    if sampling:
        hashes.append((GENERATION, _json_sha256(sampling)))
    return hashes


def _json_sha256(data: object) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


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
