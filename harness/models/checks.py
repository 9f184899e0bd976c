"""Whether a model folder is one that can be trained, as far as its small files and tensor headers show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.models.architecture import Architecture
from harness.models.errors import ModelNotFound
from harness.models.token_files import check_ends, read_json_object, read_token_files
from harness.models.weights import StoredTensor, same_content, stored_tensors

TEXT_DECODERS = ("ForCausalLM", "LMHeadModel")
"""How transformers names the classes of models that continue a text."""

DTYPES = frozenset({"auto", "float64", "double", "float32", "float", "float16", "half", "bfloat16"})
"""Types that weights are stored in. Loading turns them into float32."""

_DENSE = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Families whose tensors have the names and shapes of `_dense_shapes`."""


def check_config(name: str, folder: Path, config: Mapping[str, Any]) -> None:
    """Refuses what is no plain text decoder: adapters, quantised weights, code of its own, other architectures.

    Raises:
        ModelNotFound: with the way out.
    """
    if (folder / "adapter_config.json").exists():
        raise ModelNotFound(
            f"model {name!r}: {folder} holds an adapter (adapter_config.json)",
            "merge it into its base model first: peft's `merge_and_unload`, then `save_pretrained`",
        )
    for file, data in (("config.json", config), ("tokenizer_config.json", _tokenizer_config(name, folder))):
        if data.get("auto_map"):
            raise ModelNotFound(
                f"model {name!r}: {file} names Python code of the model's own (auto_map), which is never run here",
                "if transformers knows this architecture itself, use a copy of the folder without `auto_map`",
            )
    if config.get("quantization_config"):
        quantised = config["quantization_config"]
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "unknown"
        raise ModelNotFound(
            f"model {name!r}: its weights are quantised ({method}) and cannot be trained",
            "take the model that it was quantised from",
        )
    for key in ("dtype", "torch_dtype"):
        if (dtype := config.get(key)) is not None and str(dtype).removeprefix("torch.") not in DTYPES:
            raise ModelNotFound(
                f"model {name!r}: its config.json says {key} is {dtype!r}",
                "the type of the weights, such as bfloat16",
            )
    classes = config.get("architectures")
    if isinstance(classes, list) and classes and not any(str(c).endswith(TEXT_DECODERS) for c in classes):
        raise ModelNotFound(
            f"model {name!r}: its config.json says it is a {classes[0]}",
            "a decoder-only text model is needed",
        )


def _tokenizer_config(name: str, folder: Path) -> dict[str, Any]:
    try:
        return read_json_object(folder / "tokenizer_config.json")
    except ValueError as error:
        raise ModelNotFound(f"model {name!r}: {error}", "download it again") from None


def check_tokens(name: str, folder: Path, config: Mapping[str, Any], rows: int) -> None:
    """Refuses a tokenizer that cannot be read, and one under which no completion ends.

    Raises:
        ModelNotFound: with the way out.
    """
    try:
        check_ends(name, folder, config, read_token_files(folder), rows)
    except ValueError as error:
        raise ModelNotFound(f"model {name!r}: {error}", "download or save it again") from None


def check_weights(
    name: str, config: Mapping[str, Any], architecture: Architecture, weights: list[Path]
) -> None:
    """Compares the shapes of the weights with the config, and the head with what the config says of it.

    `read_architecture` has read the headers before, so they can be read.

    Raises:
        ModelNotFound: a tensor is missing or has another shape.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in weights:
        if path.suffix != ".safetensors":
            return  # a pickle, which is looked at when it is loaded
        tensors |= stored_tensors(path)
    wanted = _embedding_shapes(architecture)
    # A body that was saved without its head has no prefix in its names: transformers knows what to do with it.
    known = architecture.model_type in _DENSE and _EMBEDDING in tensors
    if known:
        wanted |= _dense_shapes(architecture)
    for tensor, shape in wanted.items():
        found = tensors.get(tensor)
        if found is not None and found.shape != shape:
            raise ModelNotFound(
                f"model {name!r}: {tensor} has the shape {list(found.shape)}, its config.json says {list(shape)}",
                "take config.json and weights from the same model",
            )
        if found is None and known and tensor != _HEAD:
            raise ModelNotFound(
                f"model {name!r}: {tensor} is missing in its weights", "download or save the model again"
            )
    _check_head(name, config, tensors)


_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def _check_head(name: str, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> None:
    tied, embedding, head = config.get("tie_word_embeddings"), tensors.get(_EMBEDDING), tensors.get(_HEAD)
    if embedding is None:
        return
    if tied is False and head is None:
        raise ModelNotFound(
            f"model {name!r}: {_HEAD} is missing in its weights, and config.json does not tie it to the embedding",
            "if the model was trained with both in one, set `tie_word_embeddings: true` in config.json",
        )
    if tied is True and head is not None and not same_content(embedding, head):
        raise ModelNotFound(
            f"model {name!r}: its config.json ties {_HEAD} to the embedding, but the weights hold another one",
            "set `tie_word_embeddings: false` in config.json, or remove it from the weights",
        )


def _embedding_shapes(a: Architecture) -> dict[str, tuple[int, ...]]:
    return {name: (a.vocabulary, a.hidden_size) for name in (_EMBEDDING, _HEAD)}


def _dense_shapes(a: Architecture) -> dict[str, tuple[int, ...]]:
    """Matrices of a decoder with gated feed-forward blocks."""
    queries, keys = a.heads * a.head_dim, a.kv_heads * a.head_dim
    layer = {
        "self_attn.q_proj": (queries, a.hidden_size),
        "self_attn.k_proj": (keys, a.hidden_size),
        "self_attn.v_proj": (keys, a.hidden_size),
        "self_attn.o_proj": (a.hidden_size, queries),
        "mlp.gate_proj": (a.intermediate_size, a.hidden_size),
        "mlp.up_proj": (a.intermediate_size, a.hidden_size),
        "mlp.down_proj": (a.hidden_size, a.intermediate_size),
    }
    return {
        f"model.layers.{number}.{part}.weight": shape
        for number in range(a.layers)
        for part, shape in layer.items()
    }
