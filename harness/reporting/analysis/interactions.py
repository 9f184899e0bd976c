"""Pairs of axes of which one changes the other's effect: declared, or found by a test for lack of fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from harness.reporting.analysis.questions import Question, questions_of
from harness.reporting.analysis.responses import Layout, Responses
from harness.reporting.analysis.verdict_rows import tests_for
from harness.stats.design import interaction_name
from harness.stats.verdicts import Judgement, Test, VerdictSettings, judge_primary

GATE = 0.2
"""Share of alpha that the test for lack of fit has. What it lets through replaces verdicts on whole axes by verdicts
on parts of them: a study without interactions errs through it in at most a fifth of alpha beside the others."""


@dataclass(frozen=True)
class SimpleEffect:
    """What a level does at one level of another axis.

    Attributes:
        at_axis, at_level: where.
        judgement: of the level against its baseline there; fractions.
    """

    at_axis: str
    at_level: str
    judgement: Judgement


@dataclass(frozen=True)
class Interaction:
    """A pair of axes, on mean accuracy.

    Attributes:
        axes: the two.
        declared: by the grid; others were tested for lack of fit.
        judgements: differences of effects: how much more a level does at another level of the other axis than at its
            baseline. Of declared pairs as the primary family judges them; of others at `GATE` of alpha, Holm over
            pairs.
        simple: effects of each axis at every level of the other; empty where the pair does not lead.
    """

    axes: tuple[str, str]
    declared: bool
    judgements: tuple[Judgement, ...]
    simple: tuple[SimpleEffect, ...] = ()

    @property
    def found(self) -> bool:
        """Whether the data show that one axis changes the other's effect by enough to matter."""
        return any(j.verdict in ("works", "hurts") for j in self.judgements)

    @property
    def leads(self) -> bool:
        """Whether effects of whole axes say too little: found, or declared and not shown to be without meaning."""
        absent = all(j.verdict == "no meaningful effect" for j in self.judgements)
        return self.found or (self.declared and bool(self.judgements) and not absent)


def interactions_of(
    layout: Layout,
    made: Responses,
    primary: Sequence[Judgement],
    settings: VerdictSettings,
    delta: float,
) -> tuple[Interaction, ...]:
    """Every pair of axes that the runs can tell something about, with simple effects of those that lead.

    Simple effects spend the share of alpha of the axes that they replace: as many tests of the primary family as
    concern axes of leading pairs, over all of them. Among each other Holm, Dunnett within.

    Args:
        layout: of the study.
        made: responses of the primary family.
        primary: its judgements.
        settings: its error rate.
        delta: smallest difference that matters.
    """
    found = [*_declared(layout, primary), *_tested(layout, made, settings, delta)]
    leading = [pair for pair in found if pair.leads]
    if not leading:
        return tuple(found)
    replaced = {axis for pair in leading for axis in (*pair.axes, interaction_name(*pair.axes))}
    replaced |= {interaction_name(*pair.axes[::-1]) for pair in leading}
    tested = list(dict.fromkeys(j.axis for j in primary))
    share = sum(axis in replaced for axis in tested) / max(1, len(tested))
    asked = [(pair, *one) for pair in leading for one in _simple(layout, made, pair.axes, delta)]
    judged = iter(
        judge_primary([test for *_, test in asked], replace(settings, alpha=settings.alpha * share))
    )
    simple: dict[tuple[str, str], list[SimpleEffect]] = {}
    for pair, axis, level, test in asked:
        own = simple.setdefault(pair.axes, [])
        own += [SimpleEffect(axis, level, next(judged)) for _ in test.contrasts]
    return tuple(replace(pair, simple=tuple(simple.get(pair.axes, ()))) for pair in found)


def _pair(axis: str, pairs: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    return next((p for p in pairs if axis in (interaction_name(*p), interaction_name(*p[::-1]))), None)


def _declared(layout: Layout, primary: Sequence[Judgement]) -> Iterator[Interaction]:
    for pair in layout.interactions:
        own = tuple(j for j in primary if _pair(j.axis, [pair]))
        if own:
            yield Interaction(pair, True, own)


def _tested(
    layout: Layout, made: Responses, settings: VerdictSettings, delta: float
) -> Iterator[Interaction]:
    """Undeclared pairs, each added to the main effects alone, so that few runs can tell something about each."""
    varied = [*layout.axes, *([layout.within] if layout.within else [])]
    known = {frozenset(pair) for pair in layout.interactions}
    pairs, tests = [], []
    for pair in combinations(varied, 2):
        if frozenset(pair) in known:
            continue
        alone = replace(layout, interactions=(pair,))
        asked = [q for q in questions_of(alone, made.lookup, made.strata) if _pair(q.axis, [pair])]
        for test in tests_for(alone, asked, made, delta):
            if np.isfinite(test.effects.effects).any():
                pairs.append(pair)
                tests.append(test)
    judged = iter(judge_primary(tests, replace(settings, alpha=settings.alpha * GATE)))
    for pair, test in zip(pairs, tests):
        yield Interaction(pair, False, tuple(next(judged) for _ in test.contrasts))


def _simple(
    layout: Layout, made: Responses, pair: tuple[str, str], delta: float
) -> Iterator[tuple[str, str, Test]]:
    """Of both axes of a pair: the other axis, its level, and the test of the axis there."""
    for axis, other in (pair, pair[::-1]):
        for level in layout.order[other]:
            for test in tests_for(layout, _asked_at(layout, made, axis, other, level), made, delta):
                yield other, level, test


def _asked_at(layout: Layout, made: Responses, axis: str, other: str, level: str) -> list[Question]:
    """What an axis does at one level of another."""
    plain = replace(layout, interactions=())
    if other in layout.nest:
        at = layout.nest.index(other)
        plain = replace(plain, cells=tuple(c for c in layout.cells if c[at] == level))
        if not plain.cells:
            return []
    elif axis in layout.nest:
        plain = replace(plain, families=tuple(f for f in layout.families if f.levels[other] == level))
    else:
        return _within_cells(plain, made, axis, other, level)
    return [q for q in questions_of(plain, made.lookup, made.strata) if q.axis == axis]


def _within_cells(layout: Layout, made: Responses, axis: str, other: str, level: str) -> list[Question]:
    """Both between families: their cells are the levels of one axis, so that the spread of all runs counts."""
    both = interaction_name(axis, other)
    families = tuple(
        replace(f, levels={**f.levels, both: interaction_name(f.levels[axis], f.levels[other])})
        for f in layout.families
    )
    order = [interaction_name(a, b) for a in layout.order[axis] for b in layout.order[other]]
    there = {interaction_name(a, level): a for a in layout.order[axis]}
    merged = replace(
        layout,
        axes=(both, *(a for a in layout.axes if a not in (axis, other))),
        families=families,
        order={**layout.order, both: order},
        baselines={**layout.baselines, both: interaction_name(layout.baselines[axis], level)},
    )
    asked = []
    for q in questions_of(merged, made.lookup, made.strata):
        keep = [i for i, c in enumerate(q.contrasts) if c.level in there]
        if q.axis == both and keep:
            base = layout.baselines[axis]
            contrasts = tuple(
                replace(q.contrasts[i], level=there[q.contrasts[i].level], baseline=base) for i in keep
            )
            # One spread for the runs of a level, as in the verdict on the whole axis.
            of_axis = {interaction_name(a, b): a for a in layout.order[axis] for b in layout.order[other]}
            levels = tuple(of_axis[v] for v in q.levels)
            asked.append(replace(q, axis=axis, contrasts=contrasts, weights=q.weights[keep], levels=levels))
    return asked
