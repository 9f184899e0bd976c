"""Models on the Hugging Face hub: in the local cache, or described by the hub without downloading weights."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.models.cache import unwritable
from harness.models.errors import ModelNotFound
from harness.models.files import (
    CONFIG,
    GENERATION,
    TOKENIZER_FILES,
    file_sha256,
    generation_hashes,
    missing_shard,
)
from harness.models.files import weight_files as cached_weight_files

TIMEOUT_SECONDS = 3.0
"""How long the hub may take to answer before it counts as unreachable."""


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id, `owner/name`."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None


def cache_folder() -> Path:
    """Where huggingface_hub keeps models."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cached_models() -> list[str]:
    """Hub ids of the models in the cache, as far as huggingface_hub can read them."""
    from huggingface_hub import scan_cache_dir

    if not (cache := cache_folder()).is_dir():
        return []
    found = [repo.repo_id for repo in scan_cache_dir(cache).repos if repo.repo_type == "model"]
    return sorted(name for name in found if is_hub_id(name))


def cached_snapshot(name: str, revision: str | None) -> Path | None:
    """The cached snapshot of a model, if it is complete: config, tokenizer and every shard of the weights."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, CONFIG, cache_dir=cache_folder(), revision=revision)
    except HFValidationError:  # an id that the hub admits for no model
        return None
    if not isinstance(config, str):  # not cached, or known not to exist
        return None
    snapshot = Path(config).parent
    tokenizer = any((snapshot / file).exists() for file in ("tokenizer.json", "tokenizer.model"))
    complete = tokenizer and cached_weight_files(snapshot)
    try:
        return snapshot if complete and missing_shard(snapshot) is None else None
    except ValueError:  # a torn index: it is downloaded again
        return None


@dataclass(frozen=True)
class Described:
    """What the hub says of a model whose weights are not here yet.

    Attributes:
        config: its parsed `config.json`.
        commit: the revision's commit.
        hashes: name and sha256 of what decides what it says, the same as of a local copy.
        parameters: number of parameters, if the hub knows it.
        folder: where its config and tokenizer lie in the cache.
    """

    config: dict[str, Any]
    commit: str
    hashes: tuple[tuple[str, str], ...]
    parameters: int | None
    folder: Path


@dataclass(frozen=True)
class Unreachable:
    """Why the hub gave no answer.

    Attributes:
        reason: in words.
    """

    reason: str


@lru_cache(maxsize=256)
def described(name: str, revision: str | None) -> Described | Unreachable:
    """Asks the hub for a model, downloading its small files only. One answer a process, good or bad."""
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        return Unreachable("HF_HUB_OFFLINE is set")
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS)
        hashes = []
        for file in info.siblings or []:
            if file.rfilename == GENERATION:
                hf_hub_download(name, GENERATION, revision=info.sha, etag_timeout=TIMEOUT_SECONDS)
            elif file.rfilename in (CONFIG, *TOKENIZER_FILES):
                path = hf_hub_download(name, file.rfilename, revision=info.sha, etag_timeout=TIMEOUT_SECONDS)
                hashes.append((file.rfilename, file_sha256(Path(path))))
            elif re.fullmatch(r"[^/]+\.safetensors", file.rfilename) and file.lfs is not None:
                hashes.append((file.rfilename, file.lfs.sha256))
        config = Path(hf_hub_download(name, CONFIG, revision=info.sha, etag_timeout=TIMEOUT_SECONDS))
        total = info.safetensors.total if info.safetensors is not None else None
        parsed = json.loads(config.read_text(encoding="utf-8"))
        return Described(
            parsed, str(info.sha), (*hashes, *generation_hashes(config.parent)), total, config.parent
        )
    except GatedRepoError:
        return Unreachable("the hub gates it: accept its terms and log in with `hf auth login`")
    except RevisionNotFoundError:
        return Unreachable(f"the hub has no revision {revision!r} of it")
    except RepositoryNotFoundError:
        return Unreachable("the hub has no such model, or it is private")
    except Exception as error:  # whatever the transport raises: its errors share no base
        if (reason := unwritable(error)) is not None:
            return Unreachable(f"its files cannot be kept in {cache_folder()}: {reason}; {MOVES}")
        return Unreachable(f"the hub cannot be reached ({type(error).__name__})")


MOVES = "HF_HUB_CACHE or HF_HOME moves it"
"""How the user moves the hub's cache."""


def download(name: str, revision: str | None) -> Path:
    """Downloads a model's config, tokenizer and safetensors weights; returns the snapshot folder.

    Raises:
        ModelNotFound: the cache cannot be written.
    """
    from huggingface_hub import snapshot_download

    patterns = [
        CONFIG,
        GENERATION,
        "*.safetensors",
        "*.safetensors.index.json",
        *TOKENIZER_FILES,
    ]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:
        if (reason := unwritable(error)) is None:
            raise
        raise ModelNotFound(
            f"model {name!r}: it cannot be downloaded to {cache_folder()}: {reason}", MOVES
        ) from error
