"""Options of commands that execute runs: which steps to profile, and sinks of step records."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from harness.meters.sinks import NAMES, SinkMissing, check_sinks
from harness.spec.errors import SpecError

_MOST_STEPS = 100
"""At most so many steps in a range: the trace of one step takes megabytes."""


@dataclass(frozen=True)
class RunOptions:
    """What a run records besides its records in the store. Changes no run's identity.

    Attributes:
        profile: 1-based steps to profile, ascending.
        sinks: where step records are also sent, names from `harness.meters.sinks.NAMES`.
    """

    profile: tuple[int, ...] = ()
    sinks: tuple[str, ...] = ()

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> RunOptions:
        """The options from the command line of a parser that `add_run_options` extended."""
        return cls(arguments.profile, tuple(dict.fromkeys(arguments.sink)))

    def to_argv(self) -> list[str]:
        """The options as arguments for another command."""
        profile = ["--profile", ",".join(map(str, self.profile))] if self.profile else []
        return [*profile, *(word for name in self.sinks for word in ("--sink", name))]

    def check(self) -> None:
        """Checks that the sinks can be used.

        Raises:
            SpecError: a sink's package is not installed.
        """
        try:
            check_sinks(self.sinks)
        except SinkMissing as missing:
            raise SpecError(f"--sink: {missing}") from None


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--profile` and `--sink`."""
    parser.add_argument(
        "--profile",
        type=steps,
        default=(),
        metavar="STEPS",
        help="write a torch profiler trace of these training steps (2 or 2,5-7) beside each attempt's records",
    )
    parser.add_argument(
        "--sink",
        action="append",
        choices=NAMES,
        default=[],
        help="also send step records there; may be given several times",
    )


def steps(text: str) -> tuple[int, ...]:
    """`2,5-7` as (2, 5, 6, 7): an argparse type."""
    chosen: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"must be steps such as 2 or 2,5-7, got {text!r}")
        low, high = int(first), int(last or first)
        if not 1 <= low <= high or high - low >= _MOST_STEPS:
            raise argparse.ArgumentTypeError(
                f"must be at most {_MOST_STEPS} steps, ascending from 1 on, got {part!r}"
            )
        chosen.update(range(low, high + 1))
    return tuple(sorted(chosen))
