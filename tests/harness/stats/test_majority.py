"""Majority votes against counting by hand, and repeats against simulated samplers."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stats.clustered import mean_of_questions, share_interval
from harness.stats.intervals import accuracy_interval
from harness.stats.majority import majority_at_k
from harness.stats.repeats import count_repeats


def brute_force(classes, right, k):
    """The definition, word by word: a dictionary of votes for each block."""
    out = []
    for row in classes:
        blocks = [row[i : i + k] for i in range(0, len(row) - k + 1, k)]
        wins = 0
        for block in blocks:
            votes = Counter(c for c in block if c >= 0)
            if votes:
                best = max(votes.values())
                winner = next(c for c in block if c >= 0 and votes[c] == best)
                wins += winner == right
        out.append(wins / len(blocks))
    return out


@given(
    st.integers(1, 4).flatmap(
        lambda q: st.integers(1, 9).flatmap(
            lambda n: st.lists(st.lists(st.integers(-1, 3), min_size=n, max_size=n), min_size=q, max_size=q)
        )
    ),
    st.data(),
)
@settings(max_examples=100)
def test_majority_is_the_count_by_hand(classes, data):
    k = data.draw(st.integers(1, len(classes[0])))
    table = np.array(classes)
    got = majority_at_k(table, table == 0, k)
    assert got.tolist() == brute_force(classes, 0, k)


def test_majority_of_one_is_the_share_of_right_samples():
    classes = np.array([[0, 1, 0, -1], [2, 2, 0, 3]])
    assert majority_at_k(classes, classes == 0, 1).tolist() == [0.5, 0.25]


@pytest.mark.parametrize("k", [0, 5])
def test_majority_needs_a_k_within_the_samples(k):
    with pytest.raises(ValueError, match=f"got {k}"):
        majority_at_k([[0, 0, 1, 1]], [[True, True, False, False]], k)


def test_a_share_of_single_tries_is_an_accuracy():
    values = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    assert share_interval(values, 1) == accuracy_interval(np.ones(5), values)


def test_the_mean_of_questions_covers():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(600):
        found = mean_of_questions(rng.exponential(3.0, size=40))
        inside += found.low <= 3.0 <= found.high
    assert 0.90 <= inside / 600 <= 0.98


def simulated(rng, questions, samples, *, spread, same=0.0):
    """Samples from a categorical law of 50 answers a question; a share `same` of questions repeats one of them."""
    completions, logprobs = [], []
    for _ in range(questions):
        p = rng.dirichlet(np.full(50, spread))
        drawn = rng.choice(50, size=samples, p=p)
        if rng.random() < same:
            drawn[:] = drawn[0]
        completions.append([(int(d),) for d in drawn])
        logprobs.append([float(np.log(p[d])) for d in drawn])
    return completions, logprobs


@pytest.mark.parametrize("spread", [0.02, 0.2, 5.0])
def test_independent_samples_are_not_flagged_however_sharp_the_model(spread):
    rng = np.random.default_rng(1)
    flags = [count_repeats(*simulated(rng, 40, 8, spread=spread)).flagged for _ in range(30)]
    assert sum(flags) == 0


def test_expected_repeats_are_what_independent_samples_show():
    rng = np.random.default_rng(2)
    found = count_repeats(*simulated(rng, 2000, 8, spread=0.2))
    assert found.identical == pytest.approx(found.expected, rel=0.03)


@pytest.mark.parametrize(("same", "questions"), [(1.0, 30), (0.6, 60)])
def test_ignored_seeds_are_flagged(same, questions):
    rng = np.random.default_rng(3)
    assert all(count_repeats(*simulated(rng, questions, 8, spread=5.0, same=same)).flagged for _ in range(30))


def test_one_question_repeated_against_all_odds():
    found = count_repeats([[(1, 2, 3)] * 4], [[-40.0] * 4])
    assert found.flagged
    assert (found.pairs, found.identical) == (6, 6)
    assert not count_repeats([[(1,)] * 4], [[-0.01] * 4]).flagged
    assert not count_repeats([[(1,)]], [[-40.0]]).flagged


def test_a_nucleus_makes_its_tokens_likelier():
    """Under top-p 0.5 only one of two even tokens is left, and every sample is the same by right."""
    half = float(np.log(0.5))
    assert not count_repeats([[(7,)] * 4] * 20, [[half] * 4] * 20, top_p=0.5).flagged
    assert count_repeats([[(7,) * 30] * 4] * 20, [[30 * half] * 4] * 20).flagged
