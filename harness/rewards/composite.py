"""The reward of a recipe: a weighted sum of built-in functions and of the user's own."""

from __future__ import annotations

import difflib
import importlib
import statistics
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.rewards.answers import AnswerChecker
from harness.rewards.builtin import REWARDS
from harness.rewards.calls import call_reward
from harness.rewards.errors import UnknownReward
from harness.rewards.params import check_params
from harness.rewards.types import Check, RewardContext, RewardInput
from harness.spec.recipe import RewardFunctionSpec, RewardSpec
from harness.spec.source import nearest


@dataclass(frozen=True)
class Scores:
    """Rewards of a batch, in its order.

    Attributes:
        total: weighted sum over the functions, of values normalised as the recipe says.
        by_function: values by function name, neither weighted nor normalised.
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
        self._composite = Composite(spec)
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

    def score(self, batch: Sequence[RewardInput]) -> Scores:
        """Rewards of each completion.

        Raises:
            RewardFailed: a function raises an exception, or gives something else than a finite number for every
                completion.
        """
        checks = self._checker.check_many(
            [(item.text, item.answer) for item in batch], [item.question for item in batch]
        )
        return self._composite.score(batch, RewardContext(checks=checks, checker=self._checker))


Resolve = Callable[[RewardFunctionSpec], Callable[..., list[float]]]
"""From a function of the recipe to what is called."""


def resolved(spec: RewardFunctionSpec) -> Callable[..., list[float]]:
    """The function itself, imported into this process where it is the user's own.

    Raises:
        UnknownReward: it isn't there, or rejects its parameters.
    """
    builtin = REWARDS.get(spec.name)
    function = _imported(spec.name) if builtin is None else builtin.function
    check_params(spec, function)
    if builtin is not None:
        try:
            function([], RewardContext(checks=[]), **spec.params)
        except ValueError as error:
            raise UnknownReward(f"reward {spec.name!r}: {error}") from None
    return function


class Composite:
    """The functions of a recipe, for completions whose answers were checked before.

    Args:
        spec: the functions, their weights and how they are normalised.
        resolve: gives what is called for a function of the user's own: it itself, or what calls it elsewhere.

    Raises:
        UnknownReward: a function isn't there or rejects its parameters.
    """

    def __init__(self, spec: RewardSpec, resolve: Resolve = resolved) -> None:
        self._functions = [
            (f.name, f.weight, (resolved if f.name in REWARDS else resolve)(f), dict(f.params))
            for f in spec.functions
        ]
        self._by_group = spec.normalization == "group"

    def score(self, batch: Sequence[RewardInput], context: RewardContext) -> Scores:
        """Rewards of each completion.

        Raises:
            RewardFailed: a function raises an exception, or gives something else than a finite number for every
                completion.
        """
        total = [0.0] * len(batch)
        by_function: dict[str, list[float]] = {}
        for name, weight, function, params in self._functions:
            values = call_reward(name, function, batch, context, params)
            by_function[name] = values
            if self._by_group:
                values = normalised_by_group(values, [item.group for item in batch])
            total = [sum_ + weight * value for sum_, value in zip(total, values, strict=True)]
        return Scores(total, by_function, [c.correct for c in context.checks], list(context.checks))


NORMALIZATION_EPSILON = 1e-4
"""Added to the deviation of a group's values."""


def normalised_by_group(values: Sequence[float], groups: Sequence[int]) -> list[float]:
    """(value − mean of its group) / (deviation of its group + ε), n − 1 in the deviation (GDPO, arXiv 2601.05242).

    Exactly zero in a group whose values are all equal.
    """
    members: dict[int, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    moments = {
        group: (statistics.fmean(of), statistics.stdev(of) if len(set(of)) > 1 else None)
        for group, of in members.items()
    }
    return [
        0.0
        if (deviation := moments[group][1]) is None
        else (value - moments[group][0]) / (deviation + NORMALIZATION_EPSILON)
        for value, group in zip(values, groups, strict=True)
    ]


def has_own_functions(spec: RewardSpec) -> bool:
    """Whether a function of the user's own is among them, which may look at the questions' other columns."""
    return any(function.name not in REWARDS for function in spec.functions)


def reads_opened(spec: RewardSpec) -> bool:
    """Whether a function reads what the prompt opened of the completion together with the completion."""
    return any(f.name in REWARDS and REWARDS[f.name].reads_opened for f in spec.functions)


def validate_rewards(spec: RewardSpec, resolve: Resolve = resolved) -> None:
    """Whether every function is there and takes its parameters; torch-free, as far as the user's modules are.

    Raises:
        UnknownReward: otherwise.
    """
    for function in spec.functions:
        (resolved if function.name in REWARDS else resolve)(function)


def _imported(name: str) -> Callable[..., list[float]]:
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise UnknownReward(f"no reward {name!r}", nearest(name, REWARDS))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
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
