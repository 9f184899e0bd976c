"""What is wrong with a model, said so that a user can mend it."""

from __future__ import annotations

from harness.spec.errors import SpecError


class ModelNotFound(SpecError):
    """A model that isn't there, or that the harness cannot train.

    Args:
        message: what is wrong, with the offending name.
        hint: how to mend it.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
