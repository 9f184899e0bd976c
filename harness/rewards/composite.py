"""The reward of a recipe: a weighted sum of built-in functions and of the user's own."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.rewards.answers import AnswerChecker
from harness.rewards.functions import FUNCTIONS
from harness.rewards.types import Check, RewardContext, Scored
from harness.spec.errors import SpecError
from harness.spec.recipe import RewardFunctionSpec, RewardSpec
from harness.spec.source import nearest


class UnknownReward(SpecError):
    """A reward function that isn't there, or parameters that it does not take.

    Args:
        message: what is wrong, with the offending name or value.
        hint: how to mend it.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)


@dataclass(frozen=True)
class Scores:
    """Rewards of a batch, in its order.

    Attributes:
        total: weighted sum over the functions.
        by_function: unweighted values by function name.
        correct: whether the final answer is right.
        checks: the answer checks, with reasons.
    """

    total: list[float]
    by_function: dict[str, list[float]]
    correct: list[bool]
    checks: list[Check]


class CompositeReward:
    """Scores completions; a context manager that ends the answer checker's processes.

    Args:
        spec: the functions and their weights.
        checker: an answer checker to share, which stays open; one of its own if None.

    Raises:
        UnknownReward: a function isn't there or rejects its parameters.
    """

    def __init__(self, spec: RewardSpec, *, checker: AnswerChecker | None = None) -> None:
        self._functions = [(f.name, f.weight, _resolved(f), dict(f.params)) for f in spec.functions]
        self._owned = checker is None
        self._checker = AnswerChecker() if checker is None else checker

    def __enter__(self) -> CompositeReward:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the answer checker's processes, if the checker is this object's own."""
        if self._owned:
            self._checker.close()

    def score(self, batch: Sequence[Scored]) -> Scores:
        """Rewards of each completion.

        Raises:
            ValueError: a function gives another number of values than completions, or one that is not finite.
        """
        checks = self._checker.check_many([(item.text, item.answer) for item in batch])
        context = RewardContext(checks=checks)
        total = [0.0] * len(batch)
        by_function: dict[str, list[float]] = {}
        for name, weight, function, params in self._functions:
            values = [float(value) for value in function(batch, context, **params)]
            if len(values) != len(batch):
                raise ValueError(f"reward {name!r} gave {len(values)} values for {len(batch)} completions")
            if not all(map(math.isfinite, values)):
                raise ValueError(f"reward {name!r} gave a value that is not finite")
            by_function[name] = values
            total = [sum_ + weight * value for sum_, value in zip(total, values, strict=True)]
        return Scores(total, by_function, [check.correct for check in checks], checks)


def validate_rewards(spec: RewardSpec) -> None:
    """Whether every function is there and takes its parameters; torch-free, as far as the user's modules are.

    Raises:
        UnknownReward: otherwise.
    """
    for function in spec.functions:
        _resolved(function)


def _resolved(spec: RewardFunctionSpec) -> Callable[..., list[float]]:
    builtin = FUNCTIONS.get(spec.name)
    function = _imported(spec.name) if builtin is None else builtin
    _check_params(spec, function)
    if builtin is not None:
        try:
            builtin([], RewardContext(checks=[]), **spec.params)
        except ValueError as error:
            raise UnknownReward(f"reward {spec.name!r}: {error}") from None
    return function


def _imported(name: str) -> Callable[..., list[float]]:
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise UnknownReward(f"no reward {name!r}", nearest(name, FUNCTIONS))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UnknownReward(
            f"reward {name!r}: {error}", "put the folder of the module on PYTHONPATH, or install it"
        ) from None
    function = getattr(module, attribute, None)
    if not callable(function):
        own = [n for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__]
        close = difflib.get_close_matches(attribute, [n for n in own if callable(getattr(module, n))], n=1)
        raise UnknownReward(
            f"reward {name!r}: {module_name} has no function {attribute!r}",
            f'did you mean "{module_name}:{close[0]}"?' if close else None,
        )
    return function


def _check_params(spec: RewardFunctionSpec, function: Callable[..., list[float]]) -> None:
    signature = inspect.signature(function)
    known = {p.name: p for p in list(signature.parameters.values())[2:] if p.kind is not p.VAR_KEYWORD}
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return
    hints = typing.get_type_hints(function)
    for name, value in spec.params.items():
        if name not in known:
            hint = nearest(name, known) if known else "it takes no parameters"
            raise UnknownReward(f"reward {spec.name!r} has no parameter {name!r}", hint)
        if name in hints and not _admits(hints[name], value):
            raise UnknownReward(
                f"reward {spec.name!r}: `{name}` must be {_shown(hints[name])}, got {value!r}"
            )
    missing = [n for n, p in known.items() if p.default is p.empty and n not in spec.params]
    if missing:
        raise UnknownReward(
            f"reward {spec.name!r} needs the parameter {missing[0]!r}", f"add `params: {{{missing[0]}: …}}`"
        )


def _admits(annotation: Any, value: object) -> bool:
    """Whether a YAML value fits a plain annotation; annotations of other kinds admit anything."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(_admits(part, value) for part in typing.get_args(annotation))
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation in (str, bool, types.NoneType):
        return isinstance(value, annotation)
    return True


def _shown(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
