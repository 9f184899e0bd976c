"""Mean accuracy by two axes at once."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from harness.reporting.analysis.analysis import Analysis
from harness.reporting.analysis.verdict_rows import ALL
from harness.reporting.figures.theme import MARKERS, Theme, legend_text, new_figure
from harness.reporting.frames import records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 4.6
_MOST_LINES = 8
_MOST_PAIRS = 4


def interaction_pairs(analysis: Analysis) -> list[tuple[str, str]]:
    """Declared pairs, or, where none are, every pair of a small grid."""
    declared = list(analysis.layout.interactions)
    axes = [a for a in analysis.study.axes if len(analysis.study.grid["axes"][a]) > 1]
    pairs = declared or (list(combinations(axes, 2)) if len(axes) <= 3 else [])
    # The axis with more levels runs along the figure, the other is told by colour.
    width = {a: len(analysis.study.grid["axes"][a]) for a in axes}
    ordered = [
        (max(p, key=width.__getitem__), min(p[::-1], key=width.__getitem__))
        for p in pairs
        if set(p) <= set(axes)
    ]
    return [p for p in ordered if width[p[1]] <= _MOST_LINES][:_MOST_PAIRS]


def interaction_figure(analysis: Analysis, theme: Theme) -> Figure | None:
    """Mean accuracy by two axes at once: parallel lines where neither changes the other's effect."""
    rows = []
    for cell in records(analysis.study.cells):
        found = analysis.accuracy.get((str(cell["run"]), int(cell["step"]), ALL))
        if found is not None:
            rows.append((cell, 100 * found.estimate))
    pairs = interaction_pairs(analysis)
    if not rows or not pairs:
        return None
    figure, panels = new_figure(_WIDTH, 2.6 * len(pairs), rows=len(pairs))
    drawn = 0
    for panel, (first, second) in zip(panels, pairs):
        xs = [str(v) for v in analysis.study.grid["axes"][first]]
        for i, level in enumerate(str(v) for v in analysis.study.grid["axes"][second]):
            means = []
            for x in xs:
                own = [y for c, y in rows if str(c[first]) == x and str(c[second]) == level]
                means.append(float(np.mean(own)) if own else math.nan)
            drawn += int(np.isfinite(means).sum() > 1)
            panel.plot(range(len(xs)), means, color=theme.series(i), marker=MARKERS[i % 8], markersize=5,
                       label=legend_text(f"{second} = {level}"))  # fmt: skip
        panel.set_xticks(range(len(xs)), xs)
        panel.set_xlabel(first)
        panel.grid(True, axis="y")
        panel.margins(x=0.15, y=0.25)
        panel.legend(loc="upper left", bbox_to_anchor=(0, 1.22), ncols=3, fontsize=8, handlelength=1.4)
        panel.set_ylabel("mean accuracy, %")
    return figure if drawn else None
