"""A sample of the campaign of answers: equivalent forms accepted, perturbed ones rejected, hostile ones survived."""

from __future__ import annotations

from collections import defaultdict

import pytest

from harness.data.champ import load_champ
from harness.data.seeding import seeded_rng
from harness.rewards.answers import AnswerChecker
from tests.campaigns.answer_forms import KINDS, champ, generated
from tests.campaigns.answers import Count, judge, suffer
from tests.campaigns.hostile_answers import hostile


@pytest.fixture(scope="module")
def checker():
    with AnswerChecker(timeout_seconds=20) as checker:
        yield checker


def misjudged(checker, golds):
    counts = defaultdict(Count)
    judge(checker, golds, counts)
    return [failure for count in counts.values() for failure in count.failures]


def test_a_sample_of_champs_answers(checker):
    assert misjudged(checker, champ(load_champ())[::15]) == []


def test_a_sample_of_generated_answers(checker):
    assert misjudged(checker, generated(seeded_rng("sample"), per_kind=1)) == []


def test_every_reference_has_five_forms_and_three_perturbed_ones():
    golds = champ(load_champ()) + generated(seeded_rng("forms"), per_kind=40)
    assert sum(gold.times for gold in golds) == 270 + 40 * len(KINDS)
    for gold in golds:
        assert len(set(gold.right)) >= 5, gold
        assert len(set(gold.wrong)) >= 3, gold
        assert not set(gold.right) & set(gold.wrong), gold


def test_two_hundred_hostile_answers_are_told_apart_and_some_are_survived():
    answers = hostile()
    assert len(set(answers.values())) >= 200
    cheap = ("python", "json breaker", "surrogate", "lone right", "1000000 digits", "parentheses nested 490")
    found = suffer({name: answers[name] for name in (*cheap, "factorial of 10^9")})
    assert found.answers == 7
    assert found.accepted == found.slow == []
    assert found.alive_afterwards
    assert found.peak_worker_mib < 1024
