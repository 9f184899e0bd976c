"""How the gate can fail to answer, each with its own exit code."""

from __future__ import annotations


class GateError(Exception):
    """No answer.

    Args:
        message: what is wrong.
        hint: how to mend it.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = message, hint
        super().__init__(message + (f"\n  {hint}" if hint else ""))


class MissingBaseline(GateError):
    """There is nothing to compare with: exit code 2, as for all wrong input."""


class OtherDevice(GateError):
    """The figures come from different devices."""

    exit_code = 5


class CandidateFailed(GateError):
    """The candidate does not run, or computes something wrong."""

    exit_code = 6
