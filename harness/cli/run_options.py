"""The options by which a user watches runs: steps to profile, sinks. They change no run's identity."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from harness.meters.sinks import NAMES, SinkMissing, check_sinks
from harness.spec.errors import SpecError

_MOST_STEPS = 100
"""A trace of one step takes megabytes."""


def add_watching(parser: argparse.ArgumentParser) -> None:
    """Adds `--profile` and `--sink`."""
    parser.add_argument(
        "--profile",
        type=steps,
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


def worker_options(profile: Sequence[int] | None, sinks: Sequence[str]) -> list[str]:
    """What to add to a worker's command.

    Raises:
        SpecError: a sink's package is not installed.
    """
    try:
        check_sinks(sinks)
    except SinkMissing as missing:
        raise SpecError(f"--sink: {missing}") from None
    profiled = ["--profile", ",".join(map(str, profile))] if profile else []
    return [*profiled, *(option for name in dict.fromkeys(sinks) for option in ("--sink", name))]
