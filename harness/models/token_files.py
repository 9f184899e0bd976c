"""What a folder's files say of its tokens, without transformers: special tokens, ids, ends, chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.models.chat_template import ChatTemplate
from harness.models.errors import ModelNotFound

SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, kw_only=True)
class TokenFiles:
    """A tokenizer as its files describe it.

    Attributes:
        named: text of each special token that is named, such as `eos_token`.
        silent: special tokens of which the files say nothing, not even that there is none.
        ids: id by token; empty where the vocabulary is in a format that is not read here (sentencepiece).
        template: the chat template; None where there is none.
    """

    named: Mapping[str, str]
    silent: frozenset[str]
    ids: Mapping[str, int] = field(repr=False)
    template: ChatTemplate | None

    @property
    def size(self) -> int | None:
        """One more than the highest id; None where it is not known."""
        return max(self.ids.values()) + 1 if self.ids else None

    def beyond(self, rows: int) -> dict[str, int]:
        """Tokens whose id is beyond an embedding of so many rows."""
        return {token: number for token, number in self.ids.items() if number >= rows}


def read_token_files(folder: Path) -> TokenFiles:
    """Reads the tokenizer files of a folder; what is missing there is left out.

    Raises:
        ValueError: a file cannot be read or is malformed; the message begins with its name.
    """
    names = (
        "tokenizer_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "added_tokens.json",
        "vocab.json",
        "chat_template.jinja",
        "additional_chat_templates/default.jinja",
    )
    return _read(folder, tuple(_stamp(folder / name) for name in names))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from None
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=64)
def _read(folder: Path, _stamps: tuple[tuple[int, int] | None, ...]) -> TokenFiles:
    config = read_json_object(folder / "tokenizer_config.json")
    mapped = read_json_object(folder / "special_tokens_map.json")
    ids = _ids(folder, config)
    named = {}
    for key in SPECIAL:
        if (text := _text(config[key] if key in config else mapped.get(key))) is not None:
            named[key] = text
    source = _template(folder, config)
    template = None if source is None else ChatTemplate(source, tuple(named.items()))
    silent = frozenset(SPECIAL) - config.keys() - mapped.keys()
    return TokenFiles(named=named, silent=silent, ids=ids, template=template)


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file.

    Raises:
        ValueError: it cannot be read, or is something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path.name} must hold a JSON object, got {type(data).__name__}")
    return data


def _ids(folder: Path, config: dict[str, Any]) -> dict[str, int]:
    ids: dict[str, int] = {}
    whole = read_json_object(folder / "tokenizer.json")
    try:
        vocabulary = (whole.get("model") or {}).get("vocab") or {}
        if isinstance(vocabulary, list):  # Unigram: pairs of token and score, in the order of ids
            ids |= {str(entry[0]): number for number, entry in enumerate(vocabulary)}
        else:
            ids |= {str(token): int(number) for token, number in vocabulary.items()}
        ids |= {str(entry["content"]): int(entry["id"]) for entry in whole.get("added_tokens") or []}
        if not whole:
            ids |= read_json_object(folder / "vocab.json")
        if ids:  # of a sentencepiece vocabulary the additions alone would pass for the whole
            ids |= read_json_object(folder / "added_tokens.json")
            decoder = config.get("added_tokens_decoder") or {}
            ids |= {str(_text(entry)): int(number) for number, entry in decoder.items()}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its vocabulary is malformed: {type(error).__name__}: {error}") from None
    return ids


def _text(token: object) -> str | None:
    """A token as configs write it: its text, or an object that holds it."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    """The template that transformers takes where none is named: a file before the config's."""
    for name in ("chat_template.jinja", "additional_chat_templates/default.jinja"):
        try:
            return (folder / name).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{name} cannot be read: {error}") from None
    found = config.get("chat_template")
    if isinstance(found, list):  # several, each with a name
        found = next(
            (t.get("template") for t in found if isinstance(t, dict) and t.get("name") == "default"), None
        )
    return found if isinstance(found, str) else None


def stated_ends(folder: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """Ids that end a completion by `generation_config.json` or, where there is none, by `config.json`.

    It is what transformers generates with.

    Raises:
        ValueError: the file is malformed, or an id is no whole number.
    """
    path = folder / "generation_config.json"
    stated = read_json_object(path) if path.exists() else config
    return end_list(stated.get("eos_token_id"), path.name if path.exists() else "config.json")


def end_list(value: object, file: str) -> tuple[int, ...]:
    """One id, a list of ids or nothing, as a sorted tuple."""
    listed = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(number, bool) or not isinstance(number, int) for number in listed):
        raise ValueError(f"{file}: eos_token_id must be a token id or a list of them, got {value!r}")
    return tuple(sorted(set(listed)))


CLASS_ENDS = ("<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>")
"""End tokens that tokenizer classes of transformers take where the files name none."""


def check_ends(name: str, folder: Path, config: Mapping[str, Any], tokens: TokenFiles, rows: int) -> None:
    """Checks that some token of the embedding ends a completion.

    Raises:
        ModelNotFound: there is none, so that every completion would run to its cap.
    """
    stated = stated_ends(folder, config)
    known = min(rows, tokens.size or rows)
    text = tokens.named.get("eos_token")
    own = None if text is None else tokens.ids.get(text)
    if any(0 <= number < known for number in stated) or (own is not None and own < rows) or not tokens.ids:
        return
    if "eos_token" in tokens.silent and any(tokens.ids.get(text, rows) < rows for text in CLASS_ENDS):
        return
    hint = "name one: eos_token in tokenizer_config.json, or eos_token_id in generation_config.json"
    if text is None and not stated:
        raise ModelNotFound(f"model {name!r}: no token ends a completion: neither file names one", hint)
    found = [*(str(number) for number in stated), *([] if text is None else [f"{text!r} ({own or 'no id'})"])]
    raise ModelNotFound(
        f"model {name!r}: no token ends a completion: of {', '.join(found)} none is within the {known} tokens "
        "that the model can write",
        hint,
    )
