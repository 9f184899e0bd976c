"""Which failures of a run are the same one, and which would come again."""

from __future__ import annotations

import re

from harness.rewards.calls import place_of
from harness.rewards.errors import RewardFailed
from harness.spec.errors import SpecError

_MISTAKES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""Exceptions of code that is wrong: a run that draws the same numbers meets them again."""

_ENVIRONMENT = (OSError, MemoryError)
"""Exceptions of the machine: of any number of runs at once they say nothing about the runs."""


def is_deterministic(error: BaseException) -> bool:
    """Whether another attempt would meet the same failure."""
    if isinstance(error, SpecError):
        return True
    cause = _cause(error)
    return isinstance(cause, _MISTAKES) and not isinstance(cause, _ENVIRONMENT)


def kind_of(error: BaseException) -> str | None:
    """What is the same of two failures: class and place, or class and message; None of the machine's failures."""
    cause = _cause(error)
    if isinstance(cause, _ENVIRONMENT) or not isinstance(cause, Exception):
        return None
    if isinstance(error, RewardFailed):
        return f"{type(cause).__name__} {error.kind}"
    words = (str(error).strip() or "-").splitlines()[0]
    message = re.sub(r"\d+", "#", words)[:200]
    return f"{type(error).__name__} {place_of(error) or message}"


def _cause(error: BaseException) -> BaseException:
    """What a reward raised; of everything else, the failure itself."""
    return error.__cause__ if isinstance(error, RewardFailed) and error.__cause__ is not None else error
