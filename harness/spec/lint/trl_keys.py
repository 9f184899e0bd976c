"""The keys that trl's GRPO recipes admit: a snapshot by version, and what an installed trl says itself."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
from functools import lru_cache
from pathlib import Path

SNAPSHOT = Path(__file__).with_name("trl_keys.json")
"""Keys by trl version (with the transformers of its time), and the keys that programs built on trl add."""

_INSTALLED = (
    ("trl", "trainer/base_config.py"),
    ("trl", "trainer/grpo_config.py"),
    ("trl", "trainer/model_config.py"),
    ("trl", "scripts/utils.py"),
    ("trl", "scripts/grpo.py"),
    ("transformers", "training_args.py"),
)


@lru_cache(maxsize=1)
def known() -> dict[str, frozenset[str]]:
    """Keys by trl version, oldest first; the installed one, if there is one, read from its source."""
    versions = {version: frozenset(keys) for version, keys in _snapshot()["trl"].items()}
    installed = installed_keys()
    if installed is not None:
        versions[installed[0]] = installed[1]
    return versions


def of_program(name: str) -> frozenset[str]:
    """Keys that a program built on trl adds, such as `open-r1`."""
    return frozenset(_snapshot()["programs"].get(name, ()))


def programs() -> list[str]:
    """Programs whose keys are known."""
    return list(_snapshot()["programs"])


@lru_cache(maxsize=1)
def _snapshot() -> dict[str, dict[str, list[str]]]:
    data: dict[str, dict[str, list[str]]] = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    return data


def installed_keys() -> tuple[str, frozenset[str]] | None:
    """Version and keys of the trl that is installed, from its files: importing it would take torch."""
    keys: set[str] = set()
    for package, file in _INSTALLED:
        found = importlib.util.find_spec(package)
        folders = list((found.submodule_search_locations or []) if found else [])
        paths = [Path(folder) / file for folder in folders if (Path(folder) / file).is_file()]
        if not paths:
            return None
        wanted = "ScriptArguments" if file == "scripts/utils.py" else ""
        keys |= fields_of(paths[0].read_text(encoding="utf-8"), wanted)
    return importlib.metadata.version("trl"), frozenset(keys)


def fields_of(source: str, only: str = "") -> set[str]:
    """Public annotated fields of the classes of a Python file.

    Args:
        source: its text.
        only: name of the one class to read; empty for all of them.
    """
    return {
        statement.target.id
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and only in ("", node.name)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and not statement.target.id.startswith("_")
        and "ClassVar" not in ast.unparse(statement.annotation)
    }
