"""A model's dimensions and number of parameters, from its `config.json` and its safetensors headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.models.errors import ModelNotFound
from harness.models.weights import stored_tensors

_BIASED_ATTENTION = frozenset({"qwen2"})
_NORMED_HEADS = frozenset({"qwen3"})
_PACKING_PAYS_HIDDEN = 256


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Dimensions of a decoder.

    Attributes:
        model_type: transformers' name of the architecture, such as `qwen2`.
        context_tokens: longest sequence, prompt and completion together.
        hidden_size: width H.
        layers: number of layers.
        vocabulary: rows of the embedding V.
        intermediate_size: width of the feed-forward block.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: width of a head.
        tied: whether the language-model head is the embedding.
        parameters: number of parameters.
    """

    model_type: str
    context_tokens: int
    hidden_size: int
    layers: int
    vocabulary: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    parameters: int

    @property
    def matrix_weights(self) -> int:
        """Parameters that take part in a matrix product: all but an embedding that is not the head too."""
        return self.parameters - (0 if self.tied else self.vocabulary * self.hidden_size)

    @property
    def cache_values(self) -> int:
        """Keys and values of a token, in numbers."""
        return 2 * self.layers * self.kv_heads * self.head_dim


def packing_pays(hidden_size: int, *, on_cpu: bool) -> bool:
    """Whether sequences end to end are faster than padded ones where there is no flash-attention.

    On a CPU they are for models wide enough that the matrix products outweigh a call of attention per sequence.
    """
    return on_cpu and hidden_size >= _PACKING_PAYS_HIDDEN


def read_architecture(name: str, config: Mapping[str, Any], weights: list[Path]) -> Architecture:
    """Dimensions from a parsed `config.json`; the count from `weights` where these are safetensors files.

    Raises:
        ModelNotFound: the config lacks a dimension, or a weights file is broken.
    """
    keys = ("hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size", "num_attention_heads")
    for key in (*keys, "max_position_embeddings"):
        value = config.get(key)
        if not isinstance(value, int):
            raise ModelNotFound(
                f"model {name!r}: its config.json has no {key!r}", "a decoder-only text model is needed"
            )
        if isinstance(value, bool) or value < 1:
            raise ModelNotFound(f"model {name!r}: its config.json says {key} is {value!r}; must be >= 1")
    hidden, layers, vocabulary, intermediate, heads = (config[key] for key in keys)
    found = Architecture(
        model_type=str(config.get("model_type", "")),
        context_tokens=config["max_position_embeddings"],
        hidden_size=hidden,
        layers=layers,
        vocabulary=vocabulary,
        intermediate_size=intermediate,
        heads=heads,
        kv_heads=_positive(name, config, "num_key_value_heads", heads),
        head_dim=_positive(name, config, "head_dim", max(1, hidden // heads)),
        tied=bool(config.get("tie_word_embeddings", False)),
        parameters=0,
    )
    for larger, smaller, given in (
        ("num_attention_heads", "num_key_value_heads", heads % found.kv_heads == 0),
        ("hidden_size", "num_attention_heads", config.get("head_dim") is not None or hidden % heads == 0),
    ):
        if not given:
            raise ModelNotFound(
                f"model {name!r}: its config.json says {larger} is {config[larger]}, no multiple of {smaller}, "
                f"{config[smaller]}"
            )
    counted = 0
    for path in weights:
        if path.suffix != ".safetensors":
            continue
        try:
            counted += sum(tensor.elements for tensor in stored_tensors(path).values())
        except (OSError, ValueError) as error:
            raise ModelNotFound(
                f"model {name!r}: {path.name} is not a safetensors file, or not all of one: {error}",
                "download it again",
            ) from None
    return replace(found, parameters=counted or _dense_parameters(config, found))


def _positive(name: str, config: Mapping[str, Any], key: str, default: int) -> int:
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelNotFound(f"model {name!r}: its config.json says {key} is {value!r}; must be >= 1")
    return value


def _dense_parameters(config: Mapping[str, Any], model: Architecture) -> int:
    """Parameters of a dense decoder with gated feed-forward blocks: Llama, Mistral, Qwen2, Qwen3."""
    hidden, head = model.hidden_size, model.head_dim
    queries, keys = model.heads * head, model.kv_heads * head
    attention = hidden * (2 * queries + 2 * keys)
    if model.model_type in _BIASED_ATTENTION:
        attention += queries + 2 * keys
    elif config.get("attention_bias"):
        attention += queries + 2 * keys + hidden
    if model.model_type in _NORMED_HEADS:
        attention += 2 * head
    feed_forward = 3 * hidden * model.intermediate_size
    embeddings = model.vocabulary * hidden * (1 if model.tied else 2)
    return embeddings + model.layers * (attention + feed_forward + 2 * hidden) + hidden
