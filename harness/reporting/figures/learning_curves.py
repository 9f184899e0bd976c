"""Learning curves: accuracy, reward and completion length over steps, by level."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness.reporting.analysis.analysis import Analysis
from harness.reporting.analysis.cells import free_axes
from harness.reporting.analysis.verdict_rows import ALL
from harness.reporting.figures.theme import MARKERS, Theme, legend_text, new_figure
from harness.reporting.frames import column, records
from harness.store.study import STEP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.6
_POINTS = 60
"""Points that a curve is averaged down to."""


def curve_axes(analysis: Analysis) -> list[str | None]:
    """Axes whose levels get curves; one entry None, all runs together, where no axis tells runs apart."""
    axes: list[str | None] = [a for a in free_axes(analysis.study) if len(analysis.study.grid["axes"][a]) > 1]
    return axes or [None]


def runs_by_level(analysis: Analysis, axis: str | None) -> dict[str, list[str]]:
    """Runs by level."""
    trained = [r for r in records(analysis.study.runs) if r["kind"] != "base"]
    if axis is None:
        return {"all runs": [str(r["run"]) for r in trained]}
    return {
        str(level): [str(r["run"]) for r in trained if str(r[axis]) == str(level)]
        for level in analysis.study.grid["axes"][axis]
    }


def curves_figure(analysis: Analysis, axis: str | None, theme: Theme) -> Figure | None:
    """Three panels over training steps: accuracy of checkpoints, training reward, completion length.

    Lines are means over the runs of a level; accuracy shows every run faintly behind its mean, the others the
    range over runs.
    """
    if not analysis.accuracy and analysis.study.steps.empty:
        return None
    if analysis.study.steps.empty:
        figure, (top,) = new_figure(WIDTH, 2.9)
        accuracy_panel(analysis, top, axis, theme)
        top.set_xlabel("training step")
        top.set_ylabel("mean accuracy, %")
        figure.legend(*top.get_legend_handles_labels(), loc="outside upper left", ncols=3)
        return figure
    figure, (top, middle, bottom) = new_figure(WIDTH, 6.4, rows=3)
    for i, (level, runs) in enumerate(runs_by_level(analysis, axis).items()):
        if runs:
            _accuracy_curve(analysis, top, runs, level, i, theme)
            _step_curve(analysis.study.steps, middle, STEP.name(lambda r: r.reward.mean), runs, i, theme)
            _step_curve(
                analysis.study.steps, bottom, STEP.name(lambda r: r.completion.mean_tokens), runs, i, theme
            )
    for panel, title in (
        (top, "mean accuracy of checkpoints, %"),
        (middle, "reward in training"),
        (bottom, "completion length in training, tokens"),
    ):
        panel.set_title(title, fontsize=9.5, fontweight="normal", color=theme.muted)
        panel.grid(True, axis="y")
        panel.margins(x=0.02)
    bottom.set_xlabel("training step")
    last = max([1, *(s for _, s, _ in analysis.accuracy), *analysis.study.steps["step"].astype(int)])
    for panel in (top, middle, bottom):
        panel.set_xlim(-0.02 * last, 1.02 * last)
    figure.legend(*top.get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


def accuracy_panel(analysis: Analysis, axes: Axes, axis: str | None, theme: Theme) -> None:
    """The first panel alone."""
    for i, (level, runs) in enumerate(runs_by_level(analysis, axis).items()):
        _accuracy_curve(analysis, axes, runs, level, i, theme)
    axes.grid(True, axis="y")


def _accuracy_curve(
    analysis: Analysis, axes: Axes, runs: list[str], level: str, index: int, theme: Theme
) -> None:
    lines: dict[str, dict[int, float]] = {}
    for (run, step, benchmark), interval in analysis.accuracy.items():
        if benchmark == ALL and run in runs:
            lines.setdefault(run, {})[step] = 100 * interval.estimate
    for run, line in lines.items():
        base = analysis.accuracy.get((analysis.layout.base.get(run, ""), 0, ALL))
        if base is not None:
            line[0] = 100 * base.estimate
    colour = theme.series(index)
    for line in lines.values():
        steps = sorted(line)
        axes.plot(steps, [line[s] for s in steps], color=colour, linewidth=0.8, alpha=0.35)
    steps = sorted({s for line in lines.values() for s in line})
    means = [float(np.mean([line[s] for line in lines.values() if s in line])) for s in steps]
    axes.plot(steps, means, color=colour, marker=MARKERS[index % 8], markersize=5, label=legend_text(level))


def _step_curve(
    steps: pd.DataFrame, axes: Axes, name: str, runs: list[str], index: int, theme: Theme
) -> None:
    found = binned(steps, name, runs)
    if found is None:
        axes.annotate("not recorded", (0.5, 0.5), xycoords="axes fraction", ha="center", color=theme.muted)
        return
    x, table = found
    colour = theme.series(index)
    if table.shape[1] > 1:
        axes.fill_between(x, table.min(axis=1), table.max(axis=1), color=colour, alpha=0.16, linewidth=0)
    axes.plot(x, table.mean(axis=1), color=colour, linewidth=1.8)


def binned(steps: pd.DataFrame, name: str, runs: list[str]) -> tuple[np.ndarray, pd.DataFrame] | None:
    """A column of step records over training: steps, and means of a few steps [points, runs]; None without values."""
    own = steps[steps["run"].isin(runs)]
    values = column(own, name)
    if values.notna().sum() == 0:
        return None
    last = int(own["step"].max())
    width = max(1, math.ceil(last / _POINTS))
    made = pd.DataFrame({"run": own["run"], "bin": (own["step"] - 1) // width, "value": values})
    table = made.pivot_table(index="bin", columns="run", values="value", aggfunc="mean")
    return np.minimum((table.index.to_numpy() + 0.5) * width + 0.5, last), table
