"""Which figures the page has, with their titles and captions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from harness.reporting.analysis.analysis import Analysis
from harness.reporting.analysis.pareto import ParetoPoint
from harness.reporting.figures.effects_and_costs import (
    effects_figure,
    memory_figure,
    pareto_figure,
    time_figure,
)
from harness.reporting.figures.interactions import interaction_figure
from harness.reporting.figures.learning_curves import curve_axes, curves_figure
from harness.reporting.figures.questions import moved, moved_figure
from harness.reporting.figures.theme import Theme, drawing, inline_svg
from harness.reporting.figures.training_length import length_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the page.

    Attributes:
        name: file name without suffix, and prefix of its ids.
        group: section it belongs to.
        title: above it.
        caption: below it, how to read it.
        svg: the element.
    """

    name: str
    group: str
    title: str
    caption: str
    svg: str


_Plan = tuple[str, str, str, str, Callable[[Theme], "Figure | None"]]
"""A figure before it is drawn: name, group, title, caption, and how; None where there are no data."""


def draw(analysis: Analysis, found: list[ParetoPoint]) -> list[ReportFigure]:
    """Every figure for which there are data.

    Args:
        analysis: of the study.
        found: cells with accuracy, cost and memory.
    """
    plans = [
        *_effect_plans(analysis),
        *_curve_plans(analysis),
        *_cost_plans(analysis, found),
        *_detail_plans(analysis),
    ]
    pictures = []
    with drawing() as theme:
        for name, group, title, caption, make in plans:
            figure = make(theme)
            if figure is not None:
                pictures.append(ReportFigure(name, group, title, caption, inline_svg(figure, name, title)))
    return pictures


def _effect_plans(analysis: Analysis) -> list[_Plan]:
    alpha = analysis.settings.alpha
    return [
        (
            "effects",
            "effects",
            "What each choice does to accuracy",
            f"Thin: interval adjusted for the number of comparisons (family-wise error {alpha:g}). Thick: "
            f"{1 - 2 * alpha:.0%} interval; inside the band it shows that nothing meaningful changes. Small "
            "marks: single benchmarks.",
            partial(effects_figure, analysis),
        )
    ]


def _curve_plans(analysis: Analysis) -> list[_Plan]:
    plans: list[_Plan] = [
        (
            "length",
            "curves",
            "Where accuracy peaks and whether it degrades",
            "Bars: means before and after a decline that the data show; shaded: where it may have begun (95 %). "
            "No bar: no decline that can be told from noise.",
            partial(length_figure, analysis),
        )
    ]
    for number, axis in enumerate(curve_axes(analysis), 1):
        plans.append(
            (
                f"curves-{number}",
                "curves",
                f"Learning, by {axis}" if axis else "Learning",
                "Thick: mean over runs. Accuracy: every run behind its mean; reward and length: range over runs.",
                partial(curves_figure, analysis, axis),
            )
        )
    return plans


def _cost_plans(analysis: Analysis, found: list[ParetoPoint]) -> list[_Plan]:
    return [
        (
            "pareto",
            "costs",
            "Cost against accuracy",
            "Every cell with its 95 % interval. In colour and numbered: no other is more accurate at a cost and a "
            "memory at most 5 % higher.",
            partial(pareto_figure, analysis, found, memory=False),
        ),
        (
            "pareto-memory",
            "costs",
            "Memory against accuracy",
            "The same cells and front over peak memory.",
            partial(pareto_figure, analysis, found, memory=True),
        ),
        (
            "time",
            "costs",
            "Where the time of a step goes",
            "Means over steps, without evaluation.",
            partial(time_figure, analysis),
        ),
        ("memory", "costs", "Memory by phase", "Peak of every run.", partial(memory_figure, analysis)),
    ]


def _detail_plans(analysis: Analysis) -> list[_Plan]:
    plans: list[_Plan] = [
        (
            "interactions",
            "interactions",
            "Two choices at once",
            "Parallel lines: the effect of one does not depend on the other. Only declared interactions "
            "have verdicts.",
            partial(interaction_figure, analysis),
        )
    ]
    for number, part in enumerate(moved(analysis), 1):
        plans.append(
            (
                f"questions-{number}",
                "questions",
                f"Questions that moved: {part.benchmark}",
                f"Shade: share of right samples; rows are questions, the most improved on top. Of {part.total} "
                f"questions {part.better} got better and {part.worse} got worse by at least half of their samples "
                "on average.",
                partial(moved_figure, part),
            )
        )
    return plans
