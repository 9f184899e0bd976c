"""Errors for which there is no verdict, each with its exit code."""

from __future__ import annotations


class GateError(Exception):
    """There is no verdict.

    Args:
        message: what is wrong.
        hint: how to mend it.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = message, hint
        super().__init__(message + (f"\n  {hint}" if hint else ""))


class MissingBaseline(GateError):
    """The baseline does not exist or cannot be read. Exit code 2, as for all wrong input."""


class OtherDevice(GateError):
    """The two revisions were measured on different devices."""

    exit_code = 5


class CandidateFailed(GateError):
    """The candidate fails, or computes wrong results."""

    exit_code = 6
