"""Text that may be shown: no control characters, no secrets."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""All but tab and newline, and the marks that turn the direction of writing."""

_SECRET_NAME = re.compile(
    r"(TOKEN|SECRET|PASSW(OR)?D|CREDENTIALS?|(API|ACCESS|PRIVATE|AUTH)_?KEY)S?$|_KEY$", re.IGNORECASE
)
_FEWEST_CHARACTERS = 8
"""A shorter value occurs in innocent text: replacing it would spoil that and protect nothing."""


def visible(text: str) -> str:
    r"""The text with control characters as escapes, such as `\x1b`, so that no terminal or page obeys them."""
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def secrets(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Values that must not be shown, each with the name that stands in for it.

    They are those of environment variables whose names end like a secret's (`…TOKEN`, `…SECRET`, `…PASSWORD`,
    `…API_KEY`), and the token that `hf auth login` stored. Short values, words in lower case, numbers and paths of
    files are none.

    Args:
        environment: the process's own unless given.
    """
    variables = os.environ if environment is None else environment
    found = {value: name for name, value in variables.items() if _SECRET_NAME.search(name)}
    home = Path(variables.get("HF_HOME") or Path("~/.cache/huggingface").expanduser())
    stored = Path(variables.get("HF_TOKEN_PATH") or home / "token")
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found.setdefault(stored.read_text().strip(), "HF_TOKEN")
    return {value: name for value, name in found.items() if _is_secret(value)}


def _is_secret(value: str) -> bool:
    if len(value) < _FEWEST_CHARACTERS or re.fullmatch(r"[a-z]+|[0-9.]+", value):
        return False
    return not os.path.exists(value)


def redacted(text: str) -> str:
    """The text with every secret of this process's environment replaced by its name in angle brackets."""
    for value, name in sorted(secrets().items(), key=lambda item: -len(item[0])):
        text = text.replace(value, f"<{name}>")
    return text


def redact_file(path: Path) -> None:
    """Replaces secrets in a log, in place: whoever appends to it goes on doing so."""
    known = sorted(secrets().items(), key=lambda item: -len(item[0]))
    if not known or not path.exists():
        return
    before = content = path.read_bytes()
    for value, name in known:
        content = content.replace(value.encode(), f"<{name}>".encode())
    if content != before:
        with path.open("r+b") as file:
            file.write(content)
            file.truncate()
