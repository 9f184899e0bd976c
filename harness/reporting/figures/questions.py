"""Questions whose accuracy moved most, as a heat map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.reporting.analysis.analysis import Analysis
from harness.reporting.analysis.cells import free_axes
from harness.reporting.analysis.responses import counts, shares
from harness.reporting.figures.theme import Theme, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 4.6
_MOST_COLUMNS = 12
_MOST_QUESTIONS = 20
"""Questions shown that got better, and as many that got worse."""
_MOST_MAPS = 3


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
    for name, frame in list(shares(counts(analysis.study)).items())[:_MOST_MAPS]:
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
            levels = [
                *(f"{a}={block.levels[a]}" for a in layout.axes),
                *([f"seed {block.seed}"] if seeds else []),
            ]
            columns.append((", ".join(levels) or "trained", frame[last]))
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
    figure, (axes,) = new_figure(_WIDTH, 0.5 + 0.15 * rows + 0.07 * longest)
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
    _colour_key(figure, theme)
    return figure


def _colour_key(figure: Figure, theme: Theme) -> None:
    """What colours and shades stand for."""
    from matplotlib.patches import Patch

    shades = [
        *(Patch(facecolor=theme.c1, alpha=share, label=f"{share:.0%}") for share in (0.25, 0.5, 1.0)),
        Patch(facecolor=theme.c1, label="got better"),
        Patch(facecolor=theme.c2, label="got worse"),
    ]
    figure.legend(
        handles=shades, loc="outside upper left", ncols=5, fontsize=8, handlelength=1.1, columnspacing=1.0,
        title="share of right samples", title_fontsize=8, alignment="left",
    )  # fmt: skip
