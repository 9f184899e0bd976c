"""Published claims held against published results: which of them the data support."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness import units
from harness.reporting import formats
from harness.reporting.analysis.analysis import Analysis
from harness.reporting.analysis.verdict_rows import ALL
from harness.reporting.frames import records
from harness.reporting.tables.base import Column, Table, as_text, make_table
from harness.reporting.tables.training_length import WITHIN_CHANCE
from harness.spec.errors import SpecError
from harness.stats.bestof import expected_normal_maximum
from harness.stats.intervals import Interval, difference_interval, mean_interval
from harness.stats.power import MIN_DF
from harness.store.records.form import JsonObject

SUPPORTED, NOT_SUPPORTED, OPEN = "supported", "not supported", "can't tell"

_KEYS = {
    "best": {"benchmark"},
    "degradation": {"benchmark", "scope"},
    "effect": {"benchmark", "axis", "level"},
    "difference": {"benchmark", "better", "than"},
    "cost": {"cheaper", "than"},
}


@dataclass(frozen=True)
class PublishedClaims:
    """What was claimed, and the tables that some claims are about.

    Attributes:
        file: where it was read.
        source: who claims.
        question: the study's question.
        claims: of each `text`, `kind` and the keys of that kind.
        accuracy: wide table of models × benchmarks, percent; column `model` first.
        questions: questions by benchmark of that table.
        cost: table with `model`, `hours`, `cost_usd`.
    """

    file: Path
    source: str
    question: str
    claims: tuple[JsonObject, ...]
    accuracy: pd.DataFrame
    questions: dict[str, int]
    cost: pd.DataFrame

    def tables(self, analysis: Analysis) -> dict[str, Table]:
        """The claims with what the data say of each, and the published tables as they are."""
        rows = [
            {"claim": c["text"], **dict(zip(("reading", "figures"), self._read(c, analysis)))}
            for c in self.claims
        ]
        shown: list[Column] = [
            ("claim", "claim", as_text),
            ("the data", "reading", as_text),
            ("figures", "figures", as_text),
        ]
        made = {
            "claims": make_table(
                "claims",
                "Published claims",
                pd.DataFrame(rows),
                shown,
                left=3,
                notes=[f"Source: {self.source}."],
            )
        }
        for name, title, frame in (
            ("published_accuracy", "Published accuracy, %", self.accuracy),
            ("published_cost", "Published cost", self.cost),
        ):
            if len(frame):
                columns: list[Column] = [(str(c), str(c), as_text) for c in frame.columns]
                made[name] = make_table(name, title, frame, columns, left=1)
        return made

    def _read(self, claim: JsonObject, analysis: Analysis) -> tuple[str, str]:
        kinds: dict[str, Callable[[JsonObject, Analysis], tuple[str, str]]] = {
            "best": _best,
            "degradation": _degradation,
            "effect": _effect,
            "difference": self._difference,
            "cost": self._cost,
        }
        return kinds[claim["kind"]](claim, analysis)

    def _difference(self, claim: JsonObject, analysis: Analysis) -> tuple[str, str]:
        names = list(self.questions) if claim["benchmark"] == ALL else [claim["benchmark"]]
        better, than = (_row(self.accuracy, claim[k], self.file) for k in ("better", "than"))
        for name in names:
            if name not in self.questions or name not in better:
                raise SpecError(
                    f"claim of {name!r}: needs its `questions` and its column in the accuracy table",
                    file=self.file,
                )
        parts: list[Interval] = []
        for name in names:
            a, b, n = better[name], than[name], self.questions[name]
            if formats.is_empty(a) or formats.is_empty(b):
                return OPEN, f"{name} is not given for both"
            parts.append(difference_interval((float(b) / 100 * n, n), (float(a) / 100 * n, n)))
        found = mean_interval(parts)
        chosen = int(claim.get("chosen_from", 1))
        luck = expected_normal_maximum(chosen) * math.sqrt(
            sum(float(better[n]) * (100 - float(better[n])) / 1e4 / self.questions[n] for n in names)
        ) / len(names)  # fmt: skip
        span = f"{formats.points(found.low, signed=True)} to {formats.points(found.high, signed=True)}"
        numbers = f"{formats.points(found.estimate, signed=True)} points, 95 % interval {span}"
        if chosen > 1:
            numbers += (
                f"; choosing the best of {chosen} identical checkpoints gives {formats.points(luck, signed=True)} "
                "points by luck, which the interval does not know of"
            )
        if found.low - luck > 0:
            return SUPPORTED, numbers
        return (NOT_SUPPORTED if found.high < 0 else OPEN), numbers

    def _cost(self, claim: JsonObject, analysis: Analysis) -> tuple[str, str]:
        cheap, dear = (float(_row(self.cost, claim[k], self.file)["cost_usd"]) for k in ("cheaper", "than"))
        if math.isnan(cheap) or math.isnan(dear):
            return OPEN, "a cost is not given"
        ratio = formats.number(dear / cheap, 2)
        numbers = f"{units.dollars(cheap)} against {units.dollars(dear)}, 1/{ratio}; as stated"
        return (SUPPORTED if cheap < dear else NOT_SUPPORTED), numbers


def _best(claim: JsonObject, analysis: Analysis) -> tuple[str, str]:
    found = [g.result for g in analysis.best_of_checks if g.benchmark == claim["benchmark"]]
    if not found:
        return OPEN, "no checkpoints to choose from"
    f = found[0]
    numbers = (
        f"best of {f.checkpoints} scores {formats.percent(f.best)}, the best of as many identical ones would be "
        f"expected at {formats.percent(f.expected)}, p = {formats.p_text(f.p_value)}"
    )
    return (WITHIN_CHANCE if f.chance else SUPPORTED), numbers


def _degradation(claim: JsonObject, analysis: Analysis) -> tuple[str, str]:
    found = [
        c.trajectory
        for c in analysis.trajectories
        if c.benchmark == claim["benchmark"] and c.scope == claim["scope"]
    ]
    if not found:
        return OPEN, "no such curve"
    f = found[0]
    numbers = (
        f"{formats.points(f.effect, signed=True)} points after step {f.change}, upper bound "
        f"{formats.points(f.ci_high, signed=True)}, p = {formats.p_text(f.p_adjusted)}; declines from "
        f"{formats.points(f.detectable_effect)} points up could be found"
    )
    reading = {"hurts": SUPPORTED, "no meaningful effect": NOT_SUPPORTED}.get(f.verdict, OPEN)
    return reading, numbers


def _effect(claim: JsonObject, analysis: Analysis) -> tuple[str, str]:
    found = [
        r.judgement
        for r in analysis.rows
        if r.metric == "accuracy" and r.benchmark == claim["benchmark"] and r.family != "trajectory"
        and (r.judgement.axis, r.judgement.level) == (claim["axis"], claim["level"])
    ]  # fmt: skip
    if not found:
        return OPEN, "no such comparison"
    j = found[0]
    numbers = f"{formats.points(j.effect, signed=True)} points against {j.baseline}"
    if j.df < MIN_DF:
        numbers += f"; {j.runs} runs leave {j.df} degrees of freedom"
    else:
        numbers += (
            f", interval {formats.points(j.ci_low, signed=True)} to {formats.points(j.ci_high, signed=True)}"
        )
    if j.seeds_needed and j.verdict == "inconclusive":
        numbers += f"; {formats.points(j.delta)} points would take {j.seeds_needed} seeds"
        numbers += " at the assumed noise" if j.assumed else ""
    return {"works": SUPPORTED, "inconclusive": OPEN}.get(j.verdict, NOT_SUPPORTED), numbers


def _row(frame: pd.DataFrame, model: str, file: Path) -> JsonObject:
    found = [r for r in records(frame) if r["model"] == model]
    if not found:
        raise SpecError(f"no model {model!r} in the table it is about", file=file)
    return found[0]


def read_claims(file: Path) -> PublishedClaims:
    """Reads `{source, question, tables: {accuracy, cost}, questions: {benchmark: n}, claims: [{text, kind, …}]}`.

    Kinds: `best` (benchmark), `degradation` (benchmark, scope), `effect` (benchmark, axis, level), `difference`
    of two models of the accuracy table (benchmark or `all`, better, than; `chosen_from` if the better is the best of
    so many checkpoints), `cost` (cheaper, than).

    Raises:
        SpecError: the file is missing, not JSON, a claim lacks a key, or a table is missing or not to be read.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError("cannot be read", file=file, hint=str(error.strerror)) from error
    except ValueError as error:
        raise SpecError(f"is not JSON: {error}", file=file) from error
    if not isinstance(data, dict) or not isinstance(data.get("claims"), list):
        raise SpecError("needs `claims`, a list", file=file)
    for number, claim in enumerate(data["claims"], 1):
        if not isinstance(claim, dict):
            raise SpecError(f"claim {number}: must be an object, got {claim!r}", file=file)
        kind = claim.get("kind")
        if kind not in list(_KEYS):
            raise SpecError(
                f"claim {number}: `kind` must be one of {', '.join(_KEYS)}, got {kind!r}", file=file
            )
        missing = sorted(({"text"} | _KEYS[kind]) - set(claim))
        if missing:
            raise SpecError(f"claim {number}: `{missing[0]}` is missing", file=file)
    for key in ("tables", "questions"):
        if not isinstance(data.setdefault(key, {}), dict):
            raise SpecError(f"`{key}` must be an object, got {data[key]!r}", file=file)
    for name, number in data["questions"].items():
        if not isinstance(number, int) or number < 1:
            raise SpecError(f"`questions.{name}` must be a whole number > 0, got {number!r}", file=file)
    return PublishedClaims(
        file=file,
        source=str(data.get("source", file.name)),
        question=str(data.get("question", "")),
        claims=tuple(data["claims"]),
        accuracy=_table(file, data["tables"].get("accuracy"), ["model"]),
        questions=data["questions"],
        cost=_table(file, data["tables"].get("cost"), ["model", "cost_usd"]),
    )


def _table(file: Path, name: Any, needed: list[str]) -> pd.DataFrame:
    """A table that claims are about, which lies beside their file."""
    if not name:
        return pd.DataFrame(columns=needed)
    path = file.parent / str(name)
    if not path.exists():
        raise SpecError(f"table {name} is not beside it", file=file)
    try:
        frame = pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise SpecError(f"cannot be read: {str(error).splitlines()[0]}", file=path) from error
    if absent := [c for c in needed if c not in frame.columns]:
        raise SpecError(f"column `{absent[0]}` is missing", file=path)
    return frame
