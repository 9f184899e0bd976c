"""Words for time, memory and money."""

from __future__ import annotations

import math

from harness.reporting import formats
from harness.reporting.analysis.analysis import Analysis
from harness.reporting.analysis.performance import PERFORMANCE
from harness.reporting.analysis.verdict_rows import Row
from harness.reporting.tables.verdicts import effect_text, kind_of, verdict_record
from harness.stats.verdicts import Judgement


def compared(judgement: Judgement) -> str:
    """`reward = cosine (against accuracy)`."""
    return f"{judgement.axis} = {judgement.level} (against {judgement.baseline})"


def cost_sentences(analysis: Analysis) -> list[str]:
    """One sentence per level that changes some performance metric by enough."""
    words = {m.name: m.words for m in PERFORMANCE if m.in_conclusions}
    found: dict[str, list[str]] = {}
    for row in analysis.rows:
        if row.metric not in words or row.judgement.verdict not in ("works", "hurts"):
            continue
        if kind_of(row) != "effect":
            continue
        found.setdefault(compared(row.judgement), []).append(f"{words[row.metric]} {_change(row)}")
    told = [f"{level}: {', '.join(changes)}" for level, changes in found.items()]
    return told + _load_sentences(analysis)


def _load_sentences(analysis: Analysis) -> list[str]:
    """Levels whose time has no verdict, because other programs had more of the machine than beside the baseline."""
    found = {compared(r.judgement): r.load for r in analysis.rows if r.load and kind_of(r) == "effect"}
    return [
        f"{level}: no verdict on time and what follows from it: other programs may have slowed these runs by "
        f"{formats.percent(math.expm1(load), signed=True)} against the baseline's; run them again on an idle machine"
        for level, load in found.items()
    ]


def _change(row: Row) -> str:
    effect = float(verdict_record(row)["effect"])
    if effect > 1:
        return f"× {formats.number(1 + effect, 2)}"
    return effect_text(row.metric, effect)
