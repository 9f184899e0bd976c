"""Error rates, coverage and power of the whole chain at a size that fits in every test run.

The full size is `python tests/campaigns/monte_carlo.py`; its figures are in results/campaigns/monte_carlo.md.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from harness.stats.verdicts import Test, VerdictSettings, judge_primary
from tests.campaigns.monte_carlo import (
    REQUIRED,
    SCENARIOS,
    Grid,
    _judge,
    adjusted_p,
    effects_of,
    run,
    within,
)
from tests.campaigns.verdict_designs import Runs, adjusted

Test.__test__ = False  # its name is not an invitation to pytest
RESULTS = Path(__file__).resolve().parents[3] / "results" / "campaigns" / "monte_carlo.json"


def _slack(rate, repetitions):
    """What Monte Carlo error adds to a rate in one case of a hundred."""
    return stats.norm.ppf(0.99) * math.sqrt(rate * (1 - rate) / repetitions)


@pytest.mark.parametrize(
    ("name", "repetitions"),
    [
        ("null 2x2x2", 400),
        ("null 2x2x2, 30 questions", 400),
        ("null 2x2x2, 500 questions", 250),
        ("null 2x2x2, 5 points between runs", 300),
        ("null 2x2x2, nothing but sampling noise", 400),
        ("null 2x2x2, unequal seeds", 300),
        ("null 2x2x2, a missing run", 400),
        ("null 2x3x3", 120),
        ("planted 2x2x2", 150),
        ("planted 2x2x2, 30 questions", 150),
        ("forks: data x reward x 3 lengths, 2 seeds", 60),
        ("two checkpoints, 10 evaluations, 30 questions", 200),
        ("one unstable level among six, 3 seeds", 50),
        ("7 topics, 100 questions", 100),
        ("unequal seeds: 2 and 8, the few unstable", 150),
        ("totals, a base measured once against 8 runs", 200),
        ("best of 8, nothing but the seed, 2.5 points", 40),
    ],
)
def test_error_rates_coverage_and_power(name, repetitions):
    found = run(name, repetitions, seed=11)
    for figure, (low, high) in REQUIRED.items():
        if figure in found:
            assert found[figure] >= low - _slack(low, repetitions), figure
            assert found[figure] <= high + _slack(high, repetitions), figure


def test_flat_curves_do_not_degrade_and_falling_ones_do():
    assert run("flat curve, eight runs", 60, seed=11)["decline_found"] <= 0.05 + _slack(0.05, 60)
    found = run("curve that rises and falls, eight runs", 25, seed=11)
    assert found["decline_found"] >= 0.8
    assert found["change_in_set"] >= 0.8


def test_the_set_of_a_change_holds_it_on_long_curves_of_few_runs():
    """Differences of two splits' t² would hold it in 57 to 70 %."""
    found = run("long curve that falls, four runs", 40, seed=11)
    assert found["change_in_set"] >= 0.93 - _slack(0.93, 40)


def test_the_campaign_judges_as_reports_do():
    """The campaign leaves intervals out to save time: its p-values are those of the verdicts."""
    rng = np.random.default_rng(5)
    for grid in (Grid(shape=(2, 3, 3), questions=30), Grid(shape=(2, 2, 2), seeds=2)):
        y = grid.answers(rng, 0.5)
        p = np.concatenate(list(adjusted_p(effects_of(y, grid)).values()))
        assert [j.p_adjusted for j in _judge(y, grid)] == pytest.approx(p.tolist(), abs=1e-12)


def test_the_campaign_judges_designs_as_reports_do():
    runs = Runs(axes={"a": 2, "b": 3}, seeds=3, unstable=(1, 4.0))
    tests = runs.tests(np.random.default_rng(7), 0.5)
    p = np.concatenate(adjusted(tests))
    assert [j.p_adjusted for j in judge_primary(tests, VerdictSettings())] == pytest.approx(
        p.tolist(), abs=1e-12
    )


def test_planted_effect_is_what_was_asked_for():
    grid = Grid(shape=(2, 2, 2), questions=20_000, samples=8)
    effect = grid.logits(0.1)
    cells = np.array(grid.cells())
    rng = np.random.default_rng(6)
    means = [
        (y := grid.answers(rng, effect).mean(axis=1))[cells[:, 0] == 1].mean() - y[cells[:, 0] == 0].mean()
        for _ in range(30)
    ]
    assert np.mean(means) == pytest.approx(0.1, abs=3 * np.std(means) / math.sqrt(30))


def test_committed_figures_are_within_their_bounds():
    results = json.loads(RESULTS.read_text())
    assert list(results) == list(SCENARIOS)
    for name, figures in results.items():
        assert within(name, figures), name
        # At full size: 2,500 of a grid, 1,250 of a design and 625 of a curve.
        assert figures["repetitions"] >= 625
