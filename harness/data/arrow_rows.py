"""Rows of Parquet files and of what else Arrow holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.data.errors import UnusableData
from harness.data.rows import RawRow, Unreadable, no_repeats, not_utf8


def parquet_names(path: Path) -> list[str] | None:
    """The columns; None where there is no row.

    Raises:
        UnusableData: it is no Parquet file, or two columns have one name.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        head = pyarrow.parquet.read_metadata(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise UnusableData(f"{path}: not a Parquet file: {error}") from None
    names = list(head.schema.to_arrow_schema().names)
    no_repeats(str(path), names)
    return names if head.num_rows else None


def parquet_rows(path: Path, columns: Sequence[str] | None) -> Iterator[RawRow]:
    """The rows, with the columns that are wanted, or all of them.

    Raises:
        UnusableData: as `parquet_names`.
    """
    import pyarrow.parquet

    number = 0
    names = parquet_names(path) or []
    wanted = None if columns is None else [name for name in names if name in columns]
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=wanted):
            for row in arrow_rows(batch):
                number += 1
                yield RawRow(number, row)


def arrow_rows(batch: Any) -> Iterator[dict[str, Any]]:
    """Rows of an Arrow batch or table; single and half floats as the shortest decimal that stands for them."""
    names = batch.schema.names
    columns = [_cells(batch.column(index)) for index in range(len(names))]
    for cells in zip(*columns, strict=True):
        yield dict(zip(names, cells, strict=True))


def _cells(column: Any) -> list[Any]:
    import numpy as np
    import pyarrow

    try:
        cells = column.to_pylist()
    except (ValueError, OverflowError, pyarrow.ArrowException):
        return [_cell(scalar) for scalar in column]
    narrow = {"float": np.float32, "halffloat": np.float16}.get(str(column.type))
    if narrow is None:
        return cells
    return [None if cell is None else float(str(narrow(cell))) for cell in cells]


def _cell(scalar: Any) -> Any:
    import pyarrow

    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return Unreadable(not_utf8(error))
    except (ValueError, OverflowError, pyarrow.ArrowException) as error:
        return Unreadable(f"cannot be read: {error}")
