"""Loading a model for training, and saving one as a plain Hugging Face folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from harness.models import hub
from harness.models.cache import cannot_convert, unwritable
from harness.models.catalog import ModelSource
from harness.models.converted import converted_folder, is_whole
from harness.models.errors import ModelNotFound
from harness.models.liger import apply_liger
from harness.models.special_ids import SpecialIds, special_ids
from harness.spec.recipe import ModelSpec


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be trained or sampled.

    Attributes:
        model: float32 master weights, in evaluation mode.
        tokenizer: padding on the left.
        source: where it came from.
        special: which tokens end, pad and may be sampled.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: ModelSource
    special: SpecialIds


def load_model(source: ModelSource, spec: ModelSpec, *, device: str | torch.device = "cpu") -> LoadedModel:
    """Loads a model in float32, with dropout off.

    Weights stay in float32 whatever `spec.dtype`: that is the type of computation, which autocast sets.

    Args:
        source: what `resolve_model` found.
        spec: for the attention implementation.
        device: where to put the weights.

    Raises:
        ModelNotFound: transformers cannot load the files, or no token ends a completion.
    """
    folder = model_folder(source)
    model = _read(source.name, folder, spec)
    tokenizer = load_tokenizer(source.name, folder)
    special = special_ids(source.name, folder, model, tokenizer)
    torch.nn.Module.to(model, device)
    if spec.liger:
        apply_liger(model)
    return LoadedModel(model.eval(), tokenizer, source, special)


def _read(name: str, folder: Path, spec: ModelSpec) -> PreTrainedModel:
    try:
        with _quiet():
            model, report = _from_folder(folder, spec)
    except MemoryError:
        raise
    except Exception as error:  # transformers meets a broken folder with whatever its code stumbles over
        raise ModelNotFound(f"model {name!r} cannot be loaded: {_first_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelNotFound(
            f"model {name!r}: {missing[0]}{more} missing in its weights: transformers would draw it at random",
            "download or save the model again",
        )
    return model


def load_config(name: str, folder: Path) -> PretrainedConfig:
    """The config of a plain folder, of an architecture that continues a text.

    Raises:
        ModelNotFound: transformers cannot load it, or knows no model for it.
    """
    try:
        with _quiet():
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as of a model
        raise ModelNotFound(
            f"model {name!r}: its config cannot be loaded: {_first_line(error)}",
            "if its architecture is newer than the transformers installed here, update transformers",
        ) from error
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ModelNotFound(
            f"model {name!r}: transformers has no text decoder of its model_type {config.model_type!r}",
            "a decoder-only text model is needed",
        )
    return config


def _from_folder(folder: Path, spec: ModelSpec) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model, and transformers' report of what the weights lack."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    _without_dropout(config)
    _without_stray_padding(config)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        attn_implementation=spec.attention,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    model, report = loaded
    return model, report


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar and tables: what is wrong is told in the error."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _without_stray_padding(config: PretrainedConfig) -> None:
    """Embeddings freeze the row of the padding id. One outside them, -1 of older configs too, names no row."""
    text = config.get_text_config()
    padding = getattr(text, "pad_token_id", None)
    if padding is not None and not 0 <= padding < text.vocab_size:
        text.pad_token_id = None


def _without_dropout(config: PretrainedConfig) -> None:
    """Before modules are made of it: they keep what they find. Its names are many: `resid_pdrop`, …"""
    text = config.get_text_config()
    for name, value in text.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(text, name, 0.0)


def load_tokenizer(name: str, folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a plain folder, padding on the left.

    Raises:
        ModelNotFound: transformers cannot load it.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as of a model
        raise ModelNotFound(
            f"model {name!r}: its tokenizer cannot be loaded: {_first_line(error)}",
            "download or save it again",
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def model_folder(source: ModelSource) -> Path:
    """A plain Hugging Face folder of the model: downloaded or converted first where need be."""
    if source.gguf_file is not None:
        return _dequantised(source)
    return source.path if source.path is not None else hub.download(source.name, source.revision)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a plain Hugging Face folder: safetensors weights in the model's type, config, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _dequantised(source: ModelSource) -> Path:
    """The GGUF file as a plain bfloat16 folder in the user's cache, converted by whoever comes first.

    Raises:
        ModelNotFound: the cache cannot be written, or is full.
    """
    assert source.path is not None
    target = converted_folder(source)
    if is_whole(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not is_whole(target):
                _convert(source.path, source.gguf_file, target)
    except Exception as error:  # safetensors reports a full disk in an exception of its own
        if (reason := unwritable(error)) is None:
            raise
        raise cannot_convert(source.name, target.parent, reason) from error
    return target


def _convert(folder: Path, gguf_file: str | None, target: Path) -> None:
    """Under the lock, so that whatever else has the target's name was left by a process that was killed."""
    for left in [target, *target.parent.glob(f"{target.name}.*/")]:
        shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        save_model(*_from_gguf(folder, gguf_file), work)
        os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _from_gguf(folder: Path, gguf_file: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    options: dict[str, Any] = {"gguf_file": gguf_file, "dtype": torch.float32}
    if hasattr(transformers, "GgufConfig"):
        # Newer versions keep weights packed, for inference alone, unless told otherwise.
        options["quantization_config"] = transformers.GgufConfig(gguf_file=gguf_file, dequantize=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file)
    quantised = AutoModelForCausalLM.from_pretrained(folder, **options)
    config = quantised.config
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, name):
            delattr(config, name)
    # A fresh model of the same architecture carries no trace of a quantiser, which would refuse to be saved.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    return model, tokenizer
