"""The gate: measures in blocks until every case is decided, and confirms every regression on fresh pairs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.regression.measure import MEMORY, TIME, WALL, Block, Pairs, Source
from harness.stats.paired import Comparison, compare

FLOORS: Mapping[str, float] = {TIME: 0.025, WALL: 0.25, MEMORY: 0.05}
"""Least tolerance by kind of figure, as ratio − 1. Noise of the baseline against itself raises it."""

CEILINGS: Mapping[str, float] = {TIME: 0.035, WALL: 0.5, MEMORY: 0.1}
"""With more noise than this, a case is not passed before the last block: a 5 % slow-down must be detectable."""

UNITS = {TIME: "s", WALL: "s of wall clock", MEMORY: "bytes"}

Case = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the gate.

    Attributes:
        floors: least tolerance by kind.
        level: coverage of the intervals.
        blocks: at most so many sets of fresh processes to measure, and as many again to confirm.
        seed: for the random order of turns.
    """

    floors: Mapping[str, float] = field(default_factory=lambda: dict(FLOORS))
    level: float = 0.95
    blocks: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Finding:
    """The gate's result for one case.

    Attributes:
        kind: kind of figure: `time`, `waiting`, `memory`, `accuracy` or `training`.
        name: name of the case.
        comparison: the final comparison; if the case was flagged, the one on fresh pairs.
        first: the comparison that flagged the case; None if it was not flagged.
        pairs: the pairs behind `comparison`, as logarithms of ratios.
        note: remarks for the report.
    """

    kind: str
    name: str
    comparison: Comparison
    first: Comparison | None = None
    pairs: Pairs = field(default_factory=Pairs)
    note: str = ""


def run_gate(
    source: Source, names: Sequence[str], settings: Settings, log: Callable[[str], None] = lambda _: None
) -> tuple[list[Finding], str]:
    """Measures the cases; returns a finding for each case and kind of figure, and the device.

    A case is no longer measured once it is decided. One that is flagged as worse is measured again in fresh
    processes, by the same rule and on the fresh pairs alone; it counts as worse only if these confirm it.

    Args:
        source: measures blocks of pairs.
        names: the cases.
        settings: tolerances, and how long to measure.
        log: called with each line of progress.
    """
    draw = random.Random(settings.seed)
    measured, device = _measure(source, names, settings, draw, log, None)
    flagged = [case for case, (found, _) in measured.items() if found.decision == "worse"]
    for case in flagged:
        log(f"flagged {describe(case, measured[case][0])}: measured again in fresh processes")
    confirming: dict[Case, tuple[Comparison, Pairs]] = {}
    if flagged:
        confirming, _ = _measure(source, [name for _, name in flagged], settings, draw, log, set(flagged))
    findings = []
    for case, (found, pairs) in measured.items():
        if case in confirming:
            last, fresh = confirming[case]
            note = "" if last.decision == "worse" else "flagged at first, not confirmed on fresh pairs"
            findings.append(Finding(*case, last, found, fresh, note))
        else:
            findings.append(Finding(*case, found, None, pairs))
    return findings, device


def _measure(
    source: Source,
    names: Sequence[str],
    settings: Settings,
    draw: random.Random,
    log: Callable[[str], None],
    only: set[Case] | None,
) -> tuple[dict[Case, tuple[Comparison, Pairs]], str]:
    """Measures blocks until every case, of `only` if given, is decided, or `settings.blocks` are used up."""
    pairs: dict[Case, Pairs] = {}
    decided: dict[Case, Comparison] = {}
    waiting, device, unclear = list(dict.fromkeys(names)), "", set[Case]()
    for number in range(settings.blocks):
        # Each block is longer than the last: undecided cases need more pairs.
        block: Block = source.block(waiting, draw, 1.0 + number)
        device = block.device
        for case, fresh in block.pairs.items():
            if (only is not None and case not in only) or (case in decided and case not in unclear):
                continue
            own = pairs.setdefault(case, Pairs())
            own.extend(fresh)
            decided[case] = compare(
                own.differences,
                own.control,
                floor=settings.floors[case[0]],
                level=settings.level,
                ceiling=math.inf if number == settings.blocks - 1 else CEILINGS[case[0]],
            )
        unclear = {case for case, found in decided.items() if found.decision == "ambiguous"}
        waiting = [name for name in waiting if any(name == other for _, other in unclear)]
        log(f"block {number + 1}: " + "; ".join(describe(case, found) for case, found in decided.items()))
        if not waiting:
            break
    return {case: (found, pairs[case]) for case, found in decided.items()}, device


def describe(case: Case, found: Comparison) -> str:
    """A case and its comparison in one line."""
    kind, name = case
    change, low, high = (100 * (ratio - 1) for ratio in (found.ratio, found.low, found.high))
    return (
        f"{kind} {name} {change:+.1f}% [{low:+.1f}, {high:+.1f}] "
        f"tolerance {100 * found.tolerance:.1f}% ({found.pairs} pairs): {found.decision}"
    )
