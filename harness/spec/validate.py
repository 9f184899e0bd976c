"""From data with line numbers to validated sections, and from pydantic's complaints to messages that point."""

from __future__ import annotations

import typing
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from harness.spec.errors import SpecError
from harness.spec.section import Section, sections_in
from harness.spec.source import Located, Path_, dotted, nearest

S = TypeVar("S", bound=Section)

TAGS = ("source", "stage")
"""Fields that say which member of a union a mapping is."""

MOST_SHOWN = 80
"""Characters of a wrong value that a message quotes."""
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def validated(model: type[S], located: Located, prefix: Path_ = ()) -> S:
    """Validates the value at `prefix` of `located` as `model`.

    Raises:
        SpecError: with file, line, dotted path, the rule and the value, and how to mend it.
    """
    data = located.data
    for key in prefix:
        data = data[key]
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _spec_error(model, data, error, located, prefix) from None


def check_partial(model: type[Section], located: Located, prefix: Path_ = ()) -> None:
    """Like `validated`, for data that others will complete: only what is there is checked.

    Raises:
        SpecError: something that is there is wrong.
    """
    data = located.data
    for key in prefix:
        data = data[key]
    try:
        model.model_validate(data)
    except ValidationError as error:
        if any(e["type"] != "missing" for e in error.errors()):
            raise _spec_error(model, data, error, located, prefix) from None


def _spec_error(
    model: type[Section], data: Any, error: ValidationError, located: Located, prefix: Path_
) -> SpecError:
    # An unknown key explains the missing one beside it, so it is reported first, and what is missing last.
    order = {"extra_forbidden": 0, "missing": 2}
    first = min(error.errors(), key=lambda e: order.get(e["type"], 1))
    path, owner = _locate(model, data, first["loc"])
    full = (*prefix, *path)
    value = first.get("input")
    name = dotted(full)
    match first["type"]:
        case "extra_forbidden":
            hint = nearest(str(path[-1]), known_keys(owner))
            return located.error(full, f"{name}: unknown key", hint)
        case "missing":
            return located.error(full[:-1], f"{name}: missing", f"add `{full[-1]}:`")
        case "literal_error" | "union_tag_invalid":
            expected = str(first["ctx"].get("expected") or first["ctx"].get("expected_tags"))
            allowed = [part.strip("' ") for part in expected.replace(" or ", ", ").split(",")]
            got = next((value[t] for t in TAGS if t in value), None) if isinstance(value, dict) else value
            return located.error(
                full, f"{name}: {got!r} is not one of {', '.join(allowed)}", _close(got, allowed)
            )
        case "union_tag_not_found":
            tag, example = ("stage", "answers") if "'stage'" in str(first["ctx"]) else ("source", "sums")
            return located.error(
                full, f"{name}: missing `{tag}`", f"say which kind of {tag} it is, such as `{tag}: {example}`"
            )
        case kind if kind in _EXPECTED:
            shown = "nothing" if value is None else repr(value)
            return located.error(full, f"{name}: must be {_EXPECTED[kind]}, got {shown}")
        case "too_short":
            return located.error(
                full, f"{name}: must have at least {first['ctx']['min_length']} entry, got none"
            )
        case "value_error":
            return located.error(
                full, f"{name}: {first['ctx']['error']}" if name else str(first["ctx"]["error"])
            )
        case _:
            message = first["msg"][0].lower() + first["msg"][1:]
            shown = repr(value)
            shown = shown if len(shown) <= MOST_SHOWN else f"{shown[:MOST_SHOWN]}…"
            return located.error(full, f"{name}: {message}, got {shown}")


def _close(value: object, allowed: list[str]) -> str | None:
    hint = nearest(str(value), allowed)
    return hint if hint.startswith("did you mean") else None


def known_keys(model: type[BaseModel]) -> list[str]:
    """The keys that a section admits."""
    return list(model.model_fields)


def _locate(model: type[BaseModel], data: Any, loc: tuple[str | int, ...]) -> tuple[Path_, type[BaseModel]]:
    """The path in the data that pydantic's `loc` means, and the section that holds its last key.

    `loc` also names the tag of the union member that was tried, which is no key of the data.
    """
    path: list[str | int] = []
    owner, candidates = model, [model]
    for key in loc:
        tagged = [m for m in candidates if key in _tags(m)]
        if tagged and isinstance(data, dict) and key in [data.get(t) for t in TAGS]:
            candidates = tagged
            continue
        path.append(key)
        if isinstance(key, str) and candidates:
            owner = next((m for m in candidates if key in m.model_fields), candidates[0])
            field = owner.model_fields.get(key)
            candidates = sections_in(field.annotation) if field else []
        data = data[key] if (isinstance(data, dict) and key in data) or _indexes(data, key) else None
    return tuple(path), owner


def _indexes(data: Any, key: str | int) -> bool:
    return isinstance(data, list | tuple) and isinstance(key, int) and key < len(data)


def _tags(model: type[BaseModel]) -> list[str]:
    """What tells the model apart in a union, by either tag."""
    fields = [model.model_fields[t] for t in TAGS if t in model.model_fields]
    args = [typing.get_args(field.annotation) for field in fields]
    return [a[0] for a in args if len(a) == 1]
