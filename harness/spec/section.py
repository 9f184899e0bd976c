"""The base of every configuration model, and the field types they share."""

from __future__ import annotations

from typing import Annotated

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

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
