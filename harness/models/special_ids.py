"""Which tokens of a loaded model end a completion, pad a batch, and may be sampled at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.models.errors import ModelNotFound
from harness.models.token_files import read_token_files


@dataclass(frozen=True)
class SpecialIds:
    """Token ids of a model.

    Attributes:
        end_ids: tokens that end a completion, sorted; at least one.
        pad_id: a token of the embedding that fills up batches. Nothing attends to it, so it may be an end too.
        vocabulary: tokens that the model can write: ids from here on have no text, or no row in the embedding.
    """

    end_ids: tuple[int, ...]
    pad_id: int
    vocabulary: int


def special_ids(
    name: str, folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> SpecialIds:
    """Reads them off the model's generation settings, its tokenizer and its embedding.

    Ends are those of `generation_config.json` (of `config.json` where there is none) and the tokenizer's. An id that
    no token of the embedding has can neither be sampled nor end anything, and is left out, as in transformers.

    Raises:
        ModelNotFound: no token ends a completion.
    """
    embedding: Any = model.get_input_embeddings()
    rows = int(embedding.weight.shape[0])
    vocabulary = min(rows, _tokens(folder, tokenizer))
    settings = getattr(model, "generation_config", None)
    stated = getattr(settings, "eos_token_id", None)
    several = stated if isinstance(stated, list) else [stated]
    ends = {int(number) for number in (*several, tokenizer.eos_token_id) if number is not None}
    usable = tuple(sorted(number for number in ends if 0 <= number < vocabulary))
    if not usable:
        named = (
            f"of {sorted(ends)} none is within the {vocabulary} tokens that it can write"
            if ends
            else "none is named"
        )
        raise ModelNotFound(
            f"model {name!r}: no token ends a completion: {named}",
            "name one: eos_token in tokenizer_config.json, or eos_token_id in generation_config.json",
        )
    padding: int | None = tokenizer.pad_token_id
    return SpecialIds(
        usable, padding if padding is not None and 0 <= padding < vocabulary else usable[0], vocabulary
    )


def _tokens(folder: Path, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the tokenizer's files.

    transformers adds special tokens that a class takes for granted and the files do not hold: no model knows them.
    """
    try:
        known = read_token_files(folder).size
    except ValueError:
        known = None
    return known if known is not None else max(tokenizer.get_vocab().values()) + 1
