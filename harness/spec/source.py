"""YAML 1.2 files read with the line of every value, and messages that point at it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from harness.spec.errors import SpecError

Path_ = tuple[str | int, ...]
"""Keys from the top of the document down to a value."""


@dataclass(frozen=True)
class Located:
    """Plain data and the 1-based line on which each value's key stands.

    Attributes:
        data: nested dicts, lists and scalars.
        lines: line by path; a path without an entry takes its nearest ancestor's.
        file: the file it was read from.
    """

    data: Any
    lines: dict[Path_, int] = field(default_factory=dict)
    file: str | None = None

    def line(self, path: Path_) -> int | None:
        """The line of `path`, or of its nearest known ancestor."""
        for length in range(len(path), -1, -1):
            if (line := self.lines.get(path[:length])) is not None:
                return line
        return None

    def error(self, path: Path_, message: str, hint: str | None = None) -> SpecError:
        """A `SpecError` at `path`."""
        return SpecError(message, file=self.file, line=self.line(path), hint=hint)

    def at(self, *path: str | int) -> Located:
        """The part below `path`."""
        data = self.data
        for key in path:
            data = data[key]
        below = {p[len(path) :]: line for p, line in self.lines.items() if p[: len(path)] == path}
        return Located(data, below, self.file)

    def merged(self, patch: Located) -> Located:
        """This data with `patch` merged in: mappings merge, anything else is replaced."""
        lines = dict(self.lines)
        data = _merge(self.data, patch.data, (), lines, patch.lines)
        return Located(data, lines, self.file)


def _merge(
    base: Any, patch: Any, path: Path_, lines: dict[Path_, int], patch_lines: Mapping[Path_, int]
) -> Any:
    if isinstance(base, dict) and isinstance(patch, dict):
        merged = dict(base)
        for key, value in patch.items():
            merged[key] = _merge(base.get(key), value, (*path, key), lines, patch_lines)
        return merged
    for stale in [p for p in lines if p[: len(path)] == path]:
        del lines[stale]
    lines.update({p: line for p, line in patch_lines.items() if p[: len(path)] == path})
    return patch


def _plain(node: Any, path: Path_, lines: dict[Path_, int]) -> Any:
    if isinstance(node, CommentedMap):
        plain = {}
        for key, value in node.items():
            lines[(*path, key)] = node.lc.key(key)[0] + 1 if key in node.lc.data else node.lc.line + 1
            plain[key] = _plain(value, (*path, key), lines)
        return plain
    if isinstance(node, CommentedSeq):
        for index in range(len(node)):
            lines[(*path, index)] = node.lc.item(index)[0] + 1
        return [_plain(value, (*path, index), lines) for index, value in enumerate(node)]
    # ruamel's scalars carry formatting; configuration wants plain Python values.
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def read_yaml(file: str | Path) -> Located:
    """Reads a YAML 1.2 file.

    Raises:
        SpecError: the file is missing, unreadable, not YAML, or holds the same key twice in one mapping.
    """
    try:
        text = Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(
            "no such file", file=file, hint="give the path of a grid, such as ablations/quickstart.yaml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot be read: {error}", file=file) from None
    try:
        node = YAML(typ="rt", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        # A character that no YAML may hold is told by its position alone.
        line = mark.line + 1 if mark else 1 + text[: getattr(error, "position", 0)].count("\n")
        raise SpecError(f"not valid YAML: {problem}", file=file, line=line) from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"not valid YAML: {error}", file=file) from None
    lines: dict[Path_, int] = {(): 1}
    try:
        return Located(_plain(node, (), lines), lines, str(file))
    except RecursionError:
        raise SpecError("not a tree: an alias stands for what it is part of", file=file, line=1) from None


def nearest(key: str, known: Iterable[str]) -> str:
    """A hint naming the known key nearest to `key`."""
    known = list(known)
    close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
    return f'did you mean "{close[0]}"?' if close else f"known keys: {', '.join(known)}"
