"""What a curation leaves: the dataset, the rejected items, a manifest, a table and a picture."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness.curation.funnel import Funnel
from harness.curation.items import content_sha256, item_lines, to_line, write_lines
from harness.reporting import formats
from harness.reporting.figures.theme import LIGHT, Theme, drawing, inline_svg, new_figure, standalone_svg
from harness.reporting.tables.base import Column, Table, as_text, as_whole, make_table
from harness.store.atomic import make_folder, write_json, write_text
from harness.store.records.form import JsonObject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MANIFEST_VERSION = 1
WIDTH = 6.4
_MOST_REASONS = 4


def write_account(funnel: Funnel, out: Path) -> Table:
    """Writes `dataset.jsonl`, `rejected.jsonl`, `manifest.json`, `tables/funnel.{csv,md}`, `figures/funnel.svg`.

    Nothing in them depends on time, place or interruptions. Returns the table.
    """
    write_lines(out / "dataset.jsonl", item_lines(funnel.dataset))
    write_lines(out / "rejected.jsonl", "".join(to_line(row) for row in funnel.rejected()))
    write_json(out / "manifest.json", manifest(funnel))
    table = funnel_table(funnel)
    for folder in ("tables", "figures"):
        make_folder(out / folder)
    write_text(out / "tables" / "funnel.csv", formats.csv_text(table.frame))
    write_text(out / "tables" / "funnel.md", table.markdown())
    with drawing() as theme:
        figure = funnel_figure(funnel, theme)
        text = standalone_svg(inline_svg(figure, "funnel", "What each stage of the curation kept"))
    write_text(out / "figures" / "funnel.svg", text)
    return table


def manifest(funnel: Funnel) -> JsonObject:
    """JSON-ready account: counts, hashes and settings of every source and stage, and of the result."""
    dataset = funnel.dataset
    return {
        "version": MANIFEST_VERSION,
        "name": funnel.recipe.name,
        "purpose": funnel.recipe.purpose,
        "seed": funnel.recipe.seed,
        "pool": {
            "count": len(funnel.pool),
            "sha256": content_sha256(funnel.pool),
            "sources": funnel.sources,
        },
        "stages": [
            {
                "name": stage.name,
                "settings": stage.settings,
                "identity": stage.identity,
                "entered": len(stage.entered),
                "kept": len(stage.left),
                "rejected": dict(Counter(d.reason for d in stage.decisions if not d.keep).most_common()),
                "sha256": content_sha256(stage.left),
            }
            for stage in funnel.stages
        ],
        "dataset": {
            "count": len(dataset),
            "sha256": content_sha256(dataset),
            **{
                by: dict(sorted(Counter(str(getattr(item, by)) for item in dataset).items()))
                for by in ("source", "band", "difficulty")
            },
        },
    }


def funnel_table(funnel: Funnel) -> Table:
    """A row per stage and reason: how many were dropped; a row per stage: how many went on."""
    rows: list[JsonObject] = [
        {"stage": "pool", "outcome": "kept", "reason": "", "items": len(funnel.pool), "of": len(funnel.pool)}
    ]
    for stage in funnel.stages:
        count = len(stage.entered)
        rows.append(
            {"stage": stage.name, "outcome": "kept", "reason": "", "items": len(stage.left), "of": count}
        )
        reasons = Counter(d.reason for d in stage.decisions if not d.keep)
        rows += [
            {"stage": stage.name, "outcome": "rejected", "reason": reason, "items": number, "of": count}
            for reason, number in reasons.most_common()
        ]
    for row in rows:
        row["share"] = row["items"] / row["of"] if row["of"] else None
    columns = ["stage", "outcome", "reason", "items", "of", "share"]
    shown: list[Column] = [
        ("stage", "stage", as_text),
        ("outcome", "outcome", as_text),
        ("reason", "reason", as_text),
        ("items", "items", as_whole),
        ("of", "of", as_whole),
        ("%", "share", formats.points),
    ]
    note = f"{funnel.recipe.name}: {len(funnel.dataset):,} of {len(funnel.pool):,} candidates kept."
    return make_table(
        "funnel", "Curation funnel", pd.DataFrame(rows, columns=columns), shown, left=3, notes=[note]
    )


def funnel_figure(funnel: Funnel, theme: Theme = LIGHT) -> Figure:
    """A bar per stage: what went on, and what was dropped, by reason."""
    counts = [(stage.name, len(stage.left), _reasons(stage.decisions)) for stage in funnel.stages]
    bars: list[tuple[str, int, list[tuple[str, int]]]] = [("pool", len(funnel.pool), []), *counts]
    figure, (axes,) = new_figure(WIDTH, 0.9 + 0.58 * len(bars))
    most = max(1, len(funnel.pool))
    for y, (_, kept, reasons) in enumerate(bars):
        axes.barh(y, kept, color=theme.c1, height=0.44)
        left = kept
        for i, (_, number) in enumerate(reasons):
            axes.barh(y, number, left=left, color=theme.series(1 + i), height=0.44, alpha=0.75)
            left += number
        told = ", ".join(f"−{number:,} {reason}" for reason, number in reasons)
        axes.annotate(f"{kept:,}", (0, y), (4, 0), textcoords="offset points", va="center",
                      color=theme.paper if kept > 0.12 * most else theme.ink, fontsize=9)  # fmt: skip
        if told:
            axes.annotate(told, (0, y), (0, -15), textcoords="offset points", va="center",
                          color=theme.muted, fontsize=7.5)  # fmt: skip
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    axes.set_ylim(len(bars) - 0.35, -0.6)
    axes.set_xlim(0, 1.02 * most)
    axes.tick_params(axis="y", length=0, colors=theme.ink)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("items kept, and dropped by reason")
    return figure


def _reasons(decisions: list[Any]) -> list[tuple[str, int]]:
    """The commonest reasons, the rest together."""
    counted = Counter(d.reason for d in decisions if not d.keep).most_common()
    rest = sum(number for _, number in counted[_MOST_REASONS:])
    return [*counted[:_MOST_REASONS], *([("other reasons", rest)] if rest else [])]
