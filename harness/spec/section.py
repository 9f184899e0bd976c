"""The base of every configuration model, and the field types they share."""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A frozen configuration section: unknown keys and loose type conversions are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def _listed(value: object) -> object:
    # Strict mode admits no list where a tuple is declared, and YAML and JSON know only lists.
    return tuple(value) if isinstance(value, list) else value


Listed = BeforeValidator(_listed)
"""Marks a tuple field that is written as a list: `Annotated[tuple[int, ...], Listed]`."""

MOST = 10**12
"""No count of steps, rows, tokens or seconds is larger; sums and products of such counts fit a float."""
LARGEST_SEED = 2**63 - 1
PositiveInt = Annotated[int, Field(ge=1, le=MOST)]
NonNegativeInt = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Runtime:
    """Marks a field that changes speed, memory or names, not the experiment: `Annotated[int, Runtime]`.

    Every field without this mark is part of the identity of a run, or of an evaluation.
    """


@dataclass(frozen=True)
class Added:
    """Marks an identity field that came after version 1 of the identity: `Annotated[int | None, Added(before=None)]`.

    Attributes:
        before: the value that does what was done before the field was there. At that value the field is left out of
            the identity, so that runs made before it keep theirs.
    """

    before: object


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field of this type may hold, also as members of a union or elements of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Annotated, typing.Union, types.UnionType, tuple, list, dict):
        return [m for part in typing.get_args(annotation) for m in sections_in(part)]
    return []
