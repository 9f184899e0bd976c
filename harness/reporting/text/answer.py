"""The first screen: what to use, what not, what is undecided and what to buy next, in ten lines at most."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from harness import units
from harness.reporting import formats
from harness.reporting.analysis.analysis import Analysis
from harness.reporting.analysis.interactions import SimpleEffect
from harness.reporting.frames import column
from harness.reporting.tables.base import Table
from harness.reporting.text.conclusions import Conclusions
from harness.stats.power import MIN_DF, NOTHING_BOUGHT
from harness.stats.verdicts import Judgement, VerdictWord

_MOST = 4
"""Choices that a line names."""


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        label: what it answers.
        text: the answer.
    """

    label: str
    text: str


def answer(analysis: Analysis, conclusions: Conclusions, tables: dict[str, Table]) -> tuple[Line, ...]:
    """The lines; what a study cannot answer has none."""
    simple = [s for pair in analysis.leading() for s in pair.simple]
    whole = analysis.whole_axes()
    found = [
        Line("Is it complete?", conclusions.incomplete),
        Line("Did training help?", conclusions.training),
        Line("Use", _choices(whole, simple, "works")),
        Line("Do not use", _choices(whole, simple, "hurts")),
        Line("Choose freely", _choices(whole, simple, "no meaningful effect")),
        Line("Not decided", _choices(whole, simple, "inconclusive") or "; ".join(conclusions.nothing)),
        Line("Buy next", purchase(analysis, tables)),
        Line("The highest score", _headline(analysis)),
    ]
    return tuple(line for line in found if line.text)


def _choices(whole: Iterable[Judgement], simple: Iterable[SimpleEffect], word: VerdictWord) -> str:
    named = [f"{j.axis} = {j.level}{_against(j, word)}" for j in whole if j.verdict == word]
    places: dict[tuple[str, str], list[SimpleEffect]] = {}
    for s in simple:
        places.setdefault((s.judgement.axis, s.judgement.level), []).append(s)
    for (axis, level), effects in places.items():
        own = [s for s in effects if s.judgement.verdict == word]
        if own:
            where = ", ".join(f"{s.at_level} ({_points(s.judgement)})" for s in own)
            every = "every " if len(own) == len(effects) > 1 else ""
            against = f" (against {own[0].judgement.baseline})"
            named.append(f"{axis} = {level}{against} at {every}{own[0].at_axis} = {where}")
    rest = f"; {len(named) - _MOST} more below" if len(named) > _MOST else ""
    return "; ".join(named[:_MOST]) + rest


def _points(j: Judgement) -> str:
    return "not measured" if formats.is_empty(j.effect) else f"{formats.signed_points(j.effect)} points"


def _against(j: Judgement, word: VerdictWord) -> str:
    if formats.is_empty(j.effect):
        return " (not measured)"
    seen = f"{formats.signed_points(j.effect)} points against {j.baseline}"
    if word == "no meaningful effect":
        return f" or {j.baseline}"
    if word != "inconclusive":
        return f" ({seen})"
    if j.df < MIN_DF or formats.is_empty(j.ci_low):
        return f" ({seen}, too few runs to judge)"
    low, high = formats.signed_points(j.ci_low), formats.signed_points(j.ci_high)
    return f" ({seen}, may be {low} to {high})"


def _headline(analysis: Analysis) -> str:
    """The best score, and whether it is more than the luck of the best of many."""
    if not analysis.best_of_checks:
        return ""
    f = analysis.best_of_checks[-1].result
    read = "no more than the best of as many equal ones would show" if f.chance else "more than luck gives"
    return f"{formats.percent(f.best)}, the best of {f.checkpoints} checkpoints: {read}"


@dataclass(frozen=True)
class _Offer:
    """Something that can be bought.

    Attributes:
        words: what.
        reach: effect that would be detectable then; NaN where it cannot be told.
        cost_usd: NaN where it is not known.
    """

    words: str
    reach: float
    cost_usd: float


def purchase(analysis: Analysis, tables: dict[str, Table]) -> str:
    """What narrows the undecided verdict the most for a dollar, and what that buys; empty where all is decided."""
    undecided = [j for j in analysis.whole_axes() if j.verdict == "inconclusive"]
    undecided += [
        s.judgement
        for pair in analysis.leading()
        for s in pair.simple
        if s.judgement.verdict == "inconclusive"
    ]
    undecided = [j for j in undecided if j.purchases is not None]
    if not undecided or analysis.layout.unit == "checkpoint":
        return ""
    j = min(undecided, key=_closeness)
    now = j.detectable_effect
    offers = _offers(analysis, j, tables)
    if j.df < MIN_DF:
        offers = offers[:1]
    best = max(offers, key=lambda offer: _worth(offer, now))
    if j.df >= MIN_DF and _worth(best, now) <= 0:
        return ""
    money = "" if math.isnan(best.cost_usd) else f", about {units.dollars(best.cost_usd)}"
    buys = ""
    if not math.isnan(best.reach):
        before = f" (now {formats.points(now)})" if not math.isnan(now) and j.df >= MIN_DF else ""
        reach = formats.points(best.reach)
        buys = f": then effects of {j.axis} = {j.level} from {reach} points up can be found{before}"
    elif j.df < MIN_DF:
        buys = f": verdicts on {j.axis} need {MIN_DF} degrees of freedom, it has {j.df}"
    return f"{best.words}{money}{buys}{_all_of_it(j)}"


def _all_of_it(j: Judgement) -> str:
    delta = formats.points(j.delta)
    if j.seeds_needed is None:
        return f". To settle {delta} points not even 100 seeds would do"
    most = "more than 100" if j.seeds_high is None else str(j.seeds_high)
    least = str(j.seeds_low or j.seeds_needed)
    return f". To settle {delta} points: {least if least == most else f'{least} to {most}'} seeds"


def _closeness(j: Judgement) -> float:
    return j.detectable_effect if not formats.is_empty(j.detectable_effect) else math.inf


def _worth(offer: _Offer, now: float) -> float:
    """Logarithm by which the detectable effect shrinks, a dollar; without prices, by itself."""
    if math.isnan(offer.reach):
        return -math.inf
    gained = math.log(now / offer.reach) if now > 0 and offer.reach > 0 else 1.0
    return gained / offer.cost_usd if offer.cost_usd > 0 else gained


def _offers(analysis: Analysis, j: Judgement, tables: dict[str, Table]) -> list[_Offer]:
    study, bought = analysis.study, j.purchases or NOTHING_BOUGHT
    seeds = sorted(int(s) for s in study.cells["seed"].unique())
    cells, which = study.cells, "every cell"
    if j.axis in study.axes and j.axis not in study.steps_axes:
        wanted = cells[j.axis].astype(str).isin([j.level, j.baseline])
        if not wanted.all():
            cells, which = cells[wanted], f"the cells with {j.axis} = {j.baseline} or {j.level}"
    runs = set(cells["run"].astype(str))
    training, evaluation = _spent(tables, runs)
    number = f" (seed = {seeds[-1] + 1})" if seeds else ""
    count = len(runs) // max(1, len(seeds))
    again = f"{count} run{'s' * (count != 1)}"
    return [
        _Offer(
            f"one more seed{number} of {which}, {again}", bought.one_more_seed, training / max(1, len(seeds))
        ),
        _Offer(f"twice the questions for {which}", bought.twice_the_questions, evaluation),
        _Offer(f"twice the samples a question for {which}", bought.twice_the_samples, evaluation),
    ]


def _spent(tables: dict[str, Table], runs: set[str]) -> tuple[float, float]:
    """Dollars that some runs took in all, and their evaluations; NaN where no prices are known."""
    if "cost" not in tables:
        return math.nan, math.nan
    frame = tables["cost"].frame
    own = frame[frame["run"].astype(str).isin(runs)]
    known = column(own, "cost_usd")
    if own.empty or known.isna().any():
        return math.nan, math.nan
    return float(known.sum()), float(column(own, "evaluation_usd").sum())
