"""The process that imports and calls rewards of the user's own for `harness.rewards.own`, one JSON line a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.limited_process import serve
from harness.rewards.boxed import final_answer
from harness.rewards.calls import call_reward, place_of, said
from harness.rewards.composite import resolved
from harness.rewards.errors import RewardFailed, UnknownReward
from harness.rewards.own import ColumnsWanted, NoColumns
from harness.rewards.types import Check, RewardContext, RewardInput
from harness.spec.recipe import RewardFunctionSpec


class _TextChecker:
    """Compares answers as text, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def check_many(self, pairs: Sequence[tuple[str, str]]) -> list[Check]:
        self.asked += pairs
        answers = [final_answer(text) for text, _ in pairs]
        return [
            Check(answer == gold, answer, answer is not None, "" if answer == gold else "wrong")
            for answer, (_, gold) in zip(answers, pairs, strict=True)
        ]


def main(requests: int, replies: int) -> None:
    """Answers requests for imports and calls."""
    serve(requests, replies, _answer)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    spec = RewardFunctionSpec.model_validate(request.get("import") or request["call"])
    try:
        function = _function(spec)
        return {} if "import" in request else _called(spec, function, request)
    except ColumnsWanted:
        return {"columns_wanted": True}
    except UnknownReward as error:
        return {"unknown": {"message": error.message, "hint": error.hint}}
    except RewardFailed as error:
        if isinstance(error.__cause__, ColumnsWanted):
            return {"columns_wanted": True}
        told = ("reward", "what", "place", "question", "completion")
        return {"failed": {name: getattr(error, name) for name in told}}


def _function(spec: RewardFunctionSpec) -> Any:
    try:
        return resolved(spec)
    except (UnknownReward, ColumnsWanted):
        raise
    except BaseException as error:  # importing a module runs it, which may do anything
        raise RewardFailed(spec.name, f"cannot be imported: {_left(error)}", place=place_of(error)) from None


def _called(spec: RewardFunctionSpec, function: Any, request: dict[str, Any]) -> dict[str, Any]:
    batch = [
        RewardInput(**{**row, "columns": NoColumns() if row["columns"] is None else row["columns"]})
        for row in request["batch"]
    ]
    checker = _TextChecker()
    context = RewardContext(checks=[Check(**check) for check in request["checks"]], checker=checker)
    try:
        values = call_reward(spec.name, function, batch, context, spec.params)
    except RewardFailed:
        raise
    except BaseException as error:  # SystemExit, which ends a run without a word
        raise RewardFailed(
            spec.name,
            _left(error),
            place=place_of(error),
            question=batch[0].question if batch else None,
            completion=batch[0].text if batch else None,
        ) from None
    return {"values": values, "asked": checker.asked}


def _left(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"calls sys.exit({'' if error.code is None else repr(error.code)})"
    return f"raised {said(error)}"
