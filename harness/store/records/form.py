"""From a record's declaration to JSON, to a row of a table, and back; what does not fit is refused.

A record is a frozen dataclass of `harness.store.records`. Its fields are the keys on disk, in that order. A key that
is not declared is refused, since nothing of that name would ever be asked for: a newer version of the harness raises
the schema's number when it adds one.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from harness.store.errors import Damaged

R = TypeVar("R")

Number = Annotated[float, Field(strict=True)]
"""A number: neither text nor a truth value is taken for one. NaN and infinities are numbers."""
Count = Annotated[int, Field(strict=True)]
"""A whole number."""
Flag = Annotated[bool, Field(strict=True)]
"""True or false; 0 and 1 are neither."""
Seconds = Number
GiB = Number
Usd = Number
Share = Number
"""A fraction between 0 and 1."""
Tokens = Count

JsonObject = dict[str, Any]
"""A JSON object whose keys are free: another program's format, settings that a user wrote, or a record that has not
been checked against its class."""
TableRow = dict[str, Any]
"""A row of a table, by column: what a frame's cells hold is not known to the type checker."""

_ABSENT = "absent"


class Record:
    """What every record and every part of one has in common: keys that are not declared are refused."""

    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


def absent(default: Any = None) -> Any:
    """A field whose key stays off the disk where it holds `default`; all others are always written."""
    return field(default=default, metadata={_ABSENT: True})


def parse(kind: type[R], data: object, path: Path, line: int | None = None) -> R:
    """A record from JSON data.

    Args:
        kind: its class.
        data: what `json.loads` gave, of the newest schema, without the schema's number.
        path: the file, for the message.
        line: 1-based line of the file, if it has several records.

    Raises:
        Damaged: a key is missing, unknown, or holds something of another type.
    """
    try:
        return cast(R, _adapter(cast(Hashable, kind)).validate_python(data))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the record"
        what = {
            "missing": f"lacks {where}",
            "unexpected_keyword_argument": f"has {where}, which this schema does not know",
        }.get(first["type"], f"{where}: {first['msg']}, got {str(first['input'])[:80]!r}")
        raise Damaged(located(what, line), path) from None


def located(message: str, line: int | None) -> str:
    """The message, with the line that it is about."""
    return message if line is None else f"line {line}: {message}"


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))


@cache
def _layout(kind: Hashable) -> tuple[tuple[str, bool, Any], ...]:
    """Name, whether it may stay off the disk, and default of every field."""
    return tuple((f.name, _ABSENT in f.metadata, f.default) for f in fields(cast(Any, kind)))


def _written(record: Any) -> Iterable[tuple[str, Any]]:
    for name, optional, default in _layout(cast(Hashable, type(record))):
        value = getattr(record, name)
        if not (optional and default is not MISSING and value == default):
            yield name, value


def to_data(value: Any) -> Any:
    """JSON data of a record or a part of one: mappings, lists and plain values."""
    if value is None or isinstance(value, str | float | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_data(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_data(part) for part in value]
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value):
        return {name: to_data(part) for name, part in _written(value)}
    return value


_LEAVES = frozenset({float, int, str, bool, type(None)})


def to_row(record: object) -> TableRow:
    """The record as one row of a table: dotted names, as `Columns` tells them; sequences stay whole."""
    row: TableRow = {}
    _flatten(record, "", row)
    return row


def _flatten(record: Any, prefix: str, row: TableRow) -> None:
    if isinstance(record, Mapping):
        parts: Iterable[tuple[str, Any]] = record.items()
    elif isinstance(record, BaseModel):
        parts = record.model_dump(mode="json").items()
    else:
        parts = _written(record)
    for name, value in parts:
        if type(value) in _LEAVES or isinstance(value, list | tuple):
            row[f"{prefix}{name}"] = value
        else:
            _flatten(value, f"{prefix}{name}.", row)


class Columns(Generic[R]):
    """Names of the columns of a table whose rows are records.

    `Columns(StepRecord).name(lambda r: r.timing.total_seconds)` is `timing.total_seconds`: the type checker and the
    call both refuse a field that is not declared.

    Args:
        kind: the record's class.
    """

    def __init__(self, kind: type[R]) -> None:
        self._kind = kind

    def name(self, ask: Callable[[R], object]) -> str:
        """The column that holds what `ask` asks of a record.

        Raises:
            AttributeError: no such field is declared.
        """
        return str(ask(cast(R, _Path(self._kind, ""))))

    def keys(self, columns: Iterable[object], ask: Callable[[R], Mapping[str, object] | None]) -> list[str]:
        """The keys of the mapping that `ask` asks for, as far as `columns` has them, in their order."""
        prefix = f"{self.name(ask)}."
        own = (str(c).removeprefix(prefix) for c in columns if str(c).startswith(prefix))
        return list(dict.fromkeys(key.split(".")[0] for key in own))


class _Path:
    """Stands for a record and remembers what is asked of it."""

    def __init__(self, kind: Any, name: str) -> None:
        self._kind = kind
        self._name = name

    def __getattr__(self, name: str) -> _Path:
        hints = _hints(self._kind)
        if name not in hints:
            raise AttributeError(f"{getattr(self._kind, '__name__', self._kind)} has no field {name!r}")
        return _Path(hints[name], f"{self._name}.{name}" if self._name else name)

    def __getitem__(self, key: str) -> _Path:
        return _Path(get_args(self._kind)[-1], f"{self._name}.{key}")

    def __str__(self) -> str:
        return self._name


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """Type of every field, without what says that it may be None."""
    if not isinstance(kind, type):
        return {}
    return {name: _core(hint) for name, hint in get_type_hints(kind).items()}


def _core(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        return next(part for part in get_args(hint) if part is not type(None))
    return hint
