"""Accuracy along training, by benchmark, with declines marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.reporting import formats
from harness.reporting.analysis.analysis import Analysis
from harness.reporting.analysis.verdict_rows import ALL
from harness.reporting.figures.theme import MARKERS, Theme, legend_text, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 4.6
_MOST_PANELS = 6
_MOST_LINES = 8


def length_figure(analysis: Analysis, theme: Theme) -> Figure | None:
    """Accuracy along training, a panel per benchmark; a decline that the data show is marked where it starts."""
    reported = [c for c in analysis.trajectories if c.reported]
    names = list(dict.fromkeys(c.benchmark for c in reported))[:_MOST_PANELS]
    if not names:
        return None
    figure, panels = new_figure(_WIDTH, 0.7 + 1.75 * len(names), rows=len(names))
    for panel, name in zip(panels, names):
        own = [c for c in reported if c.benchmark == name]
        # The mean of all runs is one line among levels, and needless where a level has every run.
        own = [c for c in own if c.kind != "run"] or own
        marked = 0
        for i, curve in enumerate(own[:_MOST_LINES]):
            f, colour = curve.trajectory, theme.series(i)
            means = [100 * m for m in f.means]
            panel.plot(f.steps, means, color=colour, marker=MARKERS[i % 8], markersize=4, linewidth=1.3,
                       label=legend_text(curve.scope) if name == names[0] else None)  # fmt: skip
            if f.verdict == "hurts":
                panel.axvspan(
                    f.change_low,
                    max(f.change_high, f.change_low + 0.5),
                    color=colour,
                    alpha=0.12,
                    linewidth=0,
                )
                before = [m for s, m in zip(f.steps, means) if f.rise_to <= s <= f.change]
                after = [m for s, m in zip(f.steps, means) if s > f.change]
                panel.hlines(np.mean(before), f.rise_to, f.change, color=colour, linewidth=3, alpha=0.5)
                panel.hlines(np.mean(after), f.change, f.steps[-1], color=colour, linewidth=3, alpha=0.5)
                note = f"{formats.points(f.effect, signed=True)} after {f.change}"
                panel.annotate(note, (0, 0), (6, 4 + 11 * marked), xycoords="axes fraction",
                               textcoords="offset points", color=colour, fontsize=8.5)  # fmt: skip
                marked += 1
        title = "mean accuracy, %" if name == ALL else f"{name}, %"
        panel.set_title(title, fontsize=9.5, fontweight="normal", color=theme.muted)
        panel.grid(True, axis="y")
        panel.margins(y=0.2)
    panels[len(names) - 1].set_xlabel("training step")
    if panels[0].get_legend_handles_labels()[1]:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure
