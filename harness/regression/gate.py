"""The sequence of the gate: look, look again while it is undecided, and confirm every flag on fresh pairs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.regression.measure import MEMORY, TIME, WALL, Block, Pairs, Source
from harness.stats.paired import Comparison, compare

FLOORS: Mapping[str, float] = {TIME: 0.025, WALL: 0.25, MEMORY: 0.05}
"""Least tolerance by kind of figure, as ratio − 1; the noise of the baseline against itself raises it."""

CEILINGS: Mapping[str, float] = {TIME: 0.035, WALL: 0.5, MEMORY: 0.1}
"""Noise above this passes nothing while there are pairs to be had: a 5 % slow-down must stand out."""

UNITS = {TIME: "s", WALL: "s of wall clock", MEMORY: "bytes"}

Case = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long the gate looks.

    Attributes:
        floors: least tolerance by kind.
        level: coverage of the intervals.
        blocks: most sets of fresh processes for the first look, and as many again to confirm.
        seed: of the order of turns.
    """

    floors: Mapping[str, float] = field(default_factory=lambda: dict(FLOORS))
    level: float = 0.95
    blocks: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Finding:
    """What the gate says of one case.

    Attributes:
        kind: of figure.
        name: of the case.
        comparison: the last one; the confirming one where there was one.
        first: the first look, where it was flagged and confirmed or not.
        pairs: raw logarithms of ratios, of the comparison.
        note: in words, where there is more to say.
    """

    kind: str
    name: str
    comparison: Comparison
    first: Comparison | None = None
    pairs: Pairs = field(default_factory=Pairs)
    note: str = ""


def run_gate(
    source: Source, names: Sequence[str], settings: Settings, tell: Callable[[str], None] = lambda _: None
) -> tuple[list[Finding], str]:
    """Findings of every case, and the device.

    A case leaves as soon as it is decided. One that is flagged is measured again in fresh processes, by the same rule
    and on the fresh pairs alone: it is `worse` only where these say so too.
    """
    draw = random.Random(settings.seed)
    looks, device = _look(source, names, settings, draw, tell, None)
    flagged = [case for case, (found, _) in looks.items() if found.decision == "worse"]
    for case in flagged:
        tell(f"flagged {describe(case, looks[case][0])}: measured again in fresh processes")
    again: dict[Case, tuple[Comparison, Pairs]] = {}
    if flagged:
        again, _ = _look(source, [name for _, name in flagged], settings, draw, tell, set(flagged))
    findings = []
    for case, (found, pairs) in looks.items():
        if case in again:
            last, fresh = again[case]
            note = "" if last.decision == "worse" else "flagged at first, not confirmed on fresh pairs"
            findings.append(Finding(*case, last, found, fresh, note))
        else:
            findings.append(Finding(*case, found, None, pairs))
    return findings, device


def _look(
    source: Source,
    names: Sequence[str],
    settings: Settings,
    draw: random.Random,
    tell: Callable[[str], None],
    only: set[Case] | None,
) -> tuple[dict[Case, tuple[Comparison, Pairs]], str]:
    pairs: dict[Case, Pairs] = {}
    decided: dict[Case, Comparison] = {}
    waiting, device, unclear = list(dict.fromkeys(names)), "", set[Case]()
    for number in range(settings.blocks):
        # Longer from block to block: what is hard to tell is not to be had in short looks.
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
        tell(f"block {number + 1}: " + "; ".join(describe(case, found) for case, found in decided.items()))
        if not waiting:
            break
    return {case: (found, pairs[case]) for case, found in decided.items()}, device


def describe(case: Case, found: Comparison) -> str:
    """A case in one line."""
    kind, name = case
    change, low, high = (100 * (ratio - 1) for ratio in (found.ratio, found.low, found.high))
    return (
        f"{kind} {name} {change:+.1f}% [{low:+.1f}, {high:+.1f}] "
        f"tolerance {100 * found.tolerance:.1f}% ({found.pairs} pairs): {found.decision}"
    )
