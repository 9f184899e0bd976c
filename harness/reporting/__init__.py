"""Tables, figures and the report of a study. Needs no torch; heavy libraries load when something is built."""

from __future__ import annotations

from pathlib import Path

__all__ = ["build"]


def build(out: Path | str, *, echo: bool = True) -> None:
    """Writes `tables/`, `report.md` and `report.html` of an output folder from its records.

    Args:
        out: the folder; runs that have not finished are reported as such.
        echo: print the answer, the accuracy of every cell, verdicts and cost.

    Raises:
        harness.store.errors.StoreError: it is no output folder, or a record cannot be read.
    """
    from harness.reporting.report import write_report

    text, _ = write_report(Path(out))
    if echo:
        print(text)
