"""The process that loads a model's config and tokenizer for `harness.models.trial`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.limited_process import serve
from harness.models.errors import ModelNotFound


def main(requests: int, replies: int) -> None:
    """Answers requests to load a folder."""
    serve(requests, replies, answer)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Message and hint of what is wrong with the config or tokenizer in a folder; empty where both can be loaded."""
    from harness.models.loading import load_config, load_tokenizer

    name, folder = request["name"], Path(request["folder"])
    try:
        load_config(name, folder)
        load_tokenizer(name, folder)
    except ModelNotFound as error:
        return {"message": error.message, "hint": error.hint}
    return {}
