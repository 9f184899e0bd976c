"""Two plain ways to read a frame."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from harness.store.records.form import TableRow


def records(frame: pd.DataFrame) -> list[TableRow]:
    """The frame's rows, with column names as text."""
    names = [str(c) for c in frame.columns]
    return [dict(zip(names, row)) for row in frame.itertuples(index=False, name=None)]


def column(frame: pd.DataFrame, name: str) -> pd.Series[Any]:
    """A column as floats; all NaN where records have none."""
    if name not in frame.columns:
        return pd.Series(math.nan, index=frame.index, dtype=float)
    return pd.to_numeric(frame[name], errors="coerce").astype(float)
