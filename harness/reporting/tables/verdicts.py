"""Tables of verdicts: what axes do, gains over step 0, pairs of axes, simple effects; each has words of its own."""

from __future__ import annotations

import math

import pandas as pd

from harness.reporting import formats
from harness.reporting.analysis.analysis import Analysis
from harness.reporting.analysis.interactions import GATE
from harness.reporting.analysis.performance import RELATIVE_DELTA
from harness.reporting.analysis.verdict_rows import ALL, Row, is_interaction, is_share
from harness.reporting.tables.base import Column, Table, as_text, as_whole, make_table
from harness.stats.power import NOTHING_BOUGHT
from harness.stats.verdicts import Judgement
from harness.store.records.form import TableRow

VERDICT_COLUMNS = (
    "metric",
    "benchmark",
    "axis",
    "level",
    "baseline",
    "effect",
    "ci_low",
    "ci_high",
    "p_adjusted",
    "verdict",
    "detectable_effect",
    "runs",
    "df",
)

_WORDS: dict[str, dict[str, str]] = {
    "training": {"works": "gains", "hurts": "loses", "no meaningful effect": "no change that matters"},
    "trajectory": {"hurts": "declines", "no meaningful effect": "no decline that matters"},
    "interaction": {
        "works": "differs",
        "hurts": "differs",
        "no meaningful effect": "no difference that matters",
    },
}
"""What is no effect of a choice has other words: nobody can choose a decline or a difference of effects."""


def kind_of(row: Row) -> str:
    """`effect` of a level, `training`, `trajectory` or `interaction`."""
    if row.family in ("training", "trajectory"):
        return row.family
    return "interaction" if is_interaction(row.judgement) else "effect"


def verdict_word(row: Row) -> str:
    """The verdict in the words of what was judged."""
    return _WORDS.get(kind_of(row), {}).get(row.judgement.verdict, row.judgement.verdict)


def verdicts_table(analysis: Analysis) -> Table:
    """Every verdict; accuracy effects are fractions, the others ratios − 1.

    The view for people has the effects of levels alone; gains, declines and interactions have tables of their own.
    """
    rows = [verdict_record(row) for row in analysis.rows]
    frame = pd.DataFrame(rows, columns=[*VERDICT_COLUMNS, *_VERDICT_EXTRAS])
    frame = frame.astype(dict.fromkeys(_WHOLE, "Int64"))
    settings = analysis.settings
    note = (
        "Accuracy in points, other metrics in percent. Mean accuracy (all): Holm over axes, Dunnett within an "
        f"axis, family-wise error rate {settings.alpha:g}; single benchmarks and other metrics: "
        "Benjamini–Hochberg. Works / hurts: the adjusted interval excludes zero and the effect is at least "
        f"{formats.points(analysis.delta)} points (other metrics: {RELATIVE_DELTA:.0%}). No meaningful effect: the "
        f"{1 - 2 * settings.alpha:.0%} interval lies within that. Detectable: found with {settings.power:.0%} "
        "power; where no degree of freedom measures how runs vary, with the noise that plans assume. No verdict "
        "below 3 degrees of freedom. The CSV file has gains over step 0, declines and interactions too."
    )
    header = (
        *("metric", "benchmark", "axis", "level", "baseline", "effect", "low", "high", "p adjusted"),
        *("verdict", "detectable", "runs", "df"),
    )
    text = tuple(
        _verdict_text(row, record) for row, record in zip(analysis.rows, rows) if kind_of(row) == "effect"
    )
    return Table("verdicts", "Verdicts", frame, header, text, 5, (note,))


def primary_rows(analysis: Analysis, table: Table) -> list[tuple[str, ...]]:
    """Those of the verdicts on mean accuracy, of axes whose effect does not depend on another one."""
    whole = {j.axis for j in analysis.whole_axes()}
    return [row for row in table.rows if row[:2] == ("accuracy", ALL) and row[2] in whole]


def effect_text(metric: str, value: float, *, signed: bool = True) -> str:
    """An effect for people: points of accuracy, percent of other metrics."""
    if formats.is_empty(value):
        return formats.DASH
    return formats.points(value, signed=signed) + ("" if is_share(metric) else " %")


def _verdict_text(row: Row, record: TableRow) -> tuple[str, ...]:
    return (
        row.metric,
        row.benchmark,
        row.judgement.axis,
        str(record["level"]),
        str(record["baseline"]),
        *(effect_text(row.metric, record[c]) for c in ("effect", "ci_low", "ci_high")),
        formats.p_text(record["p_adjusted"]),
        str(record["verdict"]),
        effect_text(row.metric, record["detectable_effect"], signed=False),
        str(record["runs"]),
        str(record["df"]),
    )


_WHOLE = ("questions", "seeds_needed", "questions_needed", "seeds_low", "seeds_high")
_VERDICT_EXTRAS = [
    "p_value",
    "standard_error",
    "equivalence_low",
    "equivalence_high",
    "delta",
    "questions",
    "seeds_needed",
    "questions_needed",
    "family",
    "assumed",
    "t_df",
    "corrected_effect",
    "noise",
    "unit",
    "seeds_low",
    "seeds_high",
    "with_one_more_seed",
    "with_twice_the_questions",
    "with_twice_the_samples",
]


def verdict_record(row: Row) -> TableRow:
    """A row of verdicts.csv."""
    j = row.judgement
    bought = j.purchases or NOTHING_BOUGHT
    same = is_share(row.metric)

    def scaled(value: float) -> float:
        return value if same or math.isnan(value) else math.expm1(min(value, 700.0))

    return {
        "metric": row.metric,
        "benchmark": row.benchmark,
        "axis": j.axis,
        "level": j.level,
        "baseline": j.baseline,
        "effect": scaled(j.effect),
        "ci_low": scaled(j.ci_low),
        "ci_high": scaled(j.ci_high),
        "p_adjusted": j.p_adjusted,
        "verdict": verdict_word(row),
        "detectable_effect": scaled(j.detectable_effect),
        "runs": j.runs,
        "df": j.df,
        "p_value": j.p_value,
        # Of the logarithm for other metrics than accuracy.
        "standard_error": j.standard_error,
        "equivalence_low": scaled(j.equivalence_low),
        "equivalence_high": scaled(j.equivalence_high),
        "delta": scaled(j.delta),
        "questions": j.questions or None,
        "seeds_needed": j.seeds_needed,
        "questions_needed": j.questions_needed,
        "family": row.family,
        "assumed": j.assumed,
        "t_df": j.t_df or None,
        "corrected_effect": scaled(j.corrected_effect),
        "noise": j.noise,
        "unit": j.unit,
        "seeds_low": j.seeds_low,
        "seeds_high": j.seeds_high,
        # What would be detectable then.
        "with_one_more_seed": scaled(bought.one_more_seed),
        "with_twice_the_questions": scaled(bought.twice_the_questions),
        "with_twice_the_samples": scaled(bought.twice_the_samples),
    }


_JUDGED: tuple[Column, ...] = (
    ("points", "effect", formats.signed_points),
    ("low", "ci_low", formats.signed_points),
    ("high", "ci_high", formats.signed_points),
    ("p adjusted", "p_adjusted", formats.p_text),
    ("verdict", "verdict", as_text),
    ("detectable", "detectable_effect", formats.points),
    ("runs", "runs", as_whole),
    ("df", "df", as_whole),
)


def _judged(judgement: Judgement, words: str = "") -> TableRow:
    verdict = _WORDS.get(words, {}).get(judgement.verdict, judgement.verdict)
    names = ("effect", "ci_low", "ci_high", "p_value", "p_adjusted", "standard_error", "detectable_effect")
    return {
        **{name: getattr(judgement, name) for name in names},
        "verdict": verdict,
        "runs": judgement.runs,
        "df": judgement.df,
    }


def gains_table(analysis: Analysis) -> Table:
    """A row per benchmark: the last checkpoint of every run against step 0."""
    rows = []
    for row in analysis.rows:
        if row.judgement.axis == "step" and row.judgement.level == "last":
            rows.append({"benchmark": row.benchmark, **_judged(row.judgement, "training")})
    notes = [
        "The last checkpoint of every run against the untrained model, on average over runs. Single benchmarks: "
        "share of false verdicts controlled with the other secondary ones."
    ]
    shown: list[Column] = [("benchmark", "benchmark", as_text), *_JUDGED]
    return make_table("gains", "Gain over step 0", pd.DataFrame(rows), shown, left=1, notes=notes)


def interactions_table(analysis: Analysis) -> Table:
    """A row per pair of axes and pair of levels, on mean accuracy."""
    rows = [
        {
            "pair": judgement.axis,
            "levels": judgement.level,
            "baselines": judgement.baseline,
            "declared": "yes" if pair.declared else "no",
            **_judged(judgement, "interaction"),
        }
        for pair in analysis.interactions
        for judgement in pair.judgements
    ]
    shown: list[Column] = [
        ("pair", "pair", as_text),
        ("levels", "levels", as_text),
        ("baselines", "baselines", as_text),
        ("declared", "declared", as_text),
        *_JUDGED,
    ]
    notes = [
        "Points: how much more the first level does at the second level than at the second's baseline: a difference "
        "of effects, not what a cell scores. Declared pairs are judged with the axes; the others are tested for lack "
        f"of fit, Holm over pairs at {GATE * analysis.settings.alpha:g}."
    ]
    title = "Interactions: does one choice change what another does?"
    return make_table("interactions", title, pd.DataFrame(rows), shown, left=4, notes=notes)


def simple_effects_table(analysis: Analysis) -> Table:
    """A row per level of an axis at each level of one that it depends on."""
    rows = [
        {
            "axis": s.judgement.axis,
            "level": s.judgement.level,
            "baseline": s.judgement.baseline,
            "where": f"{s.at_axis} = {s.at_level}",
            **_judged(s.judgement),
        }
        for pair in analysis.leading()
        for s in pair.simple
    ]
    shown: list[Column] = [
        ("axis", "axis", as_text),
        ("level", "level", as_text),
        ("baseline", "baseline", as_text),
        ("where", "where", as_text),
        *_JUDGED,
    ]
    notes = [
        "Points of mean accuracy against the baseline level, at that level of the other axis alone. Holm over axes "
        "and places, Dunnett within, at the share of alpha of the axes that these rows replace."
    ]
    return make_table("simple_effects", "Effects by place", pd.DataFrame(rows), shown, left=4, notes=notes)
