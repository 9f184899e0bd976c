"""YAML files read with the line of every value, and messages that point at it.

Grids are YAML 1.2. Recipes of trl are read as trl reads them, with PyYAML's YAML 1.1.
"""

from __future__ import annotations

import difflib
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml as yaml11
from ruamel.yaml import YAML
from ruamel.yaml.error import ReusedAnchorWarning, YAMLError

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
        duplicates: keys that stand twice in their mapping, of which the last counts.
        plain_text: the unquoted scalars as they are written, by path.
    """

    data: Any
    lines: dict[Path_, int] = field(default_factory=dict)
    file: str | None = None
    duplicates: tuple[Path_, ...] = ()
    plain_text: dict[Path_, str] = field(default_factory=dict)

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


MAX_VALUES = 100_000
"""Values in a file, those that aliases repeat included: without a bound, nine aliases of nine aliases, nine times
over, would be a billion."""

_CONTAINERS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_SCALARS = tuple(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "timestamp"))
_MERGE = "tag:yaml.org,2002:merge"
MAX_BRACKETS = 200
"""Brackets that may be open at one place: both libraries take time that grows with its square."""
_DEEP = "not valid YAML: nested too deeply to be read"


class _Builder:
    """From the nodes of a YAML library, with whose marks and scalars it works, to plain data with lines."""

    def __init__(self, scalar: Callable[[Any], Any], file: str | Path, *, keep_last: bool) -> None:
        self._scalar = scalar
        self._file = file
        self._keep_last = keep_last
        self._sizes: dict[int, int] = {}
        self._merged: dict[int, dict[Any, tuple[Any, Any]]] = {}
        self._open: set[int] = set()
        self._merging: set[int] = set()
        self.lines: dict[Path_, int] = {(): 1}
        self.duplicates: list[Path_] = []
        self.plain_text: dict[Path_, str] = {}

    def build(self, node: Any, path: Path_ = ()) -> Any:
        """The value of a node that stands at `path`."""
        if not path and self._size(node) > MAX_VALUES:
            raise self._error(node, f"more than {MAX_VALUES:,} values, those that aliases repeat included")
        if node.id == "scalar":
            if node.style is None:
                self.plain_text[path] = node.value
            return self._scalar_of(node)
        if node.tag not in _CONTAINERS:
            raise self._error(node, f"the tag {_short_tag(node.tag)} is not read here")
        if id(node) in self._open:
            where, line = dotted(path) or "the file", self.lines.get(path)
            raise SpecError(
                f"{where}: must be a value, not an alias of what it is part of", file=self._file, line=line
            )
        self._open.add(id(node))
        value = self._mapping(node, path) if node.id == "mapping" else self._sequence(node, path)
        self._open.discard(id(node))
        return value

    def _size(self, node: Any) -> int:
        """Values below a node, counted as often as aliases repeat them."""
        if node.id == "scalar":
            return 1
        if id(node) not in self._sizes:
            self._sizes[id(node)] = 1  # where an alias stands for what it is part of, which is refused later
            below = node.value if node.id == "sequence" else [value for _, value in node.value]
            self._sizes[id(node)] = 1 + sum(map(self._size, below))
        return self._sizes[id(node)]

    def _sequence(self, node: Any, path: Path_) -> list[Any]:
        items = []
        for index, item in enumerate(node.value):
            self.lines[(*path, index)] = item.start_mark.line + 1
            items.append(self.build(item, (*path, index)))
        return items

    def _mapping(self, node: Any, path: Path_) -> dict[Any, Any]:
        plain = {}
        for key, (key_node, value_node) in self._entries(node, path).items():
            # Where a mapping is repeated by an alias, its keys stand where it was written.
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            plain[key] = self.build(value_node, (*path, key))
        return plain

    def _entries(self, node: Any, path: Path_ | None) -> dict[Any, tuple[Any, Any]]:
        """Key and value nodes by key; a mapping's own keys win over those merged in, earlier merges over later."""
        if id(node) in self._merged:
            return self._merged[id(node)]
        if id(node) in self._merging:
            raise self._error(node, "a mapping that `<<` merges into itself")
        self._merging.add(id(node))
        own: dict[Any, tuple[Any, Any]] = {}
        merged: dict[Any, tuple[Any, Any]] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                for source in self._sources(value_node):
                    for key, pair in self._entries(source, None).items():
                        merged.setdefault(key, pair)
                continue
            key = self._key(key_node)
            if key in own and not self._keep_last:
                raise self._error(key_node, f'found duplicate key "{key}"')
            if key in own and path is not None:
                self.duplicates.append((*path, key))
            own[key] = (key_node, value_node)
        entries = {**{k: v for k, v in merged.items() if k not in own}, **own}
        self._merging.discard(id(node))
        self._merged[id(node)] = entries
        return entries

    def _sources(self, value: Any) -> list[Any]:
        sources = list(value.value) if value.id == "sequence" else [value]
        for source in sources:
            if source.id != "mapping":
                raise self._error(value, "`<<` must be given a mapping, or a list of mappings")
        return sources

    def _key(self, node: Any) -> Any:
        if node.id != "scalar":
            raise self._error(node, "a key must be a word or a number")
        return self._scalar_of(node)

    def _scalar_of(self, node: Any) -> Any:
        if node.tag not in _SCALARS:
            raise self._error(node, f"the tag {_short_tag(node.tag)} is not read here")
        try:
            return self._scalar(node)
        except (ValueError, KeyError, OverflowError) as error:
            reason = str(error).partition(";")[0]
            raise self._error(node, f"{str(node.value)[:40]!r} cannot be read: {reason}") from None

    def _error(self, node: Any, message: str) -> SpecError:
        return SpecError(f"not valid YAML: {message}", file=self._file, line=node.start_mark.line + 1)


def _short_tag(tag: Any) -> str:
    return str(tag).replace("tag:yaml.org,2002:", "!!")[:60]


def read_yaml(file: str | Path) -> Located:
    """Reads a YAML 1.2 file.

    Raises:
        SpecError: the file is missing, unreadable, not YAML, holds the same key twice in one mapping, or more than
            `MAX_VALUES` values.
    """
    yaml = YAML(typ="safe", pure=True)

    def compose(text: str) -> Any:
        with warnings.catch_warnings():  # an anchor may be given anew in YAML, and ruamel warns of it
            warnings.simplefilter("ignore", ReusedAnchorWarning)
            return yaml.compose(text)

    return _read(file, compose, lambda node: yaml.constructor.construct_object(node), keep_last=False)


def is_finite(value: Any) -> bool:
    """Whether a value is a number that a float can hold: of 10^400 `math.isfinite` would fail."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def read_pyyaml(file: str | Path) -> Located:
    """Reads a file as PyYAML's `safe_load` does, and with it trl: YAML 1.1, and of a key given twice the last.

    Raises:
        SpecError: the file is missing, unreadable, not YAML, or holds more than `MAX_VALUES` values.
    """
    # As trl itself, in pure Python: libyaml's parser words its complaints otherwise.
    loader = yaml11.SafeLoader("")
    return _read(
        file,
        lambda text: yaml11.compose(text, yaml11.SafeLoader),
        lambda node: loader.construct_object(node),
        keep_last=True,
    )


def _read(
    file: str | Path, compose: Callable[[str], Any], scalar: Callable[[Any], Any], *, keep_last: bool
) -> Located:
    text = read_text(file)
    if (line := _too_deep(text)) is not None:
        raise SpecError(_DEEP, file=file, line=line)
    builder = _Builder(scalar, file, keep_last=keep_last)
    try:
        node = compose(text)
        data = None if node is None else builder.build(node)
    except (YAMLError, yaml11.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        context = str(getattr(error, "context", None) or "while")
        if not context.startswith("while"):  # half of a sentence, such as "expected a single document"
            problem = f"{context.partition(';')[0]}, {problem}"
        # The message on a character that no YAML may hold has a position and no line.
        line = mark.line + 1 if mark else 1 + text[: getattr(error, "position", None) or 0].count("\n")
        raise SpecError(f"not valid YAML: {problem}", file=file, line=line) from None
    except ValueError as error:
        raise SpecError(f"not valid YAML: {error}", file=file, line=1) from None
    except RecursionError:
        raise SpecError(_DEEP, file=file, line=1) from None
    return Located(data, builder.lines, str(file), tuple(builder.duplicates), builder.plain_text)


def _too_deep(text: str) -> int | None:
    """The line on which more than `MAX_BRACKETS` brackets are open."""
    depth = 0
    for bracket in re.finditer(r"[\[\]{}]", text):
        depth = depth + 1 if bracket[0] in "[{" else max(0, depth - 1)
        if depth > MAX_BRACKETS:
            return 1 + text.count("\n", 0, bracket.start())
    return None


def read_text(file: str | Path) -> str:
    """A file's text.

    Raises:
        SpecError: it is missing, or cannot be read as UTF-8.
    """
    try:
        return Path(file).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SpecError(
            "no such file", file=file, hint="give the path of a grid, such as ablations/quickstart.yaml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot be read: {error}", file=file) from None


def dotted(path: Path_) -> str:
    """`("data", "sources", 0)` as `data.sources[0]`."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


def nearest(key: str, known: Iterable[str]) -> str:
    """A hint naming the known key nearest to `key`."""
    known = list(known)
    close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
    return f'did you mean "{close[0]}"?' if close else f"known keys: {', '.join(known)}"
