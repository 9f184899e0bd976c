"""Writes everything that is derived from the records of one output folder."""

from __future__ import annotations

from pathlib import Path

from harness.reporting import formats
from harness.reporting.analysis import analyse
from harness.reporting.console import summary
from harness.reporting.page import context, draw, html, markdown
from harness.reporting.tables import build_tables
from harness.reporting.theme import standalone_svg
from harness.reporting.words import answer
from harness.store.atomic import write_text
from harness.store.study import load_study


def write_report(out: Path) -> tuple[str, bool]:
    """Writes tables and report; returns the text for the terminal, and whether a run failed."""
    analysis = analyse(load_study(out))
    tables = build_tables(analysis)
    folder = out / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_text(folder / f"{name}.csv", formats.csv_text(table.frame))
        write_text(folder / f"{name}.md", table.markdown())
    answered = answer(analysis)
    pictures = draw(analysis)
    drawn = out / "figures"
    drawn.mkdir(exist_ok=True)
    for picture in pictures:
        write_text(drawn / f"{picture.name}.svg", standalone_svg(picture.svg))
    filled = context(analysis, answered, tables, pictures)
    write_text(out / "report.html", html(filled))
    write_text(out / "report.md", markdown(filled))
    failed = bool(analysis.study.runs["status"].isin(["failed", "killed"]).any())
    return summary(analysis, answered, tables, out), failed
