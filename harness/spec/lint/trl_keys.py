"""The settings that trl's GRPO recipes admit, with their types and defaults, by trl version.

A snapshot of several versions is shipped; the version that is installed is read from its own source.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

SNAPSHOT = Path(__file__).with_name("trl_keys.json")
"""Settings by trl version (with the transformers of its time), and the keys that programs built on trl add."""

_INSTALLED = (
    ("transformers", "training_args.py"),
    ("trl", "trainer/base_config.py"),
    ("trl", "trainer/grpo_config.py"),
    ("trl", "trainer/model_config.py"),
    ("trl", "scripts/utils.py"),
    ("trl", "scripts/grpo.py"),
)
"""Files of the settings' classes, bases before what inherits from them: the last default counts."""
_OPTIONAL_FILES = frozenset({"trainer/base_config.py"})
"""Files that older versions do not have."""
_SCALARS = ("int", "float", "bool", "str", "list", "dict")


@dataclass(frozen=True)
class Setting:
    """A setting as trl declares it.

    Attributes:
        kinds: its types: of `int`, `float`, `bool`, `str`, `list`, `dict`.
        optional: whether None is among them.
        default: its default; None also where it is computed.
    """

    kinds: tuple[str, ...]
    optional: bool
    default: Any

    @classmethod
    def from_json(cls, row: list[Any]) -> Setting:
        """From `["int|none", 8]`."""
        kinds = row[0].split("|")
        return cls(tuple(k for k in kinds if k != "none"), "none" in kinds, row[1])

    def to_json(self) -> list[Any]:
        """`["int|none", 8]`."""
        return ["|".join([*self.kinds, *(["none"] if self.optional else [])]), self.default]


@lru_cache(maxsize=1)
def known() -> dict[str, dict[str, Setting]]:
    """Settings by trl version, oldest first; the installed one, if there is one, read from its source."""
    versions = shipped()
    installed = installed_settings()
    if installed is not None:
        versions[installed[0]] = installed[1]
    return dict(sorted(versions.items(), key=lambda item: release(item[0])))


def shipped() -> dict[str, dict[str, Setting]]:
    """Settings by trl version as the snapshot has them: of each key, the versions at which something changed."""
    snapshot = _snapshot()
    versions: dict[str, dict[str, Setting]] = {}
    current: dict[str, Setting] = {}
    for version in snapshot["versions"]:
        for key, history in snapshot["keys"].items():
            if version in history:
                current.pop(key, None)
                if history[version] is not None:
                    current[key] = Setting.from_json(history[version])
        versions[version] = dict(current)
    return versions


def settings(version: str) -> dict[str, Setting]:
    """Settings of a version; of the newest known one before it where it is not known, else of the oldest."""
    own = release(version)
    older = [v for v in known() if release(v) <= own]
    return known()[older[-1] if older else next(iter(known()))]


def release(version: str) -> tuple[int, int, int]:
    """A version's numbers; a development version comes before the release that it is named after."""
    # Digits of any length: more than a thousand of them would make Python refuse the conversion.
    numbers = [int(n[:9]) for n in re.findall(r"[0-9]+", version)[:3]]
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return (major, minor, patch - 1) if "dev" in version else (major, minor, patch)


def span(key: str) -> str:
    """The known versions that have a key, as `0.14.0` or `0.14.0 to 0.24.0`; empty if none has."""
    having = [version for version, keys in known().items() if key in keys]
    return "" if not having else having[0] if len(having) == 1 else f"{having[0]} to {having[-1]}"


def of_program(name: str) -> frozenset[str]:
    """Keys that a program built on trl adds, such as `open-r1`."""
    return frozenset(_snapshot()["programs"].get(name, ()))


@lru_cache(maxsize=1)
def _snapshot() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    return data


def installed_settings() -> tuple[str, dict[str, Setting]] | None:
    """Version and settings of the trl that is installed, from its files: importing it would take torch."""
    found: dict[str, Setting] = {}
    for package, file in _INSTALLED:
        spec = importlib.util.find_spec(package)
        folders = list((spec.submodule_search_locations or []) if spec else [])
        paths = [Path(folder) / file for folder in folders if (Path(folder) / file).is_file()]
        if paths:
            found |= settings_in(paths[0].read_text(encoding="utf-8"), _wanted(file))
        elif file not in _OPTIONAL_FILES:
            return None
    return importlib.metadata.version("trl"), found


def settings_of_folders(trl: Path, transformers: Path) -> dict[str, Setting]:
    """Settings of an unpacked trl and transformers, for the snapshot.

    Args:
        trl: the package's folder.
        transformers: the package's folder.
    """
    found: dict[str, Setting] = {}
    for package, file in _INSTALLED:
        path = (trl if package == "trl" else transformers) / file
        if path.is_file() or file not in _OPTIONAL_FILES:
            found |= settings_in(path.read_text(encoding="utf-8"), _wanted(file))
    return found


def _wanted(file: str) -> str:
    return "ScriptArguments" if file == "scripts/utils.py" else ""


def settings_in(source: str, only: str = "") -> dict[str, Setting]:
    """Public annotated fields of the classes of a Python file.

    Args:
        source: its text.
        only: name of the one class to read; empty for all of them.
    """
    return {
        statement.target.id: Setting(*_kinds(ast.unparse(statement.annotation)), _default(statement.value))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and only in ("", node.name)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and not statement.target.id.startswith("_")
        and "ClassVar" not in ast.unparse(statement.annotation)
    }


def _kinds(annotation: str) -> tuple[tuple[str, ...], bool]:
    """Types in an annotation, whatever a list or mapping holds; an enumeration is written as text."""
    outer = re.sub(r"\b(list|dict|List|Dict)\[[^\[\]]*(\[[^\[\]]*\][^\[\]]*)*\]", r"\1", annotation)
    words = [word.lower() for word in re.findall(r"\w+", outer)]
    kinds = dict.fromkeys(
        word if word in _SCALARS else "str" for word in words if word not in ("optional", "union", "none")
    )
    return tuple(kinds) or ("str",), "none" in words or "optional" in words


def _default(value: ast.expr | None) -> Any:
    if isinstance(value, ast.Call):
        value = next((k.value for k in value.keywords if k.arg == "default"), None)
    try:
        return None if value is None else ast.literal_eval(value)
    except ValueError:
        return None
