"""The parameters that a recipe gives to a reward, against the signature of its function."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable
from typing import Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from harness.rewards.errors import UnknownReward
from harness.spec.recipe import RewardFunctionSpec
from harness.spec.source import nearest


def check_params(spec: RewardFunctionSpec, function: Callable[..., list[float]]) -> None:
    """Whether the function takes a batch, its context and the recipe's parameters.

    Raises:
        UnknownReward: it doesn't, a parameter is missing, or a value does not fit its annotation.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in C: a call will tell
        return
    parameters = list(signature.parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) < 2 and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise UnknownReward(
            f"reward {spec.name!r} takes {signature}, not a batch of completions and its context",
            "a reward is a function (batch, context, **params) that returns a number for each item of the batch",
        )
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = {p.name: p for p in parameters[2:]}
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception:  # an annotation that cannot be evaluated says nothing of values
        hints = {}
    for name, value in spec.params.items():
        if name not in known:
            hint = nearest(name, known) if known else "it takes no parameters"
            raise UnknownReward(f"reward {spec.name!r} has no parameter {name!r}", hint)
        if name in hints and (wrong := _misfit(hints[name], value)):
            raise UnknownReward(f"reward {spec.name!r}: `{name}` {wrong}, got {value!r}")
    missing = [n for n, p in known.items() if p.default is p.empty and n not in spec.params]
    if missing:
        raise UnknownReward(
            f"reward {spec.name!r} needs the parameter {missing[0]!r}", f"add `params: {{{missing[0]}: …}}`"
        )


def _misfit(annotation: Any, value: object) -> str:
    """What a value must be and is not, in words; empty where it fits or the annotation says nothing of data."""
    try:
        adapter = TypeAdapter[object](annotation)
    except (PydanticUserError, NameError):  # a class of the user's own, of which no YAML value is an instance
        return ""
    try:
        try:
            # As JSON: a list fits a tuple or a set, and still no text fits a number and no boolean an integer.
            text = json.dumps(value, ensure_ascii=False)
            adapter.validate_json(text.encode("utf-8", "replace"), strict=True)
        except TypeError:  # a date
            adapter.validate_python(value)
    except ValidationError as error:
        rules = dict.fromkeys(found["msg"].removeprefix("Input should be ") for found in error.errors())
        return f"must be {' or '.join(rules)}"
    return ""
