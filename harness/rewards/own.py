"""Rewards of the user's own, called outside of this process: plans and linters ask them without being at their mercy.

A reward may end the process, never return, or take all memory. `OwnRewards` therefore has a process of its own import
and call them, under limits, and ends everything that this process has started.
"""

from __future__ import annotations

import contextlib
import os
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness.limited_process import Ended, LimitedProcess, Limits
from harness.rewards.code import search_path
from harness.rewards.errors import RewardFailed, UnknownReward
from harness.rewards.types import RewardContext, RewardInput
from harness.spec.recipe import RewardFunctionSpec

SECONDS_VARIABLE = "HARNESS_REWARD_SECONDS"
"""Environment variable: seconds that a call of an own reward may take when it is tried."""

IMPORT_SECONDS, CALL_SECONDS = 60.0, 20.0
"""What importing a reward's module may take, which may import torch, and a call."""


class ColumnsWanted(Exception):
    """A reward looks at columns of the data, and the completions that it is asked about come from no data."""


class NoColumns(Mapping[str, Any]):
    """Columns that nobody can look at without saying so."""

    def __getitem__(self, name: str) -> Any:
        raise ColumnsWanted(name)

    def __iter__(self) -> Iterator[str]:
        raise ColumnsWanted

    def __len__(self) -> int:
        raise ColumnsWanted


class OwnRewards:
    """The user's own rewards, each in one process under limits; a context manager that ends it.

    Args:
        limits: what the process may take; those of this machine unless given.
        call_seconds: what a call may take; `SECONDS_VARIABLE` unless given.
    """

    def __init__(self, limits: Limits | None = None, call_seconds: float | None = None) -> None:
        self._limits = limits
        self._call_seconds = _call_seconds() if call_seconds is None else call_seconds
        self._process: LimitedProcess | None = None
        self._imported: set[str] = set()

    def __enter__(self) -> OwnRewards:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process and what it has started; a later call starts it anew."""
        if self._process is not None:
            self._process.end()
        self._process = None
        self._imported.clear()

    def resolve(self, spec: RewardFunctionSpec) -> Callable[..., list[float]]:
        """A function that has the process call the reward.

        Raises:
            UnknownReward: its module is not there, it is not in it, or it does not take the recipe's parameters.
            RewardFailed: importing its module fails, ends the process, or takes more than its limits.
        """
        self._import(spec)

        def call(batch: Sequence[RewardInput], context: RewardContext, /, **_: object) -> list[float]:
            self._import(spec)  # anew, where an earlier reward ended the process
            rows = [
                {
                    **asdict(item),
                    "columns": None if isinstance(item.columns, NoColumns) else dict(item.columns),
                }
                for item in batch
            ]
            request = {
                "call": spec.model_dump(),
                "batch": rows,
                "checks": [asdict(c) for c in context.checks],
            }
            what = f"on {len(batch)} completions"
            reply = self._ask(spec.name, request, self._call_seconds, what, batch)
            if context.checker is not None and reply["asked"]:
                context.checker.check_many([(text, gold) for text, gold in reply["asked"]])
            values: list[float] = reply["values"]
            return values

        return call

    def _import(self, spec: RewardFunctionSpec) -> None:
        key = spec.model_dump_json()
        if self._process is None or key not in self._imported:
            self._ask(spec.name, {"import": spec.model_dump()}, IMPORT_SECONDS, "to import its module")
            self._imported.add(key)

    def _ask(
        self,
        name: str,
        request: Mapping[str, Any],
        seconds: float,
        what: str,
        batch: Sequence[RewardInput] = (),
    ) -> dict[str, Any]:
        if self._process is None:
            limits = self._limits or Limits.here()
            self._process = LimitedProcess("harness.rewards.own_worker:main", search_path(), limits)
        try:
            reply = self._process.ask(request, seconds)
        except Ended as ended:
            self.close()
            first = batch[0] if batch else None
            hint = f" ({SECONDS_VARIABLE} sets another limit)" if batch and "return" in str(ended) else ""
            raise RewardFailed(
                name,
                f"{ended} {what}{hint}",
                question=None if first is None else first.question,
                completion=None if first is None else first.text,
            ) from None
        except BaseException:
            self.close()
            raise
        if (unknown := reply.get("unknown")) is not None:
            raise UnknownReward(unknown["message"], unknown["hint"])
        if reply.get("columns_wanted"):
            raise ColumnsWanted
        if (failed := reply.get("failed")) is not None:
            raise RewardFailed(**failed)
        return reply


def _call_seconds() -> float:
    with contextlib.suppress(ValueError):
        return float(os.environ.get(SECONDS_VARIABLE, ""))
    return CALL_SECONDS
