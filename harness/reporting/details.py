"""Figures of detail: peak and decline along training, interactions, questions that moved."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from harness.reporting import formats
from harness.reporting.analysis import ALL, Analysis
from harness.reporting.frames import records
from harness.reporting.responses import shares
from harness.reporting.table import free_axes
from harness.reporting.theme import MARKERS, Theme, legend_text, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 4.6
_MOST_PANELS = 6
_MOST_LINES = 8
_MOST_COLUMNS = 12
_MOST_QUESTIONS = 20
"""Questions shown that got better, and as many that got worse."""
_MOST_MAPS = 3
_MOST_PAIRS = 4


def length_figure(analysis: Analysis, theme: Theme) -> Figure | None:
    """Accuracy along training, a panel per benchmark; a decline that the data show is marked where it starts."""
    told = [c for c in analysis.trajectories if c.told]
    names = list(dict.fromkeys(c.benchmark for c in told))[:_MOST_PANELS]
    if not names:
        return None
    figure, panels = new_figure(WIDTH, 0.7 + 1.75 * len(names), rows=len(names))
    for panel, name in zip(panels, names):
        own = [c for c in told if c.benchmark == name]
        # The mean of all runs is one line among levels, and needless where a level has every run.
        own = [c for c in own if c.kind != "run"] or own
        marked = 0
        for i, curve in enumerate(own[:_MOST_LINES]):
            f, colour = curve.figures, theme.series(i)
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
    figure, panels = new_figure(WIDTH, 2.6 * len(pairs), rows=len(pairs))
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


@dataclass(frozen=True)
class Moved:
    """Which questions of a benchmark moved.

    Attributes:
        benchmark: its name.
        columns: titles: untrained or first, then runs or levels at their last checkpoint.
        questions: place of each question in the benchmark [N].
        share: right samples [N, columns].
        better, worse: how many questions of all moved by at least a half.
        total: questions that both measured.
    """

    benchmark: str
    columns: tuple[str, ...]
    questions: tuple[int, ...]
    share: np.ndarray
    better: int
    worse: int
    total: int


def moved(analysis: Analysis) -> list[Moved]:
    """The questions that moved most from the first column to the mean of the others, by benchmark."""
    found = []
    for name, frame in list(shares(analysis.study).items())[:_MOST_MAPS]:
        columns = _columns(analysis, frame)
        if len(columns) < 2:
            continue
        table = np.array([values for _, values in columns]).T
        with np.errstate(all="ignore"):
            later = np.nanmean(table[:, 1:], axis=1) if table.shape[1] > 2 else table[:, 1]
        change = later - table[:, 0]
        known = np.flatnonzero(np.isfinite(change))
        order = known[np.argsort(-change[known], kind="stable")]
        up = [q for q in order[:_MOST_QUESTIONS] if change[q] > 0]
        down = [q for q in order[::-1][:_MOST_QUESTIONS] if change[q] < 0][::-1]
        picked = [*up, *(q for q in down if q not in up)]
        if picked:
            found.append(
                Moved(
                    benchmark=name,
                    columns=tuple(title for title, _ in columns),
                    questions=tuple(int(q) for q in picked),
                    share=table[picked],
                    better=int((change[known] >= 0.5).sum()),
                    worse=int((change[known] <= -0.5).sum()),
                    total=len(known),
                )
            )
    return found


def _columns(analysis: Analysis, frame: dict[tuple[str, int], np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """The starting point, then every run's last checkpoint, or its mean by level where there are many runs."""
    layout = analysis.layout
    ends = []
    for block in layout.blocks:
        there = sorted((p for p in set(block.checkpoints.values()) if p in frame), key=lambda p: p[1])
        if there:
            ends.append((block, there[0], there[-1]))
    if not ends:
        return []
    bases = [frame[run, 0] for run in dict.fromkeys(layout.base.values()) if (run, 0) in frame]
    if bases:
        columns = [("untrained", np.mean(bases, axis=0))]
    elif all(first != last for _, first, last in ends):
        columns = [("first checkpoint", np.mean([frame[first] for _, first, _ in ends], axis=0))]
    else:
        columns = []
    if len(ends) + len(columns) <= _MOST_COLUMNS:
        seeds = len({b.seed for b, _, _ in ends}) > 1
        for block, _, last in ends:
            levels = [*(block.levels[a] for a in layout.axes), *([f"seed {block.seed}"] if seeds else [])]
            columns.append((" · ".join(levels) or "trained", frame[last]))
        return columns
    for axis in free_axes(analysis.study):
        for level in layout.order[axis]:
            own = [frame[last] for block, _, last in ends if block.levels[axis] == level]
            if own and len(columns) < _MOST_COLUMNS:
                columns.append((f"{axis} = {level}", np.mean(own, axis=0)))
    return columns


def moved_figure(found: Moved, theme: Theme) -> Figure | None:
    """Heat map: right answers by question (rows) and checkpoint (columns), the most improved on top."""
    from matplotlib.collections import PolyCollection

    rows, columns = found.share.shape
    longest = max(len(c) for c in found.columns)
    figure, (axes,) = new_figure(WIDTH, 0.5 + 0.15 * rows + 0.07 * longest)
    for colour, sign in ((theme.c1, 1), (theme.c2, -1)):
        boxes, alphas = [], []
        change = found.share[:, 1:].mean(axis=1) - found.share[:, 0]
        for y in range(rows):
            if (1 if change[y] > 0 else -1) != sign:
                continue
            for x in range(columns):
                share = float(found.share[y, x])
                if share > 0:
                    boxes.append([(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)])
                    alphas.append(share)
        if boxes:
            axes.add_collection(
                PolyCollection(boxes, facecolors=colour, alpha=alphas, edgecolors=theme.paper, linewidths=0.5)
            )
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_xticks(
        [x + 0.5 for x in range(columns)],
        found.columns,
        rotation=60,
        ha="right",
        rotation_mode="anchor",
        fontsize=8,
    )
    axes.set_yticks([y + 0.5 for y in range(rows)], [f"#{q}" for q in found.questions], fontsize=6.5)
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    return figure
