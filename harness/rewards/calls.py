"""Calling a reward function: what it may return, and on which completion it failed."""

from __future__ import annotations

import math
import numbers
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.rewards.errors import RewardFailed
from harness.rewards.types import RewardContext, RewardInput


def call_reward(
    name: str,
    function: Callable[..., Any],
    batch: Sequence[RewardInput],
    context: RewardContext,
    params: Mapping[str, Any],
) -> list[float]:
    """The values of a reward, one finite number a completion.

    Raises:
        RewardFailed: it raised an exception, or gave something else.
    """
    try:
        given = function(batch, context, **params)
    except RewardFailed:  # it was called in a process of its own, and has been named there
        raise
    except Exception as error:
        raise _failed(name, function, batch, context, params, error) from error
    return checked_values(name, given, batch)


def checked_values(name: str, given: object, batch: Sequence[RewardInput]) -> list[float]:
    """What a reward gave, as a list of floats; booleans and numpy's numbers are numbers, text is none.

    Raises:
        RewardFailed: it is no list of a finite number for every completion.
    """
    if isinstance(given, str | bytes | Mapping) or not hasattr(given, "__iter__") or _is_scalar(given):
        what = f"gave {_kind(given)} in place of a list with a number for each of {len(batch)} completions"
        raise RewardFailed(name, what)
    values = list(given)
    if len(values) != len(batch):
        raise RewardFailed(name, f"gave {len(values)} values for {len(batch)} completions")
    numbers_ = []
    for value, item in zip(values, batch, strict=True):
        number = _number(value)
        if number is None or not math.isfinite(number):
            what = (
                f"gave {_kind(value)}, no number" if number is None else f"gave {number}, which is not finite"
            )
            raise RewardFailed(name, what, question=item.question, completion=item.text)
        numbers_.append(number)
    return numbers_


def _number(value: object) -> float | None:
    """A Python or numpy number as a float; None for everything else, torch's tensors among it."""
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    return float(value) if isinstance(value, numbers.Real) else None


def _is_scalar(value: object) -> bool:
    """Whether it is a numpy or torch scalar, which has `__iter__` and cannot be iterated over."""
    return getattr(value, "ndim", None) == 0


def _kind(value: object) -> str:
    """A value in words: `None`, `'0.5' (str)`, `a tensor (call .tolist())`."""
    if value is None:
        return "None"
    if type(value).__module__.partition(".")[0] == "torch":
        return "a torch tensor (`.tolist()` makes numbers of it)"
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:39] + '…'} ({type(value).__name__})"


def _failed(
    name: str,
    function: Callable[..., Any],
    batch: Sequence[RewardInput],
    context: RewardContext,
    params: Mapping[str, Any],
    error: Exception,
) -> RewardFailed:
    row = _failing_row(function, batch, context, params, error)
    item = None if row is None else batch[row]
    return RewardFailed(
        name,
        f"raised {said(error)}" + (f" on a batch of {len(batch)} completions" if item is None else ""),
        place=place_of(error),
        question=None if item is None else item.question,
        completion=None if item is None else item.text,
    )


def said(error: BaseException) -> str:
    """An exception's class and its first line."""
    words = str(error).strip().splitlines()
    return f"{type(error).__name__}: {words[0][:200]}" if words else type(error).__name__


def place_of(error: BaseException) -> str:
    """Where an exception was raised, `rewards.py:12, in count`, by the last frame outside of this module."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}, in {frames[-1].name}" if frames else ""


def _row_at_hand(trace: types.TracebackType | None, batch: Sequence[RewardInput]) -> int | None:
    """The completion that the innermost frame with just one of them in its variables was looking at."""
    rows = {id(item): row for row, item in enumerate(batch)}
    found = None
    while trace is not None:
        here = {rows[id(value)] for value in trace.tb_frame.f_locals.values() if id(value) in rows}
        found = here.pop() if len(here) == 1 else found
        trace = trace.tb_next
    return found


def _failing_row(
    function: Callable[..., Any],
    batch: Sequence[RewardInput],
    context: RewardContext,
    params: Mapping[str, Any],
    error: Exception,
) -> int | None:
    """The first completion on which the function raises such an exception by itself, tried first on the one that it
    had at hand; None where it takes several."""
    at_hand = _row_at_hand(error.__traceback__, batch)
    for row in [*([] if at_hand is None else [at_hand]), *range(len(batch))]:
        alone = RewardContext(checks=context.checks[row : row + 1], checker=context.checker)
        try:
            function([batch[row]], alone, **params)
        except type(error):
            return row
        except Exception:  # of one alone it says something else: that is not what is looked for
            continue
    return at_hand
