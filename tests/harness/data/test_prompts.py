"""Prompts through chat templates."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from harness.data.problem import Problem
from harness.data.prompts import NoChatTemplate, encode_prompt, encode_prompts
from harness.models.tiny import FOLDER
from harness.spec.recipe import PromptSpec


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


def problem(question="12+7+35=") -> Problem:
    return Problem(f"sums:{question}", question, "54", "sums", "3x2")


def test_the_prompt_opens_the_assistants_thought(tokenizer):
    tokens = encode_prompt(tokenizer, PromptSpec(), problem())
    assert tokenizer.decode(tokens) == "<bos><|user|>12+7+35=<|assistant|><think>\n"
    assert all(isinstance(token, int) for token in tokens)


def test_system_message_and_template(tokenizer):
    prompt = PromptSpec(system="Add.", template="Find {question} in \\boxed{} or {x}")
    tokens = encode_prompt(tokenizer, prompt, problem())
    expected = "<bos><|system|>Add.<|user|>Find 12+7+35= in \\boxed{} or {x}<|assistant|><think>\n"
    assert tokenizer.decode(tokens) == expected


def test_a_question_may_hold_braces(tokenizer):
    tokens = encode_prompt(tokenizer, PromptSpec(template="{question}!"), problem("\\frac{a}{question}"))
    assert "\\frac{a}{question}!" in tokenizer.decode(tokens)


def test_long_prompts_are_set_aside(tokenizer):
    problems = [problem(), problem("1+" * 50 + "1="), problem("3+4=")]
    kept, dropped = encode_prompts(tokenizer, PromptSpec(max_tokens=20), problems)
    assert [item.problem for item in kept] == [problems[0], problems[2]]
    assert dropped == [problems[1]]
    assert all(len(item.tokens) <= 20 for item in kept)
    exact = len(kept[0].tokens)
    assert encode_prompts(tokenizer, PromptSpec(max_tokens=exact), [problem()])[1] == []
    assert encode_prompts(tokenizer, PromptSpec(max_tokens=exact - 1), [problem()])[0] == []


def test_a_tokenizer_without_a_chat_template():
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    tokenizer.chat_template = None
    with pytest.raises(NoChatTemplate, match="has no chat template; use an instruction-tuned model"):
        encode_prompt(tokenizer, PromptSpec(), problem())
