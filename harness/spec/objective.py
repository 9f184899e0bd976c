"""The GRPO loss of a recipe: the fields that `kernels.grpo_loss.Objective` declares, and no list of its own."""

from __future__ import annotations

import ast
import inspect
import textwrap
import typing
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, create_model, model_validator

from harness.spec.section import Added, PositiveInt, Section
from kernels.grpo_loss.objective import Objective

IN_VERSION_1 = frozenset(
    {"loss", "ratio_level", "aggregation", "max_length", "clip_low", "clip_high", "delta", "cispo_max"}
    | {"sapo_tau_pos", "sapo_tau_neg", "vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"}
    | {"beta", "kl", "kl_ratio", "importance", "importance_cap", "entropy_bonus", "top_entropy_quantile"}
    | {"mask_truncated"}
)
"""Fields that are in the identity of every run, whatever their value. A later one is left out at its default, which
therefore trains as the objective did before the field was there, and stays what it is."""


def _docstrings(cls: type) -> dict[str, str]:
    """The docstring under each field of a class; empty where the source is not at hand."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except OSError:
        return {}
    assert isinstance(body, ast.ClassDef)
    return {
        declared.target.id: inspect.cleandoc(text.value.value)
        for declared, text in zip(body.body, body.body[1:])
        if isinstance(declared, ast.AnnAssign)
        and isinstance(declared.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def fields_of(objective: type[Objective]) -> dict[str, Any]:
    """An objective's fields as `pydantic.create_model` takes them: type, default, description, and when they came."""
    types, described = typing.get_type_hints(objective), _docstrings(objective)
    declared: dict[str, Any] = {}
    for field in fields(objective):
        of_type = types[field.name]
        if field.name not in IN_VERSION_1:
            of_type = Annotated[of_type, Added(before=field.default)]
        declared[field.name] = (of_type, Field(field.default, description=described.get(field.name)))
    return declared


if TYPE_CHECKING:
    # The types are the objective's. That a section is frozen stands in its `model_config`, where mypy does not look.
    class _ObjectiveFields(Section, Objective): ...  # type: ignore[misc]
else:
    _ObjectiveFields = create_model("_ObjectiveFields", __base__=Section, **fields_of(Objective))


class ObjectiveSpec(_ObjectiveFields):  # type: ignore[misc]
    """The GRPO loss variant: the fields of `kernels.grpo_loss.Objective`, which says what each one means."""

    max_length: PositiveInt | None = None
    """L_max of dr_grpo; null for the rollout's `max_completion_tokens`."""

    @model_validator(mode="after")
    def _valid(self) -> ObjectiveSpec:
        # The rules stand in one place, the kernel's own dataclass; the cap is not known here.
        self.objective(cap=self.max_length or 1)
        return self

    def objective(self, *, cap: int) -> Objective:
        """The kernel's objective under a length cap of `cap` tokens."""
        fixed = self.aggregation == "fixed_length" or (self.aggregation == "auto" and self.loss == "dr_grpo")
        return Objective(**{**self.model_dump(), "max_length": self.max_length or (cap if fixed else None)})
