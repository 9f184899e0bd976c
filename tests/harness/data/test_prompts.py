"""Prompts through chat templates and as plain text, against transformers' own encoding."""

from __future__ import annotations

import copy

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from harness.data.prompts import PromptEncoder
from harness.data.templates import PromptRefused
from harness.models.tiny import FOLDER
from harness.spec.prompt import PromptSpec

RAW = PromptSpec(format="raw", template="Q: {question}\nA:")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


def adding(tokenizer, *, begin: bool, end: bool = False):
    """A tokenizer that marks the beginning, or also the end, of every plain text."""
    changed = copy.deepcopy(tokenizer)
    single = "<bos> $A" if begin else "$A"
    changed.backend_tokenizer.post_processor = TemplateProcessing(
        single=single + (" <eos>" if end else ""), special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    return changed


def encode(tokenizer, prompt, question="12+7+35="):
    return PromptEncoder(tokenizer, prompt).encode(question)


def test_the_prompt_opens_the_assistants_thought(tokenizer):
    encoder = PromptEncoder(tokenizer, PromptSpec())
    tokens = encoder.encode("12+7+35=")
    assert tokenizer.decode(tokens) == "<bos><|user|>12+7+35=<|assistant|><think>\n"
    assert all(isinstance(token, int) for token in tokens)
    assert encoder.opened(tokens) == "<think>\n"


def test_system_message_and_template(tokenizer):
    prompt = PromptSpec(system="Add.", template="Find {question} in \\boxed{} or {x}")
    expected = "<bos><|system|>Add.<|user|>Find 12+7+35= in \\boxed{} or {x}<|assistant|><think>\n"
    assert tokenizer.decode(encode(tokenizer, prompt)) == expected


def test_a_question_may_hold_braces(tokenizer):
    tokens = encode(tokenizer, PromptSpec(template="{question}!"), "\\frac{a}{question}")
    assert "\\frac{a}{question}!" in tokenizer.decode(tokens)


def test_a_chat_template_of_the_grids_own_and_its_variables(tokenizer):
    own = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}>{{ mood }}{% endif %}"
    )
    prompt = PromptSpec(chat_template=own, template_args={"mood": "glad"})
    assert tokenizer.decode(encode(tokenizer, prompt, "1+1=")) == "[user]1+1=>glad"


def test_a_tokenizer_without_a_chat_template(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(
        PromptRefused, match=r"has no chat template\n.*`prompt.format: raw`.*`prompt.chat_template`"
    ):
        encode(bare, PromptSpec())
    assert bare.decode(encode(bare, RAW, "1+1=")) == "Q: 1+1=\nA:"
    assert encode(bare, PromptSpec(chat_template=tokenizer.chat_template)) == encode(tokenizer, PromptSpec())


@pytest.mark.parametrize(
    ("begin", "end", "template", "expected"),
    [
        (False, False, "{question}", "1+1="),
        (True, False, "{question}", "<bos>1+1="),
        (True, False, "<bos>{question}", "<bos>1+1="),  # not twice
        (False, False, "<bos>{question}", "<bos>1+1="),
        (True, True, "{question}", "<bos>1+1="),  # a prompt that had ended would be continued by nothing
        (False, True, "{question}", "1+1="),
    ],
)
def test_a_raw_prompt_gets_the_beginning_token_that_its_tokenizer_gives_any_text(
    tokenizer, begin, end, template, expected
):
    changed = adding(tokenizer, begin=begin, end=end)
    prompt = PromptSpec(format="raw", template=template)
    tokens = encode(changed, prompt, "1+1=")
    assert changed.decode(tokens) == expected
    if not end and not template.startswith("<bos>"):
        assert tokens == changed("1+1=")["input_ids"]


def test_a_raw_prompt_may_open_the_thought_itself(tokenizer):
    encoder = PromptEncoder(tokenizer, PromptSpec(format="raw", template="{question}\n<think>\n"))
    assert encoder.opened(encoder.encode("1+1=")) == "<think>\n"
    assert encoder.facts.opened == "<think>\n"


def test_a_token_that_the_model_does_not_know_is_refused(tokenizer):
    changed = copy.deepcopy(tokenizer)
    changed.add_tokens(["<new>"])
    encoder = PromptEncoder(changed, PromptSpec(), rows=265)
    assert max(encoder.encode("1+1=")) < 265
    with pytest.raises(PromptRefused, match=r"holds '<new>' \(token 265\), and the model knows 265 tokens"):
        encoder.encode("<new>1+1=")
