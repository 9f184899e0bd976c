"""Cells and axes of a study, in the grid's order."""

from __future__ import annotations

import math
from typing import Any

from harness.reporting.frames import records
from harness.store.records.form import TableRow
from harness.store.study import Study


def ordered_cells(study: Study) -> list[TableRow]:
    """Cells in the grid's order of levels, then by seed and step."""
    rank = {axis: {str(v): i for i, v in enumerate(study.grid["axes"][axis])} for axis in study.axes}

    def key(cell: TableRow) -> tuple[Any, ...]:
        levels = tuple(rank[a].get(str(cell[a]), math.inf) for a in study.axes if a not in study.steps_axes)
        return (*levels, cell["seed"], cell["step"], str(cell["run"]))

    return sorted(records(study.cells), key=key)


def free_axes(study: Study) -> list[str]:
    """Axes that tell runs apart: all but those of training length."""
    return [a for a in study.axes if a not in study.steps_axes]
