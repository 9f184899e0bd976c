"""Curves of every figure that training logs, drawn by hand: dozens of them, a few kilobytes each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd

from harness.reporting import formats
from harness.reporting.analysis.analysis import Analysis
from harness.reporting.figures.learning_curves import binned, curve_axes, runs_by_level
from harness.reporting.frames import column
from harness.store.study import STEP

_WIDTH, _HEIGHT = 420, 190
_LEFT, _RIGHT, _BOTTOM, _LINE = 58, 10, 30, 15
_CHARACTER = 6.3
"""Pixels that a character of the legend takes, at most."""
_MOST_CHARACTERS = 40
_DASHES = ("", "6 3", "2 3")

_WORDS = {
    "kl": "KL to the reference",
    "entropy": "entropy of the policy",
    "clip_fraction": "clip fraction",
    "clip_ratio": "clip fraction",
    "grad_norm": "gradient norm",
    "learning_rate": "learning rate",
    "loss": "loss",
}


@dataclass(frozen=True)
class LoggedFigure:
    """A logged figure and its curves.

    Attributes:
        words: what it is, with its unit.
        curves: by axis, the SVG; the axis is empty where none tells runs apart.
    """

    words: str
    curves: tuple[tuple[str, str], ...]


def logged_figures(analysis: Analysis) -> tuple[LoggedFigure, ...]:
    """Every figure of the step records that has values, those that people look for first."""
    steps = analysis.study.steps
    found = []
    for words, name in _columns(steps):
        if not np.isfinite(column(steps, name)).any():
            continue
        drawn = ((axis or "", _curves(analysis, axis, words, name)) for axis in curve_axes(analysis))
        curves = tuple((axis, svg) for axis, svg in drawn if svg)
        if curves:
            found.append(LoggedFigure(words, curves))
    return tuple(found)


def _columns(steps: pd.DataFrame) -> list[tuple[str, str]]:
    """Words and column of what may have a curve."""
    names = steps.columns
    listed = [
        ("reward", STEP.name(lambda r: r.reward.mean)),
        ("completion length, tokens", STEP.name(lambda r: r.completion.mean_tokens)),
    ]
    metrics = STEP.keys(names, lambda r: r.objective)
    rank = {key: i for i, key in enumerate(_WORDS)}
    for key in sorted(metrics, key=lambda k: (rank.get(k, len(rank)), k)):
        listed.append((_WORDS.get(key, key.replace("_", " ")), _objective(key)))
    for key in STEP.keys(names, lambda r: r.reward.functions):
        listed.append((f"reward function {key}", _function(key)))
    return [
        *listed,
        ("share of right answers in training", STEP.name(lambda r: r.accuracy)),
        ("groups without a gradient, share", STEP.name(lambda r: r.reward.zero_spread_share)),
        ("truncated completions, share", STEP.name(lambda r: r.completion.truncated_share)),
        ("entropy of samples, nats", STEP.name(lambda r: r.completion.sampled_entropy)),
        ("looping n-grams, share", STEP.name(lambda r: r.completion.loop_share)),
        ("seconds a step", STEP.name(lambda r: r.timing.total_seconds)),
        ("other programs' share of the processors", STEP.name(lambda r: r.load and r.load.competing_share)),
    ]


def _objective(key: str) -> str:
    return STEP.name(lambda r: r.objective[key])


def _function(key: str) -> str:
    return STEP.name(lambda r: r.reward.functions[key].mean)


@dataclass(frozen=True)
class _Curve:
    """A level: steps, mean and range over its runs."""

    level: str
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _curves(analysis: Analysis, axis: str | None, words: str, name: str) -> str:
    found = []
    for level, runs in runs_by_level(analysis, axis).items():
        table = binned(analysis.study.steps, name, runs)
        if table is not None:
            x, values = table
            found.append(_Curve(level, x, values.mean(axis=1), values.min(axis=1), values.max(axis=1)))
    return _drawn(found, f"{words} over training steps, by {axis or 'run'}") if found else ""


def _drawn(curves: Sequence[_Curve], label: str) -> str:
    """The SVG: a legend, ticks and their lines, a line and a band of every level."""
    rows = _legend_rows([c.level for c in curves])
    top = 12 + _LINE * len(rows)
    height = top + _HEIGHT
    ticks = _ticks(curves)
    first, last = 0.0, max(1.0, max(float(c.x.max()) for c in curves))
    span = ticks[-1] - ticks[0]

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)
        return _LEFT + across, height - _BOTTOM - (y - ticks[0]) / span * (height - _BOTTOM - top)

    parts = [
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {_WIDTH} {height}" class="curve" '
        'xmlns="http://www.w3.org/2000/svg">'
    ]
    for tick in ticks:
        _, y = at(0, tick)
        text = escape(formats.number(tick, 3) if tick else "0")
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        x, _ = at(share * last, ticks[0])
        words = "step 0" if share == 0 else f"{round(share * last):,}"
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{height - 10}" text-anchor="{anchor}">{words}</text>'
        )
    for i, curve in enumerate(curves):
        colour, dash = f"var(--c{i % 8 + 1})", _DASHES[i // 8 % len(_DASHES)]
        band = [*zip(curve.x, curve.high), *zip(curve.x[::-1], curve.low[::-1])]
        if np.nanmax(curve.high - curve.low) > 0:
            parts.append(f'<path fill="{colour}" opacity="0.16" d="{_path(at, band)}Z"/>')
        line = _path(at, list(zip(curve.x, curve.mean)))
        parts.append(f'<path class="line" stroke="{colour}" stroke-dasharray="{dash}" d="{line}"/>')
    parts += _legend(rows)
    return "".join([*parts, "</svg>"])


def _path(at: Callable[[float, float], tuple[float, float]], points: Sequence[tuple[float, float]]) -> str:
    places = [at(float(x), float(y)) for x, y in points if math.isfinite(y)]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _ticks(curves: Sequence[_Curve]) -> list[float]:
    """Round values around everything that is drawn, two at least."""
    low = min(float(np.nanmin(c.low)) for c in curves)
    high = max(float(np.nanmax(c.high)) for c in curves)
    if high - low < 1e-12 * max(1e-300, abs(high), abs(low)) or high == low:
        reach = abs(high) / 2 or 1.0
        low, high = low - reach, high + reach
    size = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if (high - low) / (size * m) <= 4)
    return [step * i for i in range(math.floor(low / step), math.ceil(high / step - 1e-9) + 1)]


def _legend_rows(levels: Sequence[str]) -> list[list[tuple[int, str, float]]]:
    """Number, text and place of every level, in as many lines as they need."""
    rows: list[list[tuple[int, str, float]]] = [[]]
    x = 0.0
    for i, level in enumerate(levels):
        text = level if len(level) <= _MOST_CHARACTERS else f"{level[: _MOST_CHARACTERS - 1]}…"
        wide = 26 + _CHARACTER * len(text) + 14
        if x and x + wide > _WIDTH:
            rows.append([])
            x = 0.0
        rows[-1].append((i, text, x))
        x += wide
    return rows


def _legend(rows: Sequence[Sequence[tuple[int, str, float]]]) -> Iterator[str]:
    for line, row in enumerate(rows):
        y = 10 + _LINE * line
        for i, text, x in row:
            colour, dash = f"var(--c{i % 8 + 1})", _DASHES[i // 8 % len(_DASHES)]
            yield (
                f'<path class="line" stroke="{colour}" stroke-dasharray="{dash}" d="M{x:.0f} {y - 4}h18"/>'
                f'<text class="level" x="{x + 23:.0f}" y="{y}">{escape(text)}</text>'
            )
