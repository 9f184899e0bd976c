"""The decorator that makes a function a built-in reward, with what plans and linters are to know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

Rewards = Callable[..., list[float]]
"""`(batch, context, **params)` to a number for each item of the batch."""
F = TypeVar("F", bound=Rewards)


class Direction(NamedTuple):
    """What a reward for length is to do as an answer gets longer: −1 falls, 1 rises."""

    right: Literal[-1, 1]
    """With the length of a right answer."""
    wrong: Literal[-1, 1]
    """With the length of a wrong one."""


@dataclass(frozen=True, kw_only=True)
class BuiltInReward:
    """A reward that recipes call by a name of its own."""

    function: Rewards
    """`(batch, context, **params)` to a number for each item of the batch."""
    direction: Direction | None
    """What it is said to do with length, which `harness.lint` compares with what it does; None if it does not look at
    length."""
    reads_opened: bool
    """Whether it reads what the prompt opened of the completion together with the completion."""
    wants_thought: bool
    """Whether it pays for a completion that ends its thought in words."""


_REGISTERED: dict[str, BuiltInReward] = {}


def reward(
    name: str,
    *,
    direction: Direction | None = None,
    reads_opened: bool = False,
    wants_thought: bool = False,
) -> Callable[[F], F]:
    """Registers the function below it as the built-in reward `name`; the attributes are those of `BuiltInReward`.

    Raises:
        ValueError: another function has the name.
    """

    def register(function: F) -> F:
        if name in _REGISTERED:
            raise ValueError(f"the reward {name!r} is defined twice")
        _REGISTERED[name] = BuiltInReward(
            function=function, direction=direction, reads_opened=reads_opened, wants_thought=wants_thought
        )
        return function

    return register


def registered() -> dict[str, BuiltInReward]:
    """The rewards of every module that has been imported, by name in the order of the alphabet."""
    return dict(sorted(_REGISTERED.items()))
