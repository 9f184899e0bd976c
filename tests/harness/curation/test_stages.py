"""Each stage against what was planted, and against exact computation."""

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.curation.answers import by_answers
from harness.curation.contamination import find_contaminated
from harness.curation.duplicates import find_duplicates, jaccard, signature
from harness.curation.items import Item
from harness.curation.quota import by_quotas
from harness.curation.rules import RULES, by_rules
from harness.curation.text import ngrams, words
from harness.rewards.answers import AnswerChecker
from harness.spec.curation import AnswersStage, DuplicatesStage, QuotaStage, RulesStage

VOCABULARY = [f"w{i}" for i in range(400)]


def item(number, question, answer="1", source="s", **fields):
    return Item(f"i{number}", question, answer, source, **fields)


def sentence(rng, length):
    return " ".join(rng.choice(VOCABULARY) for _ in range(length))


def edited(rng, text, edits):
    """The text with so many words replaced by others."""
    parts = text.split()
    for place in rng.sample(range(len(parts)), edits):
        parts[place] = f"x{rng.randrange(10**6)}"
    return " ".join(parts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Find $12 + x$!", ("find", "12", "+", "x")),
        ("ﬁnd 12 − x", ("find", "12", "-", "x")),
        ("\\frac{1}{2}", ("frac", "1", "2")),
        ("", ()),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(2+3)*4", "2+(3*4)"),
        ("Compute $3!$.", "Compute $3$."),
        ("(n-1)!", "(n-1)"),
        ("f'(3)", "f(3)"),
        ("x ≥ 2", "x ≤ 2"),
        ("√12", "12"),
        ("|−3|", "−3"),
        ("2³", "23"),
        ("5½", "51/2"),
        ("x^{2+y}", "x^2+y"),
        ("A ∪ B", "A ∩ B"),
        ("[0,1)", "(0,1)"),
        ("7 % 3", "7 3"),
    ],
)
def test_other_mathematics_is_another_question(one, other):
    decisions = find_duplicates(
        [item(0, one), item(1, other)], DuplicatesStage(stage="duplicates", threshold=1)
    )
    assert all(d.keep for d in decisions)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Find \\(x+1\\).", "find $x+1$"),
        ("\\left( x \\right)", "(x)"),
        ("2^{10}", "2^10"),
        ("x⁻¹ + y²", "x^{-1}+y^2"),
        ("１２ + ｘ", "12+x"),
        ("5½", "5 1/2"),
        ("Stop it! What is 5!?", "stop it: what is 5!"),
    ],
)
def test_dressing_makes_no_other_question(one, other):
    assert words(one) == words(other)


def test_minhash_estimates_the_exact_similarity():
    """Mean error of 256 permutations is below 3/√256 everywhere, and there is no bias."""
    rng = random.Random(0)
    errors = []
    for _ in range(60):
        first = sentence(rng, 80)
        second = edited(rng, first, rng.randrange(0, 30))
        a, b = ngrams(words(first), 3), ngrams(words(second), 3)
        errors.append(signature(a, 256).jaccard(signature(b, 256)) - jaccard(a, b))
    assert max(map(abs, errors)) < 3.5 / 16
    assert abs(sum(errors) / len(errors)) < 0.01


def test_near_duplicates_are_found_and_others_kept():
    """Recall over planted pairs by their exact similarity; nothing below the threshold is ever dropped."""
    rng = random.Random(1)
    threshold = 0.8
    originals = [sentence(rng, 120) for _ in range(300)]
    planted = [edited(rng, text, rng.randrange(0, 12)) for text in originals]
    items = [item(i, text) for i, text in enumerate([*originals, *planted])]
    decisions = find_duplicates(items, DuplicatesStage(stage="duplicates", threshold=threshold))
    above = missed = 0
    for first, second, decision in zip(originals, planted, decisions[300:]):
        likeness = jaccard(ngrams(words(first), 3), ngrams(words(second), 3))
        if likeness < threshold:
            assert decision.keep
        else:
            above += 1
            missed += decision.keep
    assert above > 100
    assert missed / above <= 0.03
    assert all(d.keep for d in decisions[:300])


def test_exact_duplicates_ignore_case_and_punctuation_and_name_the_first():
    items = [
        item(0, "What is 2 + 2?"),
        item(1, "what is 2+2"),
        item(2, "What is 2 - 2?"),
        item(3, "What IS 2+2 !"),
    ]
    decisions = find_duplicates(items, DuplicatesStage(stage="duplicates", threshold=1.0))
    assert [d.keep for d in decisions] == [True, False, True, False]
    assert {d.detail for d in decisions if not d.keep} == {"of i0"}
    assert {d.reason for d in decisions if not d.keep} == {"exact duplicate"}


@given(
    ngram=st.integers(2, 13), before=st.integers(0, 20), after=st.integers(0, 20), extra=st.integers(0, 10),
    seed=st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=150)
def test_every_planted_overlap_is_found(ngram, before, after, extra, seed):
    """Recall is one: a run of n words of a benchmark, wherever it stands, however it is dressed."""
    rng = random.Random(seed)
    benchmark = [sentence(rng, ngram + extra) for _ in range(5)]
    start = rng.randrange(extra + 1)
    run = benchmark[3].split()[start : start + ngram]
    dressed = ", ".join(word.upper() for word in run)
    fresh = [f"y{rng.randrange(10**9)}" for _ in range(before + after)]
    question = " ".join([*fresh[:before], dressed, *fresh[before:]])
    clean = item(1, " ".join([*fresh, *run[:-1]]))
    first, second = find_contaminated([item(0, question), clean], {"b": benchmark}, ngram)
    assert not first.keep
    assert first.detail.startswith("b, question ")
    assert second.keep


def test_a_short_benchmark_question_is_matched_whole():
    benchmark = {"sums": ["12+7="]}
    items = [item(0, "12 + 7 = "), item(1, "3+12+7="), item(2, "12+8=")]
    assert [d.keep for d in find_contaminated(items, benchmark, 13)] == [False, True, True]


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        ("multi_part", "Let x = 3. (a) Find x. (b) Find 2x.", "Let f(a) be 3. Find f(b)."),
        (
            "multi_part",
            "Find (a) the sum and (b) the product of 3 and 4.",
            "If f (a) and g (b) agree, find a.",
        ),
        ("multi_part", "Answer:\n1. How many?\n2. How long?", "There were 1.5 litres and 2. More?"),
        ("several_questions", "How many? And how long?", "How many?"),
        ("proof", "Prove that 2 is even.", "The proof has 3 lines. How many words?"),
        ("figure", "Find the area in the figure.", "Find the 3-figure number."),
        ("figure", "See ![](a.png)", "What is 3! + 1?"),
        ("link", "See https://a.b/c", "How many links has a chain?"),
        ("choices", "Pick one: (A) 1 (B) 2 (C) 3", "Let A. be 1 and B. be 2"),
        (
            "choices",
            "\\textbf{(A)}1\\qquad\\textbf{(B)}2\\qquad\\textbf{(C)}3",
            "Find sin(A) + sin(B) + sin(C).",
        ),
        ("unprintable", "What is \x00 2?", "What is\n2?"),
    ],
)
def test_rules(rule, bad, good):
    decisions = by_rules([item(0, bad), item(1, good)], RulesStage(stage="rules", drop=(rule,)))
    assert [d.reason for d in decisions] == [RULES[rule][0], ""]


def test_lengths_are_bounds():
    spec = RulesStage(stage="rules", shortest=3, longest=5, drop=())
    assert [d.keep for d in by_rules([item(i, "x" * i) for i in range(1, 8)], spec)] == [
        False, False, True, True, True, False, False
    ]  # fmt: skip


def test_answers_that_cannot_be_given_are_dropped():
    answers = ["4", "", "\\frac{1}{2}", "   ", "\\frac{1}{", "Yes", " 7 "]
    with AnswerChecker() as checker:
        decisions = by_answers(
            [item(i, "q", a) for i, a in enumerate(answers)], AnswersStage(stage="answers"), checker
        )
        boxed = by_answers(
            [item(0, "q", "so \\boxed{\\frac{1}{2}}."), item(1, "q", "so 3")],
            AnswersStage(stage="answers", boxed=True),
            checker,
        )
    assert [d.reason for d in decisions] == [
        "",
        "no answer",
        "",
        "no answer",
        "answer cannot be read",
        "",
        "",
    ]
    assert decisions[6].changes == {"answer": "7"}
    assert boxed[0].changes == {"answer": "\\frac{1}{2}"}
    assert boxed[1].reason == "no box in the solution"


@given(
    st.lists(st.sampled_from("abc"), max_size=40),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 12)),
    st.one_of(st.none(), st.integers(1, 30)),
    st.integers(0, 5),
)
@settings(max_examples=200)
def test_quotas_hold_and_waste_nothing(sources, limits, total, seed):
    items = [item(i, f"q{i}", source=s) for i, s in enumerate(sources)]
    spec = QuotaStage(stage="quotas", quotas=limits, total=total, seed=seed)
    decisions = by_quotas(items, spec)
    kept = Counter(i.source for i, d in zip(items, decisions) if d.keep)
    there = Counter(sources)
    allowed = {s: min(there[s], limits.get(s, there[s])) for s in there}
    assert all(kept[s] <= allowed[s] for s in there)
    assert sum(kept.values()) == min(sum(allowed.values()), total or len(items))
    if total is not None and sum(allowed.values()) > total:
        # In proportion, to the nearest item.
        whole = sum(allowed.values())
        assert all(abs(kept[s] - total * allowed[s] / whole) < 1 for s in there)
    assert decisions == by_quotas(items, spec)


def test_the_draw_of_a_quota_depends_on_its_seed():
    items = [item(i, f"q{i}") for i in range(40)]
    draws = [
        tuple(d.keep for d in by_quotas(items, QuotaStage(stage="quotas", quotas={"s": 20}, seed=seed)))
        for seed in range(4)
    ]
    assert all(a != b for a, b in itertools.combinations(draws, 2))
