"""Figure styles: light, dark, and SVG whose colours are CSS variables of the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours. The series follow Okabe and Ito (2008), told apart by people who see fewer colours too."""

    ink: str
    muted: str
    grid: str
    paper: str
    band: str
    c1: str
    c2: str
    c3: str
    c4: str
    c5: str
    c6: str
    c7: str
    c8: str

    def series(self, index: int) -> str:
        """Colour of the index-th level or phase, in a cycle of eight."""
        return str(getattr(self, f"c{index % 8 + 1}"))


LIGHT = Theme(
    ink="#1c2430",
    muted="#657083",
    grid="#e3e7ed",
    paper="#ffffff",
    band="#eef1f5",
    c1="#0072b2",
    c2="#d55e00",
    c3="#00866a",
    c4="#b5598b",
    c5="#c98a00",
    c6="#3f9fd6",
    c7="#6b7a90",
    c8="#8c6d3f",
)
DARK = Theme(
    ink="#e8ecf2",
    muted="#9aa6b8",
    grid="#2c3542",
    paper="#12171e",
    band="#1f2732",
    c1="#58b2ec",
    c2="#ff8b4a",
    c3="#35c9a3",
    c4="#e79cc8",
    c5="#f2bf4f",
    c6="#9ad6fb",
    c7="#a3b1c6",
    c8="#cfae7c",
)
# Colours that matplotlib passes through untouched and that are then replaced by CSS variables.
_STAND_INS = Theme(**{f.name: f"#0bad{i:02x}" for i, f in enumerate(fields(Theme))})

MARKERS = "osD^vPX*"
"""Shapes beside colours, so that colour is never the only difference."""


def css_variables(theme: Theme) -> str:
    """The theme as CSS custom properties."""
    return " ".join(f"--{f.name}: {getattr(theme, f.name)};" for f in fields(Theme))


@contextmanager
def drawing() -> Iterator[Theme]:
    """Settings for drawing an SVG that takes its colours from CSS."""
    with _settings(_STAND_INS):
        yield _STAND_INS


@contextmanager
def painting(theme: Theme) -> Iterator[Theme]:
    """Settings for drawing a bitmap in a theme."""
    with _settings(theme):
        yield theme


@contextmanager
def _settings(theme: Theme) -> Iterator[None]:
    import matplotlib as mpl

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "harness",
        "font.family": ["DejaVu Sans"],
        "font.size": 10,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": theme.muted,
        "axes.labelcolor": theme.muted,
        "axes.titlecolor": theme.ink,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "text.color": theme.ink,
        # Levels and benchmarks may hold dollars.
        "text.parse_math": False,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "figure.facecolor": theme.paper,
        "axes.facecolor": "none",
        "savefig.facecolor": theme.paper,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "lines.linewidth": 2.0,
    }
    with mpl.rc_context(settings):
        yield


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of that many inches without pyplot's global state; axes row by row."""
    from matplotlib.figure import Figure as _Figure

    figure = _Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def legend_text(name: str) -> str:
    """A label that matplotlib shows in legends: it leaves out those that begin with an underscore."""
    return f"\N{ZERO WIDTH SPACE}{name}" if name.startswith("_") else name


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an SVG element for a page that defines the theme's CSS variables.

    Args:
        figure: drawn under `drawing()`.
        name: prefix of ids, unique in the page.
        label: what it shows, for those who cannot see it.
    """
    buffer = StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for field in fields(Theme):
        svg = svg.replace(getattr(_STAND_INS, field.name), f"var(--{field.name})")
    svg = re.sub(r"font: ([^;\"]*?)([\d.]+px)[^;\"]*", r"font: \1\2 var(--sans)", svg)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert size is not None
    head = f'<svg role="img" aria-label="{escape(label)}" viewBox="{size[0].split(chr(34))[1]}" '
    head += 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return head + svg[svg.index(">") + 1 :].strip()


def standalone_svg(inline: str) -> str:
    """An inline SVG as a file of its own that follows the viewer's light or dark setting."""
    style = (
        f"<style>:root {{ --sans: system-ui, sans-serif; {css_variables(LIGHT)} }} "
        f"@media (prefers-color-scheme: dark) {{ :root {{ {css_variables(DARK)} }} }} "
        "svg { background: var(--paper); }</style>"
    )
    end = inline.index(">") + 1
    return f'<?xml version="1.0" encoding="utf-8"?>\n{inline[:end]}{style}{inline[end:]}\n'
