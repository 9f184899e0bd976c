from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats.passk import pass_at_k


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_is_the_share_of_subsets_with_a_right_sample(case):
    n, c, k = case
    subsets = list(combinations(range(n), k))
    expected = sum(min(s) < c for s in subsets) / len(subsets)
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-12)


def test_takes_arrays_and_does_not_overflow():
    result = pass_at_k([4, 4, 4000], [0, 4, 2000], 4)
    assert result[0] == 0
    assert result[1] == 1
    expected = 1 - np.prod([(2000 - i) / (4000 - i) for i in range(4)])
    assert result[2] == pytest.approx(expected)


def test_of_no_questions_is_empty():
    assert pass_at_k([], [], 1).shape == (0,)


@pytest.mark.parametrize(
    ("samples", "correct", "k", "message"),
    [
        (4, 2, 5, r"`k` must be between 1 and the number of samples \(4\), got 5"),
        (4, 2, 0, "`k` must be"),
        ([4, 2], [1, 1], 3, r"\(2\), got 3"),
        (4, 5, 1, "`correct`"),
        (4, -1, 1, "`correct`"),
    ],
)
def test_refuses_what_has_no_answer(samples, correct, k, message):
    with pytest.raises(ValueError, match=message):
        pass_at_k(samples, correct, k)
