"""All tables of a study."""

from __future__ import annotations

from harness.reporting.analysis.analysis import Analysis
from harness.reporting.tables.accuracy import accuracy_table, cells_table
from harness.reporting.tables.base import Table
from harness.reporting.tables.plan import plan_table
from harness.reporting.tables.runs import cost_table, memory_table, throughput_table
from harness.reporting.tables.training_length import best_table, trajectories_table
from harness.reporting.tables.verdicts import (
    gains_table,
    interactions_table,
    simple_effects_table,
    verdicts_table,
)


def _of_some_studies(analysis: Analysis) -> list[Table]:
    """Tables that are left out where they have no row."""
    return [simple_effects_table(analysis), interactions_table(analysis), gains_table(analysis)]


def build_tables(analysis: Analysis) -> dict[str, Table]:
    """All tables, in the order of the report; of external results none on time, memory and money."""
    made = [
        accuracy_table(analysis),
        cells_table(analysis),
        verdicts_table(analysis),
        *(t for t in _of_some_studies(analysis) if t.rows),
        trajectories_table(analysis),
        best_table(analysis),
    ]
    if (analysis.study.runs["kind"] != "external").any() or analysis.study.runs.empty:
        made += [
            throughput_table(analysis.study),
            memory_table(analysis.study),
            cost_table(analysis.study),
        ]
        if (planned := plan_table(analysis.study)) is not None:
            made.append(planned)
    return {table.name: table for table in made}
