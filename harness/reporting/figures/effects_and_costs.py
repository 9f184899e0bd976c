"""Figures of effects, cost against accuracy, time and memory. matplotlib loads when the first is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness import units
from harness.reporting import formats
from harness.reporting.analysis.analysis import Analysis
from harness.reporting.analysis.cells import free_axes
from harness.reporting.analysis.pareto import ParetoPoint
from harness.reporting.analysis.performance import MEMORY_KINDS, memory_column, memory_phases, phase_seconds
from harness.reporting.analysis.responses import benchmarks
from harness.reporting.analysis.verdict_rows import ALL
from harness.reporting.figures.theme import MARKERS, Theme, legend_text, new_figure
from harness.reporting.frames import column, records
from harness.reporting.tables.runs import step_phases
from harness.stats.verdicts import Judgement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.6
"""Inches, drawn for the width of a phone: text keeps its size there, and figures stand side by side elsewhere."""

_MOST_BARS = 16
_MOST_SIMPLE = 24
_MOST_NUMBERED = 12

_SYMBOLS = {
    "works": "works",
    "hurts": "hurts",
    "no meaningful effect": "no effect",
    "inconclusive": "can't tell",
}


def verdict_colour(judgement: Judgement, theme: Theme) -> str:
    """Blue works, vermilion hurts, grey the rest."""
    return {"works": theme.c1, "hurts": theme.c2}.get(judgement.verdict, theme.muted)


def effects_figure(analysis: Analysis, theme: Theme) -> Figure | None:
    """Forest plot: every level against its baseline with its adjusted interval, benchmarks below, ±delta.

    Of axes that depend on another one, what a level does at each of its levels, without single benchmarks.
    """
    whole = [j for j in analysis.whole_axes() if math.isfinite(j.effect)]
    simple = [s for pair in analysis.leading() for s in pair.simple if math.isfinite(s.judgement.effect)]
    rows = [*whole, *(s.judgement for s in simple[:_MOST_SIMPLE])]
    if not rows:
        return None
    names = benchmarks(analysis.study)
    figure, (axes,) = new_figure(WIDTH, 1.15 + 0.62 * len(rows))
    delta = 100 * analysis.delta
    axes.axvspan(-delta, delta, color=theme.band, zorder=0)
    axes.axvline(0, color=theme.muted, linewidth=1)
    single = {
        (r.judgement.axis, r.judgement.level, r.benchmark): r.judgement
        for r in analysis.rows
        if r.metric == "accuracy" and r.benchmark != ALL
    }
    for y, j in enumerate(rows):
        colour = verdict_colour(j, theme)
        if math.isfinite(j.ci_low):
            axes.plot([100 * j.ci_low, 100 * j.ci_high], [y, y], color=colour, linewidth=1.6)
            inner = [100 * j.equivalence_low, 100 * j.equivalence_high]
            axes.plot(inner, [y, y], color=colour, linewidth=4.5, solid_capstyle="butt")
        axes.plot(100 * j.effect, y, "o", color=colour, markersize=8, markeredgecolor=theme.paper)
        for i, name in enumerate(names if len(names) > 1 and y < len(whole) else []):
            other = single.get((j.axis, j.level, name))
            if other is not None and math.isfinite(other.effect):
                style: dict[str, Any] = {"color": theme.muted, "markersize": 4.2, "markerfacecolor": "none"}
                label = legend_text(name) if y == 0 else None
                axes.plot(100 * other.effect, y + 0.27, MARKERS[1 + i % 7], label=label, **style)
        note = f"{formats.points(j.effect, signed=True)} · {_SYMBOLS[j.verdict]}"
        axes.annotate(note, (1, y), (0, 10), xycoords=("axes fraction", "data"), textcoords="offset points",
                      ha="right", va="center", color=colour, fontsize=9)  # fmt: skip
    # An interval from very few runs can exceed what an accuracy can change by.
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -105), min(high, 105))
    labels = [f"{j.axis}\n{j.level} vs {j.baseline}" for j in whole]
    labels += [
        f"{s.judgement.axis}, {s.at_axis} = {s.at_level}\n{s.judgement.level} vs {s.judgement.baseline}"
        for s in simple[:_MOST_SIMPLE]
    ]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.75)
    axes.tick_params(axis="y", length=0, colors=theme.ink)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"effect on mean accuracy, points (band: ±{delta:g})")
    if len(names) > 1 and whole:
        figure.legend(loc="outside lower center", ncols=min(4, len(names)), labelcolor=theme.muted)
    return figure


def pareto_figure(
    analysis: Analysis, found: Sequence[ParetoPoint], theme: Theme, *, memory: bool
) -> Figure | None:
    """Training cost, or peak memory, against mean accuracy: every cell with its interval, the front in colour."""
    found = [p for p in found if not memory or p.memory_gib is not None]
    if len(found) < 2:
        return None
    figure, (axes,) = new_figure(WIDTH, 3.5)
    xs = [float(p.memory_gib or 0.0) if memory else p.cost_usd for p in found]
    number = {id(p): i for i, p in enumerate(front(found), 1)}
    for x, p in zip(xs, found):
        colour = theme.c1 if p.on_front else theme.muted
        faint = 1.0 if p.on_front else 0.45
        bar = [100 * p.accuracy.low, 100 * p.accuracy.high]
        axes.plot([x, x], bar, color=colour, linewidth=1.1, alpha=faint)
        y = 100 * p.accuracy.estimate
        axes.plot(x, y, "o", color=colour, markersize=6 if p.on_front else 4.5, alpha=faint)
        if p.on_front and len(number) <= _MOST_NUMBERED:
            axes.annotate(
                str(number[id(p)]), (x, y), (-5, 6), textcoords="offset points", ha="right", color=theme.c1
            )
    for run, step, benchmark in analysis.accuracy:
        if step == 0 and benchmark == ALL:
            level = 100 * analysis.accuracy[run, step, benchmark].estimate
            axes.axhline(level, color=theme.muted, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate("untrained", (1, level), (0, 4), xycoords=("axes fraction", "data"),
                          textcoords="offset points", ha="right", color=theme.muted, fontsize=8.5)  # fmt: skip
    axes.grid(True, axis="y")
    if not memory:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(lambda value, _: units.dollars(value))
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("peak memory, GiB" if memory else "training cost")
    axes.set_ylabel("mean accuracy, %")
    return figure


def front(found: Sequence[ParetoPoint]) -> list[ParetoPoint]:
    """The cells on the front, the cheapest first."""
    return sorted((p for p in found if p.on_front), key=lambda p: p.cost_usd)


def _bars(analysis: Analysis) -> list[tuple[str, list[str]]]:
    """Bars and the runs that each averages: one a run, or one a level where there are too many runs."""
    study = analysis.study
    trained = [r for r in records(study.runs) if r["kind"] != "base"]
    axes = [a for a in free_axes(study) if len(study.grid["axes"][a]) > 1]
    if len(trained) <= _MOST_BARS:
        several = analysis.settings.seeds > 1 or not axes
        names = [
            " · ".join([*(str(r[a]) for a in axes), *([f"seed {r['seed']}"] if several else [])])
            for r in trained
        ]
        return [(name, [str(r["run"])]) for name, r in zip(names, trained)]
    return [
        (f"{axis} = {level}", [str(r["run"]) for r in trained if str(r[axis]) == str(level)])
        for axis in axes
        for level in study.grid["axes"][axis]
    ]


def _beside(axes: Axes, text: str, x: float, y: float, theme: Theme) -> None:
    axes.annotate(
        text, (x, y), (6, 0), textcoords="offset points", va="center", fontsize=8.5, color=theme.muted
    )


def time_figure(analysis: Analysis, theme: Theme) -> Figure | None:
    """Where the time of a step goes: seconds by phase, means over steps."""
    steps = analysis.study.steps
    names = step_phases(steps)
    if not names or steps.empty:
        return None
    means = steps.groupby("run")[[phase_seconds(p) for p in names]].mean().fillna(0.0)
    bars = [(label, [r for r in runs if r in means.index]) for label, runs in _bars(analysis)]
    bars = [(label, runs) for label, runs in bars if runs]
    figure, (axes,) = new_figure(WIDTH, 1.2 + 0.27 * len(bars))
    left = [0.0] * len(bars)
    shown = [p for p in names if float(means[phase_seconds(p)].max()) > 0]
    for i, phase in enumerate(shown):
        seconds = [float(means.loc[runs, phase_seconds(phase)].mean()) for _, runs in bars]
        axes.barh(range(len(bars)), seconds, left=left, color=theme.series(i), label=phase, height=0.72,
                  edgecolor=theme.paper, linewidth=0.8)  # fmt: skip
        left = [a + b for a, b in zip(left, seconds)]
    for y, total in enumerate(left):
        axes.annotate(
            f" {formats.number(total, 2)}", (total, y), va="center", fontsize=8.5, color=theme.muted
        )
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.tick_params(axis="y", length=0, colors=theme.ink, labelsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, max(left) * 1.12)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("seconds a step")
    figure.legend(loc="outside lower center", ncols=4, handlelength=1, columnspacing=1)
    return figure


def memory_figure(analysis: Analysis, theme: Theme) -> Figure | None:
    """Peak memory by phase: a point per run and the range, for each kind that was measured."""
    sources = (analysis.study.steps, analysis.study.evaluations)
    order = memory_phases(*sources)
    peaks: dict[tuple[str, str], list[float]] = {}
    for kind in MEMORY_KINDS:
        for phase in order:
            values = [
                float(v)
                for source in sources
                for v in column(source, memory_column(phase, kind)).groupby(source["run"]).max().dropna()
            ]
            if values:
                peaks[kind, phase] = values
    kinds = [k for k in MEMORY_KINDS if any(kind == k for kind, _ in peaks)]
    order = [p for p in order if any(phase == p for _, phase in peaks)]
    if not kinds:
        return None
    figure, (axes,) = new_figure(WIDTH, 1.0 + 0.34 * len(order) + 0.2 * len(kinds))
    for i, kind in enumerate(kinds):
        offset = (i - (len(kinds) - 1) / 2) * 0.2
        for y, phase in enumerate(order):
            values = peaks.get((kind, phase), [])
            if not values:
                continue
            axes.plot([0, max(values)], [y + offset] * 2, color=theme.series(i), linewidth=4, alpha=0.3)
            label = kind.removesuffix("_gib") if y == 0 else None
            axes.plot(
                values,
                [y + offset] * len(values),
                MARKERS[i],
                color=theme.series(i),
                markersize=4.5,
                label=label,
            )
            if len(kinds) == 1:
                axes.annotate(
                    f"  {formats.number(max(values))}", (max(values), y), va="center", color=theme.muted
                )
    axes.set_yticks(range(len(order)), order)
    axes.tick_params(axis="y", length=0, colors=theme.ink)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(0, 1.15 * max(max(v) for v in peaks.values()))
    axes.spines["left"].set_visible(False)
    what = f"{kinds[0].removesuffix('_gib')} memory" if len(kinds) == 1 else "memory"
    axes.set_xlabel(f"peak {what}, GiB; a point a run")
    if len(kinds) > 1:
        figure.legend(loc="outside lower center", ncols=len(kinds))
    return figure
