"""Designs that people run and that are no balanced grids, through the functions that `harness.report` judges them by.

Layouts come from tables of runs as a file of results has them; answers are simulated anew in every repetition.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special, stats

from harness.reporting.analysis.questions import questions_of
from harness.reporting.analysis.responses import Layout, Responses, lay_out
from harness.reporting.analysis.verdict_rows import tests_of
from harness.reporting.sources.external import external_study
from harness.reporting.sources.inference import TRAINING_SEEDS, Inference
from harness.stats.bestof import RunNoise, best_of_identical
from harness.stats.effects import AnswerNoise, run_effects
from harness.stats.looks import Looks
from harness.stats.multiplicity import dunnett_p, holm
from harness.stats.power import ASSUMED, MIN_DF
from harness.stats.verdicts import Test, VerdictSettings, judge_primary

FloatArray = npt.NDArray[np.float64]
Figures = dict[str, float]

ALPHA = 0.05
_EASE = 1.5
_NODES = 61


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs of a design with their noise, in logits; a logit is about 17 points where questions are of middling ease.

    Attributes:
        axes: levels by axis; the first is the one that effects are planted on.
        seeds: of every combination of levels, or of every level of a single axis [levels].
        forks: axes that vary within families: their runs share `trunk` of the variance between runs.
        trunk: that share.
        inference: what is said of the file.
        questions, samples: of the benchmark.
        totals: whether accuracies alone are known.
        run: standard deviation between runs.
        unstable: level of the last axis whose runs differ more, and how many times as much.
        slope: of each level's effect between questions.
        interaction: run × question.
        topics: number of topics, of which the effect of each level differs; 0 for none.
        by_topic: standard deviation of that.
        ease: mean of questions' logits: −2.5 is a hard benchmark.
        evaluations: of each run, as rows of their own; 0 where evaluations are not repeated.
    """

    axes: dict[str, int]
    seeds: int | tuple[int, ...] = 1
    forks: tuple[str, ...] = ()
    trunk: float = 0.8
    inference: Inference = TRAINING_SEEDS
    questions: int = 100
    samples: int = 4
    totals: bool = False
    run: float = 0.15
    unstable: tuple[int, float] | None = None
    slope: float = 0.3
    interaction: float = 0.3
    topics: int = 0
    by_topic: float = 0.0
    ease: float = 0.0
    evaluations: int = 0
    drop: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def cells(self) -> list[tuple[int, ...]]:
        """Levels and seed of every run."""
        found = []
        for levels in product(*(range(n) for n in self.axes.values())):
            count = self.seeds if isinstance(self.seeds, int) else self.seeds[levels[0]]
            found += [(*levels, seed) for seed in range(count)]
        return [cell for cell in found if cell not in self.drop]

    @cached_property
    def families(self) -> list[tuple[int, ...]]:
        """Trunk of every run."""
        kept = [i for i, axis in enumerate(self.axes) if axis not in self.forks]
        return [(*(cell[i] for i in kept), cell[-1]) for cell in self.cells]

    @cached_property
    def layout(self) -> Layout:
        """The layout that a report would judge."""
        names = list(self.axes)
        rows = [
            {**{f"axis.{a}": str(v) for a, v in zip(names, cell)}, "run": f"r{i}", "seed": cell[-1],
             "family": str(family), "benchmark": "b", "questions": 10, "samples_per_question": 1,
             "accuracy_percent": 50}
            for i, (cell, family) in enumerate(zip(self.cells, self.families))
        ]  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "rows.csv"
            pd.DataFrame(rows).to_csv(file, index=False)
            inference = self.inference
            if inference.unit == "checkpoint":
                inference = replace(inference, unit="recipe")
            study = external_study([file], Path(folder) / "out", inference=inference)
            study.grid["verdict"]["unit"] = self.inference.unit
            return lay_out(study)

    def logits(self, rng: np.random.Generator, effect: float) -> FloatArray:
        """Of a right answer [R, Q]. Level 1 of the first axis adds `effect` on average over questions."""
        cells = np.array(self.cells)
        _, family = np.unique(np.array(self.families), axis=0, return_inverse=True)
        size, last = len(cells), cells[:, len(self.axes) - 1]
        scale = np.ones(size)
        if self.unstable is not None:
            scale[last == self.unstable[0]] = self.unstable[1]
        share = self.trunk if self.forks else 0.0

        def deviations(sd: float, width: int) -> FloatArray:
            common = rng.normal(0, sd * math.sqrt(share), (int(family.max()) + 1, width))[family]
            return np.asarray(common + rng.normal(0, sd * math.sqrt(1 - share), (size, width)))

        logits = rng.normal(self.ease, _EASE, self.questions) + scale[:, None] * deviations(self.run, 1)
        logits = logits + deviations(self.interaction, self.questions)
        for axis, count in enumerate(self.axes.values()):
            # Every level differs from the others by question, so that the mean of none does.
            level = rng.normal(0, self.slope / math.sqrt(2), (count, self.questions))
            if self.topics:
                level += rng.normal(0, self.by_topic / math.sqrt(2), (count, self.topics))[:, self.topic_of]
            if axis == 0:
                level[1] += effect
            logits = logits + level[cells[:, axis]]
        return np.asarray(logits)

    @cached_property
    def topic_of(self) -> npt.NDArray[np.intp]:
        """Topic of every question, of unequal sizes."""
        sizes = np.linspace(0.5, 1.5, max(1, self.topics))
        return np.repeat(
            np.arange(len(sizes)),
            np.diff(np.rint(np.cumsum([0, *sizes / sizes.sum()]) * self.questions)).astype(int),
        )

    def responses(self, rng: np.random.Generator, effect: float) -> Responses:
        """Simulated answers as a report takes them."""
        p = special.expit(self.logits(rng, effect))
        tries = self.samples * max(1, self.evaluations)
        y = rng.binomial(tries, p) / tries
        strata, noise, noise_df, clusters = np.zeros(self.questions, dtype=np.intp), None, None, None
        if self.totals:
            each = (
                rng.binomial(self.samples, np.repeat(p[None], max(1, self.evaluations), axis=0))
                / self.samples
            )
            scores = each.mean(axis=2)
            y, strata = scores.mean(axis=0)[:, None], np.zeros(1, dtype=np.intp)
            rate = float(y.mean())
            noise = rate * (1 - rate) / (self.questions * tries)
            if self.evaluations > 1:
                noise = float(scores.var(axis=0, ddof=1).mean()) / self.evaluations
                noise_df = float((self.evaluations - 1) * len(y))
        elif self.topics:
            clusters = self.topic_of
        found = {(f"r{i}", 1): row for i, row in enumerate(y)}
        return Responses(lambda run, step: found.get((run, step)), strata, clusters, tries, noise, noise_df)

    def tests(self, rng: np.random.Generator, effect: float = 0.0, delta: float = 1e-9) -> list[Test]:
        """What a report would judge."""
        return tests_of(self.layout, self.responses(rng, effect), delta)[0]

    def rate(self, effect: float = 0.0) -> float:
        """Accuracy of a level over all questions and runs, by quadrature."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
        level = (self.slope**2 + (self.by_topic**2 if self.topics else 0.0)) / 2
        variance = _EASE**2 + self.run**2 + self.interaction**2 + len(self.axes) * level
        return float(
            weights @ special.expit(self.ease + effect + math.sqrt(variance) * nodes) / weights.sum()
        )

    def truth(self, effect: float) -> float:
        """What level 1 of the first axis adds to accuracy over all questions and runs."""
        return self.rate(effect) - self.rate()

    def effect_of(self, points: float) -> float:
        """The effect in logits that changes accuracy by `points`, a fraction."""
        low, high = 0.0, 12.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if self.truth(middle) < points else (low, middle)
        return low


def adjusted(tests: Sequence[Test]) -> list[FloatArray]:
    """p_adjusted of `judge_primary` without its intervals, which cost most time; 1 where no verdict is given."""
    raw = []
    for test in tests:
        e = test.effects
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(e.errors > 0, e.effects / e.errors, np.where(e.effects == 0, 0.0, np.inf))
        raw.append(dunnett_p(t, e.correlation, e.t_df) if e.df > 0 else np.full(len(t), np.nan))
    of_axis, own = holm([float(np.nanmin(p)) if np.isfinite(p).any() else math.nan for p in raw])
    return [
        np.where(
            (test.effects.verdict_df >= MIN_DF) & np.isfinite(p),
            np.maximum(of_axis[i], np.minimum(1.0, own[i] * p)),
            1.0,
        )
        for i, (test, p) in enumerate(zip(tests, raw))
    ]


def null(runs: Runs, repetitions: int, rng: np.random.Generator) -> Figures:
    """Any false verdict, and coverage of unadjusted 95 % intervals."""
    false, covered, asked = 0, 0, 0
    for _ in range(repetitions):
        tests = runs.tests(rng)
        false += any((p < ALPHA).any() for p in adjusted(tests))
        for test in tests:
            e = test.effects
            reach = stats.t.isf(0.025, np.maximum(e.t_df, 1)) * e.errors
            given = np.isfinite(reach)
            covered += int((np.abs(e.effects) <= reach)[given].sum())
            asked += int(given.sum())
    return {"false_verdicts": false / repetitions, "coverage": covered / max(1, asked)}


def powered(runs: Runs, repetitions: int, rng: np.random.Generator) -> Figures:
    """How often the effect that one study states as detectable is found by another, averaged over both."""
    stated = []
    for _ in range(min(100, repetitions)):
        judged = judge_primary(runs.tests(rng), VerdictSettings())[0]
        if not judged.beyond_possible:
            stated.append(min(judged.detectable_effect, 0.999 - runs.rate()))
    effects = [runs.effect_of(points) for points in stated]
    truths = [runs.truth(effect) for effect in effects]
    found, covered = 0, 0
    for i in range(repetitions):
        tests = runs.tests(rng, effects[i % len(effects)])
        e = tests[0].effects
        found += bool(adjusted(tests)[0][0] < ALPHA and e.effects[0] > 0)
        reach = stats.t.isf(0.025, e.t_df[0]) * e.errors[0]
        covered += bool(abs(e.effects[0] - truths[i % len(truths)]) <= reach)
    return {
        "power_at_stated": found / repetitions,
        "coverage": covered / repetitions,
        "stated_points": 100 * float(np.median(stated)),
    }


def looked_at(declared: bool, repetitions: int, rng: np.random.Generator) -> Figures:
    """Seeds added from 2 to 10, a look after each, stopping at the first verdict."""
    runs = Runs(axes={"a": 2}, seeds=10)
    y = {n: Runs(axes={"a": 2}, seeds=n).layout for n in range(2, 11)}
    false = 0
    for _ in range(repetitions):
        made = runs.responses(rng, 0.0)
        rows = {(cell[0], cell[1]): made.lookup(f"r{i}", 1) for i, cell in enumerate(runs.cells)}
        taken: list[float] = []
        for n, layout in y.items():
            names = {
                f"r{i}": rows[level, seed] for i, (level, seed) in enumerate(product(range(2), range(n)))
            }
            own = replace(made, lookup=lambda run, step, names=names: names[run])
            test = tests_of(layout, own, 1e-9)[0][0]
            if test.effects.verdict_df[0] < MIN_DF:
                continue
            taken.append(2.0 * n)
            planned = tuple(2.0 * v for v in range(3, 11)) if declared else ()
            level = Looks(alpha=ALPHA, information=tuple(taken), declared=planned).level
            t = float(test.effects.effects[0] / test.effects.errors[0])
            if 2 * stats.t.sf(abs(t), test.effects.t_df[0]) < level:
                false += 1
                break
    return {"false_verdicts": false / repetitions}


def undeclared_looks(_: Runs, repetitions: int, rng: np.random.Generator) -> Figures:
    """Nobody said that seeds would be added."""
    return looked_at(False, repetitions, rng)


def declared_looks(_: Runs, repetitions: int, rng: np.random.Generator) -> Figures:
    """The grid declared a look at every number of seeds."""
    return looked_at(True, repetitions, rng)


def equalities(runs: Runs, repetitions: int, rng: np.random.Generator) -> Figures:
    """Any false `no meaningful effect`, where level 1 of every axis is exactly delta from the baseline."""
    delta = 0.02
    shift = runs.effect_of(delta)
    false = 0
    for _ in range(repetitions):
        made = runs.responses(rng, 0.0)
        p = special.expit(runs.logits(rng, 0.0) + shift * np.array(runs.cells)[:, :-1].sum(axis=1)[:, None])
        y = rng.binomial(runs.samples, p) / runs.samples
        found = {(f"r{i}", 1): row for i, row in enumerate(y)}
        own = replace(made, lookup=lambda run, step, found=found: found[run, step])
        tests = tests_of(runs.layout, own, delta)[0]
        words = [j.verdict for j in judge_primary(tests, VerdictSettings())]
        false += "no meaningful effect" in words
    return {"false_equalities": false / repetitions}


def best_of(runs: Runs, repetitions: int, rng: np.random.Generator) -> Figures:
    """How often the best checkpoint is above what chance gives, where nothing but the seed differs."""
    above = 0
    for _ in range(repetitions):
        made = runs.responses(rng, 0.0)
        y = np.array([made.lookup(f"r{i}", 1) for i in range(len(runs.cells))])
        scores = y.mean(axis=1)
        rates = y.mean(axis=0)
        sampling = float((rates * (1 - rates)).mean()) / (runs.questions * runs.samples)
        effects = run_effects(scores, *_design(runs.layout))
        square = float(effects.run_variance[0] / effects.leverage[0])
        noise = RunNoise.of(square, sampling, effects.df, assumed=ASSUMED.run)
        guard = best_of_identical(
            len(scores), float(scores.mean()), float(scores.max()), rates=rates,
            samples=np.full(runs.questions, runs.samples), run_noise=noise,
        )  # fmt: skip
        above += not guard.chance
    return {"false_best": above / repetitions}


def measured_once(_: Runs, repetitions: int, rng: np.random.Generator) -> Figures:
    """Eight runs against one evaluation of the untrained model, accuracies alone."""
    false, covered, rate, questions = 0, 0, 0.5, 200
    for _ in range(repetitions):
        base = rng.binomial(questions, rate) / questions
        after = rng.binomial(questions, np.clip(rate + rng.normal(0, 0.01, 8), 0, 1)) / questions
        noise = rate * (1 - rate) / questions
        e = run_effects(
            after - base, np.ones((8, 1)), [[1.0]], AnswerNoise(variance=np.full(8, noise), shared=noise)
        )
        reach = stats.t.isf(0.025, e.t_df[0]) * e.errors[0]
        false += abs(e.effects[0]) > reach
        covered += abs(e.effects[0]) <= reach
    return {"false_verdicts": false / repetitions, "coverage": covered / repetitions}


def _design(layout: Layout) -> tuple[FloatArray, FloatArray]:
    """Design and contrasts of the first axis."""
    question = questions_of(layout, lambda run, step: np.zeros(1), np.zeros(1, dtype=np.intp))[0]
    return question.matrix, question.weights


SHARED = Inference(shared_seeds=True)
CHECKPOINT = Inference(unit="checkpoint")
_SIX = {"a": 6}
DESIGNS: dict[str, tuple[Callable[..., Figures], Runs]] = {
    "forks: data x reward x 3 lengths, 1 seed": (
        null, Runs(axes={"data": 2, "reward": 2, "length": 3}, forks=("length",), inference=SHARED)),
    "forks: data x reward x 3 lengths, 2 seeds": (
        null, Runs(axes={"data": 2, "reward": 2, "length": 3}, forks=("length",), seeds=2, inference=SHARED)),
    "forks: 3 schedules of one trunk x data, 3 seeds": (
        null, Runs(axes={"data": 2, "schedule": 3}, forks=("schedule",), seeds=3, inference=SHARED)),
    "two checkpoints, 10 evaluations, 500 questions": (
        null, Runs(axes={"a": 2}, inference=CHECKPOINT, run=0.0, samples=1, evaluations=10, questions=500)),
    "two checkpoints, 10 evaluations, 30 questions": (
        null, Runs(axes={"a": 2}, inference=CHECKPOINT, run=0.0, samples=1, evaluations=10, questions=30)),
    "two checkpoints, 10 evaluations, totals of 30 questions": (
        null, Runs(axes={"a": 2}, inference=CHECKPOINT, run=0.0, slope=0.0, interaction=0.0, samples=1,
                   evaluations=10, questions=30, totals=True)),
    "one unstable level among six, 2 seeds": (null, Runs(axes=_SIX, seeds=2, unstable=(2, 6.0))),
    "one unstable level among six, 3 seeds": (null, Runs(axes=_SIX, seeds=3, unstable=(2, 6.0))),
    "one unstable level among three, 4 seeds": (null, Runs(axes={"a": 3}, seeds=4, unstable=(2, 6.0))),
    "unstable baseline among six, 3 seeds": (null, Runs(axes=_SIX, seeds=3, unstable=(0, 6.0))),
    "7 topics, 500 questions": (
        null, Runs(axes={"a": 2, "b": 2}, seeds=4, run=0.05, questions=500, topics=7, by_topic=0.4)),
    "7 topics, 100 questions": (
        null, Runs(axes={"a": 2, "b": 2}, seeds=4, run=0.05, topics=7, by_topic=0.4)),
    "totals, a base measured once against 8 runs": (measured_once, Runs(axes={"a": 2})),
    "totals, 2 recipes x 4 seeds": (null, Runs(axes={"a": 2}, seeds=4, totals=True, slope=0.0)),
    "totals, 2 recipes x 4 seeds, power": (powered, Runs(axes={"a": 2}, seeds=4, totals=True, slope=0.0)),
    "seeds added from 2 to 10, looks not declared": (undeclared_looks, Runs(axes={"a": 2})),
    "seeds added from 2 to 10, looks declared": (declared_looks, Runs(axes={"a": 2})),
    "three equalities, each exactly delta": (
        equalities, Runs(axes={"a": 2, "b": 2, "c": 2}, seeds=4, questions=2000, run=0.06, slope=0.1)),
    "best of 8, nothing but the seed, 2.5 points": (best_of, Runs(axes={"a": 2, "b": 2}, seeds=2, questions=500)),
    "best of 8, nothing but the seed, 1 point": (
        best_of, Runs(axes={"a": 2, "b": 2}, seeds=2, questions=500, run=0.06)),
    "power at df 4: 2x2x2": (powered, Runs(axes={"a": 2, "b": 2, "c": 2})),
    "power at df 3: 2x3 forks": (
        powered, Runs(axes={"a": 2, "length": 3}, forks=("length",), seeds=4, inference=SHARED)),
    "power, 30 hard questions": (powered, Runs(axes={"a": 2, "b": 2}, seeds=2, questions=30, ease=-2.5)),
    "power near the ceiling": (powered, Runs(axes={"a": 2, "b": 2, "c": 2}, questions=200, ease=4.0)),
    "power: three levels, 4 seeds": (powered, Runs(axes={"a": 3}, seeds=4)),
    "two recipes x 3 seeds": (null, Runs(axes={"a": 2}, seeds=3)),
    "two recipes x 3 seeds, power": (powered, Runs(axes={"a": 2}, seeds=3)),
    "a base with one run beside five of a recipe and four of another": (null, Runs(axes={"a": 3}, seeds=(1, 5, 4))),
    "a run lacks: 2x3, 2 seeds": (null, Runs(axes={"a": 2, "b": 3}, seeds=2, drop=((1, 2, 1),))),
    # From here on: chosen after the method had been settled on those above.
    "2x6, one unstable level": (null, Runs(axes={"a": 2, "b": 6}, unstable=(3, 6.0))),
    "3x3, 2 seeds": (null, Runs(axes={"a": 3, "b": 3}, seeds=2)),
    "3x3, 2 seeds, an unstable level": (null, Runs(axes={"a": 3, "b": 3}, seeds=2, unstable=(1, 4.0))),
    "forks of a weak trunk: reward x 4 schedules, 3 seeds": (
        null, Runs(axes={"reward": 2, "schedule": 4}, forks=("schedule",), seeds=3, trunk=0.3, inference=SHARED)),
    "20 topics, 400 questions, 1 sample": (
        null, Runs(axes={"a": 2, "b": 2}, seeds=2, questions=400, samples=1, topics=20, by_topic=0.3)),
    "unequal seeds: 3, 8 and 5": (null, Runs(axes={"a": 3}, seeds=(3, 8, 5))),
    "unequal seeds: 2 and 8, the few unstable": (null, Runs(axes={"a": 2}, seeds=(2, 8), unstable=(0, 3.0))),
    "five checkpoints, 100 questions, 4 samples": (null, Runs(axes={"a": 5}, inference=CHECKPOINT, run=0.0)),
    "totals, 4 recipes x 3 seeds, 30 questions": (
        null, Runs(axes={"a": 4}, seeds=3, totals=True, slope=0.0, questions=30, samples=1)),
}  # fmt: skip
