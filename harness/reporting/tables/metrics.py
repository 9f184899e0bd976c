"""Columns of the performance metrics."""

from __future__ import annotations

from typing import Literal

from harness import units
from harness.reporting import formats
from harness.reporting.analysis.performance import PERFORMANCE, Metric
from harness.reporting.tables.base import Column


def metrics_of(table: Literal["throughput", "cells"]) -> list[Metric]:
    """Metrics with a column in a table: what a checkpoint took before what its run took, parts before their whole."""
    own = [metric for metric in PERFORMANCE if metric.table == table]
    return sorted(own, key=lambda metric: (not metric.grows_with_steps, metric.in_conclusions))


def metric_column(metric: Metric) -> Column:
    """The column of a metric in the view for people."""
    return metric.header, metric.name, units.dollars if metric.unit == "USD" else formats.number


def metric_text(metric: Metric, value: float) -> str:
    """A value with its unit."""
    return units.dollars(value) if metric.unit == "USD" else f"{formats.number(value)} {metric.unit}"
