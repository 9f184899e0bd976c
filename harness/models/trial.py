"""Whether transformers can load a model's config and tokenizer, found out in another process and remembered."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path

from harness.limited_process import Ended, LimitedProcess, Limits
from harness.models.cache import cache_root
from harness.models.catalog import ModelSource
from harness.models.errors import ModelNotFound

SECONDS = 120.0
"""What importing transformers and loading a tokenizer may take."""


def check_loadable(source: ModelSource) -> None:
    """Loads config and tokenizer as a run would, unless that is known to succeed.

    The embedded model, and one that a package carries and that is converted first, are not looked at.

    Raises:
        ModelNotFound: one of them cannot be loaded.
    """
    if source.kind not in ("folder", "hub") or source.small_files is None:
        return
    known = _known(source)
    if known is not None and known.exists():
        return
    process = LimitedProcess("harness.models.trial_worker:main", [*filter(None, sys.path)], Limits.here())
    try:
        reply = process.ask({"name": source.name, "folder": str(source.small_files)}, SECONDS)
    except Ended as ended:
        raise ModelNotFound(
            f"model {source.name!r}: loading its config and tokenizer {ended}", "download or save it again"
        ) from None
    finally:
        process.end()
    if reply:
        raise ModelNotFound(reply["message"], reply["hint"])
    if known is not None:
        with contextlib.suppress(OSError):  # then it is tried again next time
            known.parent.mkdir(parents=True, exist_ok=True)
            known.touch()


def _known(source: ModelSource) -> Path | None:
    """The file that says that these small files can be loaded by this transformers; None where there is no cache."""
    small = {
        name: digest for name, digest in source.files.items() if not name.endswith((".safetensors", ".bin"))
    }
    text = json.dumps([small, importlib.metadata.version("transformers")], sort_keys=True)
    try:
        return cache_root() / "loadable" / hashlib.sha256(text.encode()).hexdigest()[:24]
    except ModelNotFound:
        return None
