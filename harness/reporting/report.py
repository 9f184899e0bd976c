"""Writes everything that is derived from the records of output folders, or from external results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.reporting import formats
from harness.reporting.analysis.analysis import Analysis, analyse
from harness.reporting.analysis.looks import new_look
from harness.reporting.analysis.pareto import pareto_points
from harness.reporting.figures.all_figures import draw
from harness.reporting.figures.theme import standalone_svg
from harness.reporting.page import context, html, markdown
from harness.reporting.sources.choices import Choices
from harness.reporting.sources.comparison import merged_study
from harness.reporting.sources.external import external_study
from harness.reporting.sources.inference import TRAINING_SEEDS, Inference
from harness.reporting.tables.all_tables import build_tables
from harness.reporting.tables.published_claims import PublishedClaims, read_claims
from harness.reporting.text.answer import answer
from harness.reporting.text.conclusions import conclude
from harness.reporting.text.exports import json_text, latex_text
from harness.reporting.text.terminal import summary
from harness.store.atomic import write_text
from harness.store.folders import Store
from harness.store.study import Study, load_study


def write_report(out: Path) -> tuple[str, bool]:
    """Writes tables and report of a folder; returns the text for the terminal, and whether a run failed."""
    return _write(load_study(out), None)


def write_external_report(
    files: Sequence[Path],
    out: Path,
    *,
    baselines: Mapping[str, str] | None = None,
    delta: float = 0.02,
    claims: Path | None = None,
    choices: Choices | None = None,
    inference: Inference = TRAINING_SEEDS,
) -> tuple[str, bool]:
    """Judges results of others; see `external_study` for the arguments.

    Args:
        claims: a file of published claims, see `read_claims`.

    Raises:
        SpecError: what is wrong with the files.
    """
    study = external_study(files, out, baselines=baselines, delta=delta, choices=choices, inference=inference)
    stated = read_claims(claims) if claims else None
    if stated and stated.question:
        study.grid["question"] = stated.question
    return _write(study, stated)


def write_comparison(folders: Sequence[Path], out: Path) -> tuple[str, bool]:
    """One report on several folders, which become the levels of an axis."""
    return _write(merged_study(folders, out), None)


def _write(study: Study, claims: PublishedClaims | None) -> tuple[str, bool]:
    analysis: Analysis = analyse(study)
    tables = build_tables(analysis)
    if claims is not None:
        tables = {**claims.tables(analysis), **tables}
    out = study.out
    folder = out / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_text(folder / f"{name}.csv", formats.csv_text(table.frame))
        write_text(folder / f"{name}.md", table.markdown())
        write_text(folder / f"{name}.tex", latex_text(table))
    conclusions = conclude(analysis)
    lines = answer(analysis, conclusions, tables)
    found = pareto_points(analysis)
    pictures = draw(analysis, found)
    drawn = out / "figures"
    drawn.mkdir(exist_ok=True)
    for picture in pictures:
        write_text(drawn / f"{picture.name}.svg", standalone_svg(picture.svg))
    filled = context(analysis, conclusions, tables, pictures, found, lines)
    write_text(out / "report.html", html(filled))
    write_text(out / "report.md", markdown(filled))
    write_text(out / "report.json", json_text(analysis, conclusions, tables, filled))
    look = new_look(study, analysis.looks, analysis.primary())
    if look is not None:
        Store(out).add_look(look)
    failed = bool(study.runs["status"].isin(["failed", "killed"]).any())
    return summary(analysis, conclusions, lines, tables, out), failed
