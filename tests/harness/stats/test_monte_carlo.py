"""Error rates, coverage and power of the whole chain at a size that fits in every test run."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from harness.stats.design import factorial_design
from harness.stats.effects import two_way_effects
from harness.stats.verdicts import Settings, Test, judge_primary

Test.__test__ = False  # its name is not an invitation to pytest


def _design(shape, seeds, drop=()):
    order = {f"a{i}": [str(v) for v in range(n)] for i, n in enumerate(shape)}
    cells = [c for c in product(*(range(n) for n in shape), range(seeds)) if c not in drop]
    levels = {f"a{i}": [str(c[i]) for c in cells] for i in range(len(shape))}
    return cells, factorial_design(levels, order, dict.fromkeys(order, "0"), blocks=[c[-1] for c in cells])


def _answers(rng, cells, questions, samples, effect=0.0, run=0.15, slope=0.4, interaction=0.4):
    """Shares of right samples: logits with question, run, slope and run × question variation.

    The slope differs by question around `effect` (in logits) and belongs to level 1 of the first axis.
    """
    ease = rng.normal(0, 1.5, questions)
    slopes = effect + rng.normal(0, slope, questions)
    logits = ease + rng.normal(0, run, (len(cells), 1)) + rng.normal(0, interaction, (len(cells), questions))
    logits += np.array([[float(c[0] == 1)] for c in cells]) * slopes
    return rng.binomial(samples, 1 / (1 + np.exp(-logits))) / samples


def _judge(y, design, delta=1e-9):
    tests = [
        Test(
            axis=axis,
            contrasts=c,
            effects=two_way_effects(y, design.matrix, [x.weights for x in c]),
            delta=delta,
        )
        for axis, c in design.contrasts.items()
    ]
    return judge_primary(tests, Settings())


@pytest.mark.parametrize(
    ("shape", "seeds", "questions", "drop", "replicates"),
    [
        ((2, 2, 2), 1, 60, (), 500),
        ((2, 2, 2), 1, 30, ((1, 1, 1, 0),), 400),
        ((2, 3, 3), 1, 60, (), 120),
    ],
    ids=["2x2x2", "2x2x2, 30 questions, a missing run", "2x3x3"],
)
def test_a_null_grid_stays_quiet(shape, seeds, questions, drop, replicates):
    rng = np.random.default_rng(11)
    cells, design = _design(shape, seeds, drop)
    false = sum(
        any(j.p_adjusted < 0.05 for j in _judge(_answers(rng, cells, questions, 4), design))
        for _ in range(replicates)
    )
    # At a true rate of 6 % a count beyond this has a probability below 1 %.
    assert false <= stats.binom.ppf(0.99, replicates, 0.06)


def test_intervals_cover_an_effect_that_differs_by_question():
    rng = np.random.default_rng(12)
    cells, design = _design((2, 2, 2), 2)
    weights = [c.weights for c in design.contrasts["a0"]]
    many = np.random.default_rng(0)
    truth = (
        np.mean(
            [
                y[4:8].mean() + y[12:16].mean() - y[:4].mean() - y[8:12].mean()
                for y in (_sorted(cells, _answers(many, cells, 4000, 16, 0.5)) for _ in range(60))
            ]
        )
        / 2
    )
    hits, replicates = 0, 600
    for _ in range(replicates):
        found = two_way_effects(_answers(rng, cells, 60, 4, 0.5), design.matrix, weights)
        half = stats.t.ppf(0.975, found.df) * found.errors[0]
        hits += abs(found.effects[0] - truth) <= half
    assert 0.92 <= hits / replicates <= 0.985


def _sorted(cells, y):
    return y[sorted(range(len(cells)), key=lambda i: (cells[i][-1], cells[i][:-1]))]


def test_effects_of_one_and_a_half_times_the_detectable_one_are_found():
    rng = np.random.default_rng(13)
    cells, design = _design((2, 2, 2), 1)
    nulls = [_judge(_answers(rng, cells, 100, 4), design)[0].detectable_effect for _ in range(60)]
    # Near even odds a logit is a quarter of a fraction, less here for the spread of ease.
    ease = np.random.default_rng(1).normal(0, 1.5, 20000)
    per_logit = float(np.mean(1 / (2 + np.exp(ease) + np.exp(-ease))))
    effect = 1.5 * float(np.median(nulls)) / per_logit
    found = [_judge(_answers(rng, cells, 100, 4, effect), design)[0].p_adjusted < 0.05 for _ in range(150)]
    assert np.mean(found) >= 0.8
