"""The table of figures, with their sections, titles and captions: a new one is a builder and an entry in `PLOTS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

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
from harness.reporting.figures.questions import Moved, moved, moved_figure
from harness.reporting.figures.theme import Theme, drawing, inline_svg
from harness.reporting.figures.training_length import length_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


GroupName = Literal["effects", "curves", "interactions", "questions", "costs"]


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
    group: GroupName
    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Group:
    """A section of the page that holds figures.

    Attributes:
        name: by which plots refer to it.
        heading: above it.
        always: whether the section stands without figures too; the others appear with their first.
    """

    name: GroupName
    heading: str
    always: bool = False


GROUPS = (
    Group("effects", "Effects and verdicts", always=True),
    Group("curves", "Learning curves", always=True),
    Group("interactions", "Interactions"),
    Group("questions", "Questions that moved"),
    Group("costs", "Cost, time, memory"),
)
"""The sections, in the order of the page."""


@dataclass(frozen=True)
class Drawn:
    """What figures are drawn from.

    Attributes:
        analysis: of the study.
        points: cells with accuracy, cost and memory.
    """

    analysis: Analysis
    points: Sequence[ParetoPoint]


@dataclass(frozen=True)
class _Pending:
    """A figure before it is drawn; `make` gives None where there are no data."""

    name: str
    title: str
    caption: str
    make: Callable[[Theme], Figure | None]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure of the report.

    Attributes:
        name: of its file, without suffix.
        group: section it belongs to.
        title: above it.
        caption: below it, how to read it; where it tells settings of the study, a function of the analysis.
        build: draws it; None where there are no data.
    """

    name: str
    group: GroupName
    title: str
    caption: str | Callable[[Analysis], str]
    build: Callable[[Drawn, Theme], Figure | None]

    def pending(self, drawn: Drawn) -> Iterator[_Pending]:
        """The figure, not yet drawn."""
        caption = self.caption if isinstance(self.caption, str) else self.caption(drawn.analysis)
        yield _Pending(self.name, self.title, caption, lambda theme: self.build(drawn, theme))


Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class PlotOfEach(Generic[Item]):
    """A figure for each of several items, numbered in their order.

    Attributes:
        name: of the files, before `-1`, `-2`, ….
        group: section they belong to.
        items: what there is a figure of each.
        title: above the figure of an item.
        caption: below it, how to read it.
        build: draws it; None where there are no data.
    """

    name: str
    group: GroupName
    items: Callable[[Analysis], Sequence[Item]]
    title: Callable[[Item], str]
    caption: Callable[[Item], str]
    build: Callable[[Drawn, Item, Theme], Figure | None]

    def pending(self, drawn: Drawn) -> Iterator[_Pending]:
        """The figures, not yet drawn."""
        for number, item in enumerate(self.items(drawn.analysis), 1):
            make = partial(self.build, drawn, item)
            yield _Pending(f"{self.name}-{number}", self.title(item), self.caption(item), make)


def _effects_caption(analysis: Analysis) -> str:
    alpha = analysis.settings.alpha
    return (
        f"Thin: interval adjusted for the number of comparisons (family-wise error {alpha:g}). Thick: "
        f"{1 - 2 * alpha:.0%} interval; inside the band it shows that nothing meaningful changes. Small "
        "marks: single benchmarks."
    )


PLOTS: tuple[Plot | PlotOfEach[Any], ...] = (
    Plot(
        name="effects",
        group="effects",
        title="What each choice does to accuracy",
        caption=_effects_caption,
        build=lambda drawn, theme: effects_figure(drawn.analysis, theme),
    ),
    Plot(
        name="length",
        group="curves",
        title="Where accuracy peaks and whether it degrades",
        caption="Bars: means before and after a decline that the data show; shaded: where it may have begun (95 %). "
        "No bar: no decline that can be told from noise.",
        build=lambda drawn, theme: length_figure(drawn.analysis, theme),
    ),
    PlotOfEach[str | None](
        name="curves",
        group="curves",
        items=curve_axes,
        title=lambda axis: f"Learning, by {axis}" if axis else "Learning",
        caption=lambda axis: (
            "Thick: mean over runs. Accuracy: every run behind its mean; reward and length: range over runs."
        ),
        build=lambda drawn, axis, theme: curves_figure(drawn.analysis, axis, theme),
    ),
    Plot(
        name="pareto",
        group="costs",
        title="Cost against accuracy",
        caption="Every cell with its 95 % interval. In colour and numbered: no other is more accurate at a cost and "
        "a memory at most 5 % higher.",
        build=lambda drawn, theme: pareto_figure(drawn.analysis, drawn.points, theme, memory=False),
    ),
    Plot(
        name="pareto-memory",
        group="costs",
        title="Memory against accuracy",
        caption="The same cells and front over peak memory.",
        build=lambda drawn, theme: pareto_figure(drawn.analysis, drawn.points, theme, memory=True),
    ),
    Plot(
        name="time",
        group="costs",
        title="Where the time of a step goes",
        caption="Means over steps, without evaluation.",
        build=lambda drawn, theme: time_figure(drawn.analysis, theme),
    ),
    Plot(
        name="memory",
        group="costs",
        title="Memory by phase",
        caption="Peak of every run.",
        build=lambda drawn, theme: memory_figure(drawn.analysis, theme),
    ),
    Plot(
        name="interactions",
        group="interactions",
        title="Two choices at once",
        caption="Parallel lines: the effect of one does not depend on the other. Only declared interactions "
        "have verdicts.",
        build=lambda drawn, theme: interaction_figure(drawn.analysis, theme),
    ),
    PlotOfEach[Moved](
        name="questions",
        group="questions",
        items=moved,
        title=lambda part: f"Questions that moved: {part.benchmark}",
        caption=lambda part: (
            f"Shade: share of right samples; rows are questions, the most improved on top. Of {part.total} "
            f"questions {part.better} got better and {part.worse} got worse by at least half of their samples "
            "on average."
        ),
        build=lambda drawn, part, theme: moved_figure(part, theme),
    ),
)
"""Every figure, in the order of report.md."""


def draw(analysis: Analysis, points: Sequence[ParetoPoint]) -> list[ReportFigure]:
    """Every figure for which there are data.

    Args:
        analysis: of the study.
        points: cells with accuracy, cost and memory.
    """
    drawn, pictures = Drawn(analysis, points), []
    with drawing() as theme:
        for plot in PLOTS:
            for one in plot.pending(drawn):
                figure = one.make(theme)
                if figure is not None:
                    svg = inline_svg(figure, one.name, one.title)
                    pictures.append(ReportFigure(one.name, plot.group, one.title, one.caption, svg))
    return pictures
