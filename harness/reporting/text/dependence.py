"""Words for effects that depend on another choice."""

from __future__ import annotations

from harness.reporting import formats
from harness.reporting.analysis.analysis import Analysis
from harness.reporting.analysis.interactions import Interaction, SimpleEffect
from harness.stats.power import MIN_DF

_AT = {
    "works": "helps",
    "hurts": "hurts",
    "no meaningful effect": "changes nothing that matters",
    "inconclusive": "not settled",
}
_ORDER = tuple(_AT)


def depends_sentences(analysis: Analysis) -> tuple[str, ...]:
    """A sentence per level of every axis of a leading pair: where it helps, where it hurts, where neither."""
    told = [s for pair in analysis.leading() for s in _sentences(pair)]
    return tuple(told + [_undeclared(pair) for pair in analysis.leading() if not pair.declared])


def _undeclared(pair: Interaction) -> str:
    return (
        f"That {pair.axes[0]} and {pair.axes[1]} depend on each other was not declared: with "
        f"`interactions: [[{', '.join(pair.axes)}]]` the intervals of other axes are narrower"
    )


def _sentences(pair: Interaction) -> list[str]:
    by_level: dict[tuple[str, str, str], list[SimpleEffect]] = {}
    for s in pair.simple:
        by_level.setdefault((s.judgement.axis, s.judgement.level, s.judgement.baseline), []).append(s)
    known = "" if pair.found or not pair.declared else ", as the grid declares it may"
    return [
        f"{axis} = {level} (against {baseline}) depends on {effects[0].at_axis}{known}: {_places(effects)}"
        for (axis, level, baseline), effects in by_level.items()
    ]


def _places(effects: list[SimpleEffect]) -> str:
    parts = []
    for word in _ORDER:
        own = [s for s in effects if s.judgement.verdict == word]
        if own:
            parts.append(f"{_AT[word]} at {', '.join(map(_place, own))}")
    return "; ".join(parts)


def _place(effect: SimpleEffect) -> str:
    j = effect.judgement
    points = "not measured" if formats.is_empty(j.effect) else formats.signed_points(j.effect)
    few = f", {j.df} degrees of freedom" if j.df < MIN_DF and not formats.is_empty(j.effect) else ""
    return f"{effect.at_level} ({points}{few})"
