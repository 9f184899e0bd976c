"""Loading a model for training, and saving one as a plain Hugging Face folder."""

from __future__ import annotations

import os
import shutil
import tempfile
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
from harness.models.catalog import ModelSource
from harness.models.errors import ModelNotFound
from harness.models.liger import apply_liger
from harness.spec.recipe import ModelSpec


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be trained or sampled.

    Attributes:
        model: float32 master weights, in evaluation mode.
        tokenizer: with a padding token, padding on the left.
        source: where it came from.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: ModelSource


def load_model(source: ModelSource, spec: ModelSpec, *, device: str | torch.device = "cpu") -> LoadedModel:
    """Loads a model in float32, with dropout off.

    Weights stay in float32 whatever `spec.dtype`: that is the type of computation, which autocast sets.

    Args:
        source: what `resolve_model` found.
        spec: for the attention implementation.
        device: where to put the weights.

    Raises:
        ModelNotFound: transformers cannot load the files.
    """
    folder = model_folder(source)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        _without_dropout(config)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            attn_implementation=spec.attention,
            local_files_only=True,
        )
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelNotFound(f"model {source.name!r} cannot be loaded: {first}") from error
    torch.nn.Module.to(model, device)
    if spec.liger:
        apply_liger(model)
    return LoadedModel(model.eval(), load_tokenizer(folder), source)


def _without_dropout(config: PretrainedConfig) -> None:
    """Before modules are made of it: they keep what they find. Its names are many: `resid_pdrop`, …"""
    text = config.get_text_config()
    for name, value in text.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(text, name, 0.0)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a plain folder, with a padding token and padding on the left."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
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


def cache_root() -> Path:
    """The user's cache folder of the harness."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grpo-ablation-harness"


def _dequantised(source: ModelSource) -> Path:
    """The GGUF file as a plain bfloat16 folder in the user's cache, converted by whoever comes first."""
    assert source.path is not None
    target = cache_root() / "models" / source.fingerprint[:16]
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_dir():
            return target
        work = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
        try:
            save_model(*_from_gguf(source.path, source.gguf_file), work)
            os.replace(work, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target


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
