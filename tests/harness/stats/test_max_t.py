import math
from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats

from harness.stats.bestof import corrected_best
from harness.stats.effects import two_way_effects
from harness.stats.max_t import max_t

_REPETITIONS = 600


def _slack(rate):
    """Twice and a half what Monte Carlo error adds to a rate."""
    return 2.5 * math.sqrt(rate * (1 - rate) / _REPETITIONS)


def _grid(cells, seeds):
    """Cell and seed of every run of a complete grid."""
    return np.tile(np.arange(cells), seeds), np.repeat(np.arange(seeds), cells)


def _answers(rng, cells, seeds, *, questions=20, lift=0.0, run_sd=0.03):
    """Shares of right answers [R, Q]: questions differ, seeds shift all runs, runs vary; cell 0 is `lift` better."""
    rate = rng.uniform(0.2, 0.7, questions) + rng.normal(0, 0.05, int(seeds.max()) + 1)[seeds, None]
    rate = rate + rng.normal(0, run_sd, len(cells))[:, None] + lift * (cells == 0)[:, None]
    return rng.binomial(4, np.clip(rate, 0, 1)) / 4


def _t(y, cells, seeds, strata, reference=None):
    """Distances over standard errors, from the estimates and variances that the verdicts use."""
    count = int(cells.max()) + 1
    design = np.hstack([np.eye(count)[cells], np.eye(int(seeds.max()) + 1)[seeds]])
    others = (1 - np.eye(count)) / (count - 1) if reference is None else np.eye(count)[[reference] * count]
    rows = [c for c in range(count) if c != reference]
    contrasts = np.hstack([(np.eye(count) - others)[rows], np.zeros((len(rows), int(seeds.max()) + 1))])
    effects = two_way_effects(y, design, contrasts, strata)
    return effects.effects / np.sqrt(effects.run_variance + effects.question_variance)


def _brute_force(y, cells, seeds, strata, reference=None):
    parts = [np.flatnonzero(seeds == s) for s in np.unique(seeds)]
    runs = np.concatenate(parts)
    largest = []
    for order in product(*map(permutations, parts)):
        moved = y.copy()
        moved[runs] = y[np.concatenate(order)]
        largest.append(_t(moved, cells, seeds, strata, reference).max())
    seen = _t(y, cells, seeds, strata, reference)
    return [float(np.mean(np.array(largest) >= t - 1e-9)) for t in seen], len(largest)


def test_three_pairs_by_hand():
    """Two cells, three seeds: the statistic is the paired t, and of 8 arrangements only the two in which one cell
    has every better run reach the observed one."""
    y = np.array([0.6, 0.5, 0.7, 0.5, 0.8, 0.5])[:, None]
    found = max_t(y, *_grid(2, 3))
    paired = stats.ttest_rel(y[::2, 0], y[1::2, 0]).statistic
    assert found.estimates == pytest.approx(np.array([[0.2, -0.2]]))
    assert found.statistics == pytest.approx(np.array([[paired, -paired]]))
    assert found.p_values[0, 0] == found.least_p == 2 / 8
    assert found.p_values[0, 1] == 1
    assert (found.permutations, found.exact) == (8, True)
    assert found.run_variance == pytest.approx(np.var([0.1, 0.2, 0.3], ddof=1) / 2)


@pytest.mark.parametrize("reference", [None, 1])
@pytest.mark.parametrize("missing", [(), (4,), (0, 7)])
def test_against_enumeration_by_brute_force(reference, missing):
    rng = np.random.default_rng(3)
    cells, seeds = (np.delete(a, missing) for a in _grid(3, 3))
    strata = np.repeat([0, 1], [6, 10])
    y = _answers(rng, cells, seeds, questions=16, lift=0.1)
    found = max_t(y, cells, seeds.tolist(), strata=strata, reference=reference)
    tested = [c for c in range(3) if c != reference]
    expected, arrangements = _brute_force(y, cells, seeds, strata, reference)
    assert found.statistics[0, tested] == pytest.approx(_t(y, cells, seeds, strata, reference))
    assert found.p_values[0, tested] == pytest.approx(expected, abs=1e-12)
    assert (found.permutations, found.exact) == (arrangements, True)
    assert found.p_values[0, tested].min() >= found.least_p - 1e-12
    if reference is not None:
        assert math.isnan(found.p_values[0, reference])


def test_several_lengths_move_together():
    """Checkpoints of a run change places as one: the largest statistic is over all of them."""
    rng = np.random.default_rng(4)
    cells, seeds = _grid(3, 2)
    y = np.array([_answers(rng, cells, seeds) for _ in range(2)])
    found = max_t(y, cells, seeds.tolist())
    parts = [np.flatnonzero(seeds == s) for s in (0, 1)]
    largest = np.array(
        [
            max(_t(one[np.concatenate(order)], cells, seeds, None).max() for one in y)
            for order in product(*map(permutations, parts))
        ]
    )
    for k in range(2):
        expected = [(largest >= t - 1e-9).mean() for t in _t(y[k], cells, seeds, None)]
        assert found.p_values[k] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("missing", [(), (0, 5)])
def test_identical_cells_are_told_apart_as_often_as_stated(missing):
    rng = np.random.default_rng(11)
    cells, seeds = (np.delete(a, missing) for a in _grid(4, 3))
    p = [
        max_t(_answers(rng, cells, seeds), cells, seeds.tolist(), most=199, seed=i).p_values.min()
        for i in range(_REPETITIONS)
    ]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=_slack(0.05))


def test_enumerated_p_values_are_uniform():
    """One figure a run, so that no two of the 216 arrangements tie but for the names of cells: steps of 1/36."""
    rng = np.random.default_rng(12)
    cells, seeds = _grid(3, 3)
    p = np.array(
        [max_t(rng.normal(size=(9, 1)), cells, seeds.tolist()).p_values.min() for _ in range(_REPETITIONS)]
    )
    for level in (1 / 36, 2 / 36, 6 / 36, 18 / 36):
        assert (p <= level + 1e-9).mean() == pytest.approx(level, abs=_slack(level))


def test_a_planted_best_cell_is_found():
    rng = np.random.default_rng(12)
    cells, seeds = _grid(4, 4)
    found = [
        max_t(_answers(rng, cells, seeds, questions=100, lift=0.12), cells, seeds.tolist(), most=499)
        for _ in range(40)
    ]
    assert np.mean([f.p_values[0, 0] <= 0.05 for f in found]) >= 0.8
    assert np.mean([f.p_values[0, 1:].min() <= 0.05 for f in found]) <= 0.1


@pytest.mark.parametrize("cells", [[0, 1, 2], [0]])
def test_one_run_per_cell_cannot_tell(cells):
    found = max_t(np.random.default_rng(0).random((len(cells), 50)), cells, [0] * len(cells))
    assert np.isnan(found.p_values).all()
    assert math.isnan(found.run_variance)
    assert found.permutations == 0
    assert found.reason


def test_order_of_cells_and_runs_changes_nothing():
    rng = np.random.default_rng(5)
    cells, seeds = (np.delete(a, 2) for a in _grid(5, 4))
    y = _answers(rng, cells, seeds, lift=0.1)
    first = max_t(y, cells, seeds.tolist())
    assert not first.exact
    names, order = rng.permutation(5), rng.permutation(len(cells))
    second = max_t(y[order], names[cells][order], (10 - seeds[order]).tolist())
    assert (second.p_values[:, names] == first.p_values).all()
    assert second.statistics[:, names] == pytest.approx(first.statistics)


def test_seeds_of_their_own_are_no_blocks():
    """Each run has a seed of its own: all 4! arrangements of one block, of which a third splits them like this."""
    found = max_t(np.array([[0.1], [0.2], [0.6], [0.7]]), [0, 0, 1, 1], [0, 1, 2, 3])
    assert found.permutations == 24
    assert found.p_values[0, 1] == pytest.approx(found.least_p) == pytest.approx(1 / 3)


def test_without_noise():
    cells, seeds = _grid(3, 3)
    same = max_t(np.full((9, 10), 0.5), cells, seeds.tolist())
    assert (same.p_values == 1).all()
    clear = max_t(np.repeat((cells == 1) / 2.0, 10).reshape(9, 10), cells, seeds.tolist())
    assert clear.statistics[0, 1] == math.inf
    assert clear.p_values[0, 1] == pytest.approx(3 * 2 * 2 * 2 / 216), "any of 3 cells, others in any order"
    with pytest.raises(ValueError, match="without a gap"):
        max_t(np.zeros((2, 3)), [0, 2], [0, 0])


def test_corrected_figure_by_hand():
    """Runs: without the first, cell 1 leads (0.5 > 0.4) and its first scores 0.5; without the second, cell 0 leads
    (0.6) and its second scores 0.4. Questions: each of the two chooses the cell that fails on the other."""
    runs = corrected_best(np.array([[0.6], [0.5], [0.4], [0.5]])[None], [0, 1, 0, 1])
    assert (runs.accuracy, runs.left_out) == (pytest.approx(0.45), "runs")
    questions = corrected_best(np.array([[[1.0, 0.0], [0.0, 1.0]]]), [0, 1])
    assert (questions.accuracy, questions.left_out) == (0.0, "questions")
    assert corrected_best(np.array([[[1.0], [0.0]]]), [0, 1]) is None


@pytest.mark.parametrize("seeds", [1, 3])
def test_choosing_inflates_and_the_correction_does_not(seeds):
    rng = np.random.default_rng(6)
    cells, _ = _grid(8, seeds)
    chosen, corrected = [], []
    for _ in range(400):
        y = (rng.random((1, len(cells), 60)) < 0.5).astype(float)
        chosen.append(max(y[0, cells == c].mean() for c in range(8)))
        corrected.append(corrected_best(y, cells).accuracy)
    assert np.mean(chosen) > 0.54
    assert np.mean(corrected) == pytest.approx(0.5, abs=3 * np.std(corrected) / 20)
