"""`report.html` (one file, opens offline) and `report.md`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from harness import units
from harness.reporting import formats
from harness.reporting.analysis.analysis import Analysis
from harness.reporting.analysis.examples import examples
from harness.reporting.analysis.pareto import ParetoPoint
from harness.reporting.analysis.performance import PERFORMANCE
from harness.reporting.analysis.training_events import most_events, step_events
from harness.reporting.analysis.verdict_rows import ALL
from harness.reporting.figures.all_figures import GROUPS, ReportFigure
from harness.reporting.figures.effects_and_costs import front
from harness.reporting.figures.logged import logged_figures
from harness.reporting.figures.theme import DARK, LIGHT, css_variables
from harness.reporting.frames import records
from harness.reporting.sources.lint_findings import findings
from harness.reporting.tables.base import Table
from harness.reporting.tables.metrics import metric_text
from harness.reporting.tables.runs import price_words
from harness.reporting.tables.verdicts import primary_rows
from harness.reporting.text.answer import Line
from harness.reporting.text.conclusions import Conclusions, best_cell_text, best_of_sentence
from harness.store.records import Provenance
from harness.store.records.form import JsonObject, TableRow

if TYPE_CHECKING:
    from jinja2 import Environment

_MOST_ROWS = 2000
"""Rows of a table beyond which the page points to the CSV file."""
_MOST_EVENTS = 40


def tiles(analysis: Analysis, tables: dict[str, Table]) -> list[tuple[str, str, str]]:
    """Headline figures: title, value, what it means."""
    study = analysis.study
    trained = study.runs[study.runs["kind"] != "base"]
    done = int((trained["status"] == "finished").sum())
    shown = [("runs", f"{done} of {len(trained)}", f"finished, {len(study.cells)} cells")]
    every = {k: v for k, v in analysis.accuracy.items() if k[2] == ALL and k[1] > 0}
    best = max(every, key=lambda k: every[k].estimate, default=None)
    if best is not None:
        gain = analysis.gain.get(best)
        note = f"{formats.points(every[best].low)} to {formats.points(every[best].high)}, chosen from {len(every)}"
        shown.append(("best mean accuracy", formats.percent(every[best].estimate), note))
        if gain is not None:
            span = f"{formats.points(gain.low, signed=True)} to {formats.points(gain.high, signed=True)}"
            shown.append(
                ("its gain over step 0", f"{formats.points(gain.estimate, signed=True)} points", span)
            )
    if "cost" in tables:
        total = records(tables["cost"].frame)[-1]
        spent = f"{units.duration(float(total['device_seconds']))} of device time"
        shown.append(("cost", units.dollars(float(total["cost_usd"])), spent))
    for metric in PERFORMANCE:
        value = metric.compute(study.steps, None) if metric.tile else None
        if value is not None:
            shown.append((metric.words, metric_text(metric, value), metric.tile))
    return shown


def provenance(analysis: Analysis) -> list[tuple[str, str]]:
    """Name and value of what the figures come from; several values where attempts differ."""
    study = analysis.study
    found = [p for p in study.attempts["provenance"] if p != Provenance()]

    def each(read: Callable[[Provenance], object]) -> str:
        values = dict.fromkeys(str(v) for p in found if (v := read(p)) is not None)
        return "; ".join(values)

    started = sorted(str(s) for s in study.attempts["started_at"].dropna())
    rows = [
        (
            "commit",
            each(lambda p: f"{p.commit}{' with uncommitted changes' if p.dirty else ''}"),
        ),
        ("device", each(lambda p: p.device)),
        ("processor", each(lambda p: p.cpu)),
        ("cores, memory", each(lambda p: f"{p.cores} cores, {p.memory_gib} GiB")),
        ("platform", each(lambda p: p.platform)),
        ("versions", each(lambda p: ", ".join(f"{k} {v}" for k, v in (p.versions or {}).items()))),
        ("started", f"{started[0][:19]} to {started[-1][:19]} UTC" if started else ""),
        ("price", price_words(study) if study.runs["usd_per_hour"].notna().any() else ""),
        (
            "checksums",
            "an earlier version wrote some records without: whether they were changed since cannot be told"
            if study.unverified
            else "",
        ),
        ("results of others, read from", ", ".join(study.sources)),
        ("seeds", ", ".join(str(s) for s in study.grid.get("seeds", []))),
        ("samples per question", str(study.grid.get("evaluate", {}).get("samples", ""))),
        (
            "benchmarks",
            ", ".join(
                f"{e['benchmark']} ({int(e['questions'])} questions)"
                for e in records(study.evaluations.drop_duplicates("benchmark"))
            ),
        ),
    ]
    return [(name, value) for name, value in rows if value]


def _troubles(analysis: Analysis) -> JsonObject:
    study = analysis.study
    labels = {str(r["run"]): str(r["label"]) for r in records(study.runs)}
    failed = [
        {"label": labels.get(str(a["run"]), a["run"]), **a}
        for a in records(study.attempts)
        if a["status"] in ("failed", "killed")
    ]
    # Events of many runs with the same message are listed once.
    events_by_message: dict[tuple[str, str], list[TableRow]] = {}
    for event in [*records(study.events), *step_events(study)]:
        events_by_message.setdefault((str(event["kind"]), str(event["message"])), []).append(event)
    events = []
    for same in events_by_message.values():
        runs = list(dict.fromkeys(str(e["run"]) for e in same))
        label = labels.get(runs[0], runs[0]) if len(runs) == 1 else f"{len(runs)} runs"
        events.append({**same[0], "label": label, "step": same[0]["step"] if len(same) == 1 else None})
    return {
        "failed": failed[:_MOST_EVENTS],
        "failed_more": max(0, len(failed) - _MOST_EVENTS),
        "events": most_events(events, _MOST_EVENTS),
        "events_more": max(0, len(events) - _MOST_EVENTS),
    }


def context(
    analysis: Analysis,
    conclusions: Conclusions,
    tables: dict[str, Table],
    pictures: list[ReportFigure],
    found: list[ParetoPoint],
    lines: Sequence[Line],
) -> JsonObject:
    """What the templates are filled with."""
    return {
        "study": analysis.study,
        "title": analysis.study.grid.get("name", analysis.study.out.name),
        "question": analysis.study.grid.get("question", ""),
        "answer": lines,
        "conclusions": conclusions,
        "tiles": tiles(analysis, tables),
        "pictures": pictures,
        "groups": [g for g in GROUPS if g.always or any(p.group == g.name for p in pictures)],
        "front": front(found),
        "logged": logged_figures(analysis),
        "lint": findings(analysis.study),
        "external": "cost" not in tables,
        "best_of_checks": [best_of_sentence(g) for g in analysis.best_of_checks],
        "best_cell": best_cell_text(analysis),
        "examples": examples(analysis),
        "tables": tables,
        "notes": analysis.study.notes,
        "provenance": provenance(analysis),
        "primary": primary_rows(analysis, tables["verdicts"]),
        "most_rows": _MOST_ROWS,
        **_troubles(analysis),
    }


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def load(name: str) -> str:
        return (files("harness.reporting") / name).read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(load),
        # Markdown escapes by its own filter; everything else is HTML.
        autoescape=lambda name: name is None or not name.endswith(".md.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        points=formats.points,
        number=formats.number,
        percent=formats.percent,
        usd=units.dollars,
        duration=units.duration,
        md=formats.markdown_cell,
        some=lambda value: "" if formats.is_empty(value) else value,
    )
    return environment


def html(filled: JsonObject) -> str:
    """The page."""
    from markupsafe import Markup

    style = (files("harness.reporting") / "report.css").read_text(encoding="utf-8")
    themes = "\n".join(
        [
            f":root {{ {css_variables(LIGHT)} }}",
            # Paper is white: dark colours are for screens.
            f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {css_variables(DARK)} }} }}",
        ]
    )
    # The only parts not escaped: our own style sheet and our own drawings, whose texts matplotlib escapes.
    pictures = [{**vars(p), "svg": Markup(p.svg)} for p in filled["pictures"]]
    template = _environment().get_template("report.html.j2")
    logged = [
        {"words": f.words, "curves": [(axis, Markup(svg)) for axis, svg in f.curves]}
        for f in filled["logged"]
    ]
    return template.render(
        {**filled, "pictures": pictures, "logged": logged, "style": Markup(themes + "\n" + style)}
    )


def markdown(filled: JsonObject) -> str:
    """The same as Markdown, with the figures as files beside it."""
    return _environment().get_template("report.md.j2").render(filled)
