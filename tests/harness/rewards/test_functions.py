"""Reward functions against their formulas, bounds and directions."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.rewards.builtin import REWARDS
from harness.rewards.types import Check, RewardContext, RewardInput

RIGHT, WRONG = Check(True, "1", True), Check(False, "2", True, "wrong")
lengths = st.integers(0, 5000)


def scored(text="", tokens=10, cap=100, truncated=False, group=0) -> RewardInput:
    return RewardInput(text=text, answer="1", tokens=tokens, cap=cap, truncated=truncated, group=group)


def rewards(name, items, checks=None, **params) -> list[float]:
    context = RewardContext(checks=checks if checks is not None else [RIGHT] * len(items))
    return REWARDS[name].function(items, context, **params)


def test_accuracy():
    assert rewards("accuracy", [scored(), scored()], [RIGHT, WRONG]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1+2=3\n</think>\n\\boxed{3}", 1.0),
        ("\n</think>\n\\boxed{3}", 1.0),
        ("</think>\n\\boxed{3}", 0.0),  # not on a line of its own
        ("1+2=3</think>\n\\boxed{3}", 0.0),
        ("\n</think>\n\n</think>\n3", 0.0),  # twice
        ("\\boxed{3}", 0.0),
        ("", 0.0),
    ],
)
def test_format(text, value):
    assert rewards("format", [scored(text)]) == [value]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("\\boxed{3}", 1.0),
        ("a</think>\\boxed{3}", 1.0),
        ("\\boxed{3}</think>3", 0.0),
        ("\\boxed{3", 0.0),
        ("3", 0.0),
    ],
)
def test_boxed(text, value):
    assert rewards("boxed", [scored(text)]) == [value]


pieces = st.lists(
    st.sampled_from(
        [
            "<think>\n",
            "\n</think>\n",
            "<answer>\n",
            "\n</answer>",
            "</think>",
            "<answer>",
            "a",
            "\n",
            "<think>",
        ]
    ),
    max_size=9,
)


@given(pieces)
def test_strict_format_is_open_r1s_expression(parts):
    text = "".join(parts)
    pattern = r"^<think>\n.*?\n</think>\n<answer>\n.*?\n</answer>$"
    matched = re.match(pattern, text, re.DOTALL | re.MULTILINE) is not None
    assert rewards("format_strict", [scored(text)]) == [float(matched)]


def test_strict_format_takes_linear_time():
    hostile = "<think>\n" + "\n</think>\n<answer>\n" * 50_000
    assert rewards("format_strict", [scored(hostile)]) == [0.0]


def test_tag_count():
    full = "<think>\nx\n</think>\n<answer>\n3\n</answer>"
    texts = [full, full + "\n</think>\n", "\n</think>\n3", "3"]
    assert rewards("tag_count", [scored(text) for text in texts]) == [1.0, 0.75, 0.25, 0.0]


@pytest.mark.parametrize("name", ["format_strict", "tag_count"])
def test_what_the_prompt_opened_counts_as_the_completions(name):
    """Under a template that ends in `<think>` no completion opens it, and none could earn the reward otherwise."""
    text = "x\n</think>\n<answer>\n3\n</answer>"
    opened = dataclasses.replace(scored(text), opened="<think>\n")
    assert rewards(name, [opened]) == [1.0] == rewards(name, [scored("<think>\n" + text)])
    assert rewards(name, [scored(text)])[0] < 1
    # Rewards that look at the answer, or at the end of the thought, see the completion alone.
    assert rewards("format", [opened]) == rewards("format", [scored(text)]) == [1.0]


def test_cosine_at_its_anchors():
    ends = [scored(tokens=0), scored(tokens=50), scored(tokens=100)]
    assert rewards("cosine", ends) == pytest.approx([1.0, 0.75, 0.5])
    assert rewards("cosine", ends, [WRONG] * 3) == pytest.approx([-1.0, -0.75, -0.5])


@given(st.lists(lengths, min_size=2, max_size=2), st.integers(1, 4000))
def test_cosine_prefers_short_right_and_long_wrong_answers(pair, cap):
    short, long = sorted(pair)
    items = [scored(tokens=short, cap=cap), scored(tokens=long, cap=cap)]
    right = rewards("cosine", items)
    wrong = rewards("cosine", items, [WRONG, WRONG])
    assert right[0] >= right[1] - 1e-12
    assert wrong[0] <= wrong[1] + 1e-12
    assert all(0.5 - 1e-12 <= value <= 1.0 + 1e-12 for value in right)
    assert all(-1.0 - 1e-12 <= value <= -0.5 + 1e-12 for value in wrong)
    assert min(right) > max(wrong)


@given(lengths, st.integers(0, 20_000))
def test_cosine_counts_tokens_not_characters(tokens, characters):
    with_text = rewards("cosine", [scored("x" * characters, tokens=tokens, cap=3584)])
    assert with_text == rewards("cosine", [scored("", tokens=tokens, cap=3584)])


@given(st.integers(1, 100))
def test_cosine_gives_a_truncated_wrong_completion_nothing_for_its_length(tokens):
    cut = scored(tokens=tokens, truncated=True)
    assert rewards("cosine", [cut], [WRONG]) == [-1.0]
    assert rewards("cosine", [cut], [WRONG], truncated_value=-2.0) == [-2.0]
    assert rewards("cosine", [cut], [RIGHT]) == rewards("cosine", [scored(tokens=tokens)], [RIGHT])


def test_character_cosine_reproduces_the_published_defects():
    # About 3.584 characters a token, so that 1,000, 2,000 and 3,000 tokens are 1, 2 and 3 half periods.
    texts = [scored("x" * 3584 * half_periods, cap=3584) for half_periods in (0, 1, 2, 3)]
    assert rewards("cosine_characters", texts) == pytest.approx([1.0, 0.5, 1.0, 0.5])
    wrong = rewards("cosine_characters", texts[:2], [WRONG, WRONG])
    assert wrong == pytest.approx([0.0, -0.5])  # short wrong answers lose less than long ones


@given(st.integers(0, 20_000), st.integers(1, 5000))
def test_character_cosine_follows_its_formula(characters, limit):
    value = rewards("cosine_characters", [scored("x" * characters)], max_characters=limit)
    assert value == pytest.approx([0.5 + 0.25 * (1 + math.cos(math.pi * characters / limit))])


def test_length_by_hand():
    items = [scored(tokens=t, group=0) for t in (10, 20, 30)] + [scored(tokens=t, group=1) for t in (5, 5)]
    checks = [RIGHT, RIGHT, RIGHT, RIGHT, WRONG]
    assert rewards("length", items, checks) == [0.5, 0.0, -0.5, 0.0, 0.0]
    assert rewards("length", items, [WRONG] * 5) == [0.0, 0.0, -0.5, 0.0, 0.0]


@given(st.lists(st.tuples(lengths, st.booleans()), min_size=1, max_size=12))
def test_length_is_bounded_and_falls_with_length(entries):
    items = [scored(tokens=tokens) for tokens, _ in entries]
    values = rewards("length", items, [RIGHT if right else WRONG for _, right in entries])
    assert all(-0.5 <= value <= 0.5 for value in values)
    for kind in (True, False):
        same = sorted((e[0], v) for e, v in zip(entries, values, strict=True) if e[1] is kind)
        assert all(shorter[1] >= longer[1] for shorter, longer in zip(same, same[1:], strict=False))


@pytest.mark.parametrize(("tokens", "value"), [(0, 0.0), (80, 0.0), (90, -0.5), (100, -1.0), (150, -1.0)])
def test_soft_overlong_by_hand(tokens, value):
    assert rewards("soft_overlong", [scored(tokens=tokens, cap=100)]) == [value]  # buffer: a fifth, 20 tokens
    assert rewards("soft_overlong", [scored(tokens=tokens, cap=7)], max_tokens=100, buffer_tokens=20) == [
        value
    ]


@given(st.lists(lengths, min_size=2, max_size=2), st.integers(1, 3000), st.integers(1, 4000))
def test_soft_overlong_falls_with_length(pair, cap, buffer):
    short, long = sorted(pair)
    items = [scored(tokens=short, cap=cap), scored(tokens=long, cap=cap)]
    values = rewards("soft_overlong", items, buffer_tokens=buffer)
    assert 0.0 >= values[0] >= values[1] >= -1.0


def test_repetition_by_hand():
    # "a b a b a b": trigrams aba, bab, aba, bab: 2 of 4 distinct.
    texts = [scored("a b a b a b"), scored("one two three four"), scored("one two"), scored("")]
    assert rewards("repetition", texts) == [-0.5, 0.0, 0.0, 0.0]
    assert rewards("repetition", texts, ngram_size=1, max_penalty=-3.0)[0] == pytest.approx(-2.0)


@given(st.one_of(st.text(alphabet="ab ", max_size=80), st.text(max_size=200)), st.integers(1, 5))
def test_repetition_is_bounded(text, size):
    value = rewards("repetition", [scored(text)], ngram_size=size)[0]
    assert -1.0 < value <= 0.0


@given(st.lists(st.text(alphabet="abcXYZ,.$\\\\{}=+0123456789é", min_size=1, max_size=64)), st.integers(1, 5))
def test_repetition_of_text_with_spaces_is_that_of_its_words(words, size):
    words = [word.lower() for word in words]
    grams = [tuple(words[i:][:size]) for i in range(len(words) - size + 1)]
    expected = len(set(grams)) / len(grams) - 1 if grams else 0.0
    assert rewards("repetition", [scored(" ".join(words))], ngram_size=size) == pytest.approx([expected])


@pytest.mark.parametrize(
    "loop",
    [
        "我们需要计算这个数的平方，",
        "この数を計算すると",
        "คำตอบคือสอง",
        "ຄຳຕອບແມ່ນ",
        "ចម្លើយគឺ",
        r"\frac{1}{2}=",
        "1+1=2,",
        "0",
        "ha",
        "wait",
        "答案是x=12。",
        "x²",
    ],
)
def test_a_loop_is_a_loop_without_spaces_too(loop):
    looped, inside = scored(loop * 200), scored("The answer is " + loop * 200 + " as we have seen.")
    for value in rewards("repetition", [looped, inside]):
        assert -1.0 < value < -0.9
    # As much as a loop with spaces: an n-gram of each kind, once.
    spaced = rewards("repetition", [scored("so " * 200)])
    assert rewards("repetition", [scored("的" * 200), scored("で" * 200), scored("7" * 200)]) == spaced * 3


@given(
    st.text(
        alphabet=st.characters(exclude_categories=["Zs", "Zl", "Zp", "Cc", "Cs"]), min_size=1, max_size=12
    )
)
def test_whatever_is_said_two_hundred_times_is_a_loop(pattern):
    if not pattern.split():
        return
    assert -1.0 < rewards("repetition", [scored(pattern * 200)])[0] < -0.85


@pytest.mark.parametrize(
    "text",
    [
        "设这个三角形的三条边长分别为三、四、五，由勾股定理可知它是直角三角形，因此面积等于六。",
        "三辺の長さが三、四、五である三角形は直角三角形なので、その面積は六になります。",
        "รูปสามเหลี่ยมที่มีด้านยาวสาม สี่ และห้า เป็นรูปสามเหลี่ยมมุมฉาก ดังนั้นพื้นที่จึงเท่ากับหก",
    ],
)
def test_a_sentence_without_spaces_is_no_loop(text):
    assert rewards("repetition", [scored(text)])[0] > -0.2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("the sum is", 1.0),
        ("12+7=19", 1.0),  # no letters at all
        ("let α and β be", 1.0),  # Greek is mathematics
        ("ab答案", 0.5),
        ("答案", 0.0),
        ("ответ", 0.0),
    ],
)
def test_single_language(text, value):
    assert rewards("single_language", [scored(text)]) == [value]
    if value == 0.5:
        assert rewards("single_language", [scored(text)], script="cjk") == [0.5]


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        (
            "cosine",
            {"min_value_correct": 2.0},
            "`min_value_correct` must be <= `max_value_correct`, got 2.0 > 1.0",
        ),
        ("cosine", {"max_tokens": 0}, "`max_tokens` must be >= 1, got 0"),
        ("soft_overlong", {"buffer_tokens": 0}, "`buffer_tokens` must be >= 1, got 0"),
        ("repetition", {"ngram_size": 0}, "`ngram_size` must be >= 1, got 0"),
        ("repetition", {"max_penalty": 1.0}, "`max_penalty` must be <= 0, got 1.0"),
        ("single_language", {"script": "klingon"}, "'klingon'"),
        ("cosine_characters", {"max_characters": 0}, "`max_characters` must be >= 1, got 0"),
    ],
)
def test_parameters_out_of_range(name, params, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        rewards(name, [], **params)
