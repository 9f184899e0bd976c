"""The embedded model: its tokenizer, its size, how well it adds, and that its making is deterministic."""

from __future__ import annotations

import random
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.models.tiny import FOLDER
from harness.models.tiny.measure import measure
from harness.models.tiny.sums import draw_sum, held_out, sum_terms
from harness.models.tiny.tokenizer import build_tokenizer
from harness.models.tiny.traces import Faults, draw_trace
from harness.models.tiny.warm_start import WarmStart, warm_start

COMPLETION = "12+7=19\n19+35=54\n</think>\n\\boxed{54}"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_size(model):
    assert (FOLDER / "model.safetensors").stat().st_size <= 2_000_000
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    assert model.config.model_type == "qwen2"
    assert model.config.tie_word_embeddings


def test_the_marks_of_the_answer_contract_are_single_tokens(tokenizer):
    tokens = tokenizer(COMPLETION, add_special_tokens=False)["input_ids"]
    words = tokenizer.convert_ids_to_tokens(tokens)
    assert words == [*"12+7=19Ċ19+35=54Ċ", "</think>", "Ċ", "\\boxed{", *"54}"]
    for mark in ("<think>", "</think>", "\\boxed{", "+", "-", "*", "=", " ", "\n", "}", *"0123456789"):
        assert len(tokenizer(mark, add_special_tokens=False)["input_ids"]) == 1, mark


def test_decoding_keeps_the_marks_and_drops_the_end(tokenizer):
    tokens = tokenizer(COMPLETION + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    assert tokens[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(tokens, skip_special_tokens=True) == COMPLETION


# Qwen2's tokenizer normalises to NFC, so only such text comes back as it went in.
@given(st.text(alphabet=st.characters(codec="ascii", exclude_characters="<"), max_size=50))
def test_text_round_trips_exactly(tokenizer, text):
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(tokens, skip_special_tokens=True) == text


def test_no_character_is_unknown(tokenizer):
    text = "Ответ: 答案 = ½ ≤ π  , . 's"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_the_shipped_tokenizer_is_the_built_one(tokenizer):
    built = build_tokenizer()
    assert built.get_vocab() == tokenizer.get_vocab()
    assert built.chat_template == tokenizer.chat_template


# Measured on 512 completions each: 0.88, 0.79, 0.60, 0.50; the bands are four standard errors of 128 wide.
@pytest.mark.parametrize(
    ("terms", "digits", "low", "high"),
    [(2, 1, 0.76, 0.99), (2, 2, 0.62, 0.92), (3, 2, 0.42, 0.78), (4, 2, 0.32, 0.68)],
)
def test_accuracy_before_training_leaves_room_above_and_below(model, tokenizer, terms, digits, low, high):
    figures = measure(model, tokenizer, terms=terms, digits=digits, completions=128)
    assert low < figures.accuracy < high
    assert 0.8 < figures.formatted < 1.0


def test_its_most_likely_completions_work_the_sum_out(model, tokenizer):
    figures = measure(model, tokenizer, terms=3, digits=2, completions=64, greedy=True)
    assert figures.accuracy > 0.8
    assert figures.formatted == 1.0
    assert 24 < figures.tokens < 32


def test_traces_without_faults_are_right():
    rng = random.Random(0)
    clean = Faults(skipped_working=0.0, slip=0.0, no_end_of_thought=0.0, no_box=0.0)
    for _ in range(300):
        trace = draw_trace(rng, terms=(2, 3, 4, 5), digits=(1, 2), faults=clean)
        terms = sum_terms(trace.question)
        thought, _, answer = trace.completion.partition("\n</think>\n")
        assert answer == f"\\boxed{{{sum(terms)}}}"
        lines = thought.split("\n")
        assert len(lines) == len(terms) - 1
        assert all(sum(sum_terms(left)) == int(right) for left, right in (line.split("=") for line in lines))


def test_faults_come_at_their_rates():
    rng = random.Random(0)
    faults = Faults()
    traces = [draw_trace(rng, terms=(3, 4), digits=(2,), faults=faults) for _ in range(6000)]
    skipped = sum(not re.search(r"=\d", t.completion) for t in traces) / 6000
    no_end = sum("</think>" not in t.completion for t in traces) / 6000
    no_box = sum("\\boxed{" not in t.completion for t in traces) / 6000
    wrong = (
        sum(int(re.findall(r"\d+", t.completion)[-1]) != sum(sum_terms(t.question)) for t in traces) / 6000
    )
    # Four standard errors of a share of 6,000 are at most 0.024.
    assert skipped == pytest.approx(faults.skipped_working, abs=0.024)
    assert no_end == pytest.approx(faults.no_end_of_thought, abs=0.015)
    assert no_box == pytest.approx(faults.no_box, abs=0.015)
    assert wrong == pytest.approx(faults.slip * (1 - faults.skipped_working), abs=0.015)


def test_no_held_out_question_is_in_a_trace():
    rng = random.Random(1)
    traces = [draw_trace(rng, terms=(2, 3), digits=(1, 2), faults=Faults()) for _ in range(2000)]
    assert not any(held_out(trace.question) for trace in traces)
    drawn = [held_out(draw_sum(rng, 3, 2)) for _ in range(8000)]
    assert sum(drawn) / 8000 == pytest.approx(1 / 8, abs=0.015)


def test_a_warm_start_is_deterministic_and_learns():
    losses: list[float] = []
    settings = WarmStart(steps=12, clean_steps=9, batch_tokens=512, pool_traces=256)
    first, _ = warm_start(settings, lambda step, loss: losses.append(loss))
    torch.manual_seed(99)
    second, _ = warm_start(settings)
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 0.5
    other, _ = warm_start(WarmStart(steps=1, clean_steps=1, batch_tokens=256, pool_traces=64, seed=1))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_a_warm_start_leaves_the_global_generator_and_threads_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    warm_start(WarmStart(steps=1, clean_steps=1, batch_tokens=256, pool_traces=64))
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
