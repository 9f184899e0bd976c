"""What is wrong with a source of questions, said so that a user can mend it."""

from __future__ import annotations

from harness.spec.errors import SpecError


class SourceNotFound(SpecError):
    """A source that isn't there, or doesn't hold what is asked of it.

    Args:
        message: what is wrong, with the offending value.
        hint: how to mend it.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)


class UnusableData(SourceNotFound):
    """A source that is there and cannot be used: it cannot be read, or lacks a column, or holds rows that are
    neither usable nor to be dropped."""
