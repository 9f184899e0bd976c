"""What chat templates of the field do with a prompt: told before anything runs, and rendered as transformers does."""

from __future__ import annotations

import sys
import time

import pytest
from transformers import AutoTokenizer

from harness.data.prompts import chat_messages
from harness.data.templates import PromptRefused, check_prompt, opened_thought
from harness.models.chat_template import ChatTemplate, TemplateError
from harness.models.tiny import FOLDER
from harness.spec.prompt import PromptSpec

TOKENS = (("bos_token", "<bos>"), ("eos_token", "<eos>"))

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
UNOPENED = CHATML.partition("{% if add")[0]
QWEN_DEFAULT = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    + CHATML
)
GEMMA_1 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] "
    "| trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
GEMMA_3 = (
    "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- set first = messages[0]['content'] + '\n\n' -%}"
    "{%- set loop_messages = messages[1:] -%}{%- else -%}{%- set first = '' -%}{%- set loop_messages = messages -%}"
    "{%- endif -%}{%- for message in loop_messages -%}{{ '<start_of_turn>user\n' + (first if loop.first else '') }}"
    "{{ message['content'] | trim }}{{ '<end_of_turn>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% elif message.role == 'assistant' %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
R1_DISTILL = (
    "{% set ns = namespace(system='') %}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{% set ns.system = m['content'] %}{% endif %}{% endfor %}{{ bos_token }}{{ ns.system }}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}{{ '<｜Assistant｜>' + m['content'].split('</think>')[-1] + eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
QWEN_3 = (
    CHATML.replace("assistant\n{% endif %}", "assistant\n")
    + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LLAMA_3 = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ date_string }}\n" + CHATML
)
PLAIN = PromptSpec()
SYSTEM = PromptSpec(system="Think step by step.")


def look(template, prompt=PLAIN, **options):
    return check_prompt(prompt, template and ChatTemplate(template, TOKENS), "m", **options)


@pytest.mark.parametrize(
    ("template", "prompt", "opened", "moved"),
    [
        (CHATML, PLAIN, "", False),
        (CHATML, SYSTEM, "", False),
        (QWEN_DEFAULT, SYSTEM, "", False),
        (GEMMA_1, PLAIN, "", False),
        (GEMMA_3, PLAIN, "", False),
        (GEMMA_3, SYSTEM, "", True),
        (LLAMA_2, SYSTEM, "", True),
        (MISTRAL, PLAIN, "", False),
        (R1_DISTILL, SYSTEM, "<think>\n", False),
        (R1_DISTILL, PLAIN, "<think>\n", False),
        (QWEN_3, PLAIN, "", False),
    ],
)
def test_templates_that_are_used(template, prompt, opened, moved):
    facts = look(template, prompt)
    assert (facts.opened, facts.system_moved, facts.closed, facts.dated) == (opened, moved, False, False)


@pytest.mark.parametrize(
    ("template", "prompt", "field", "message"),
    [
        (None, PLAIN, "format", "model 'm' has no chat template"),
        (GEMMA_1, SYSTEM, "system", "refuses a system message: System role not supported"),
        (MISTRAL, SYSTEM, "system", "drops the system message without a word"),
        (UNOPENED, PLAIN, "format", "does not open the assistant's turn"),
        (UNOPENED, SYSTEM, "format", "does not open the assistant's turn"),
        (
            "{{ bos_token }}{% if add_generation_prompt %}A:{% endif %}",
            PLAIN,
            "format",
            "leaves the question out",
        ),
        (
            "{% for m in messages %}{{ m.content }}",
            PLAIN,
            "format",
            "line 1: Unexpected end of template",
        ),
        ("{{ messages[0].content + 1 }}", PLAIN, "format", "fails: can only concatenate str"),
        ("{{ raise_exception('no') }}", SYSTEM, "format", "fails: no"),
        (
            CHATML,
            PromptSpec(template_args={"enable_thinkin": False}),
            "template_args",
            "reads no `enable_thinkin`",
        ),
        (
            CHATML,
            PromptSpec(chat_template="{{ nothing }}"),
            "chat_template",
            "prompt.chat_template leaves the question",
        ),
    ],
)
def test_templates_that_are_refused(template, prompt, field, message):
    with pytest.raises(PromptRefused) as told:
        look(template, prompt)
    assert message in str(told.value)
    assert told.value.field == field
    assert told.value.hint
    assert len(str(told.value).splitlines()) <= 3


def test_a_system_message_that_the_template_needs():
    needs = (
        "{% if messages[0].role != 'system' %}{{ raise_exception('say who you are') }}{% endif %}" + CHATML
    )
    assert not look(needs, SYSTEM).system_moved
    with pytest.raises(PromptRefused, match="say who you are"):
        look(needs)


def test_a_template_of_the_grids_own_goes_before_the_models():
    assert look(None, PromptSpec(chat_template=R1_DISTILL)).opened == "<think>\n"
    assert look(GEMMA_1, PromptSpec(system="S", chat_template=CHATML)).opened == ""


def test_a_thinking_switch_is_handed_on():
    assert not look(QWEN_3, PromptSpec(template_args={"enable_thinking": True})).closed
    assert look(QWEN_3, PromptSpec(template_args={"enable_thinking": False})).closed


def test_a_date_in_the_prompt_is_seen_and_can_be_fixed():
    assert look(LLAMA_3).dated
    assert not look(LLAMA_3, PromptSpec(template_args={"date_string": "26 Jul 2024"})).dated


def test_a_token_beyond_the_embedding_is_refused():
    with pytest.raises(
        PromptRefused, match=r"writes '<\|im_start\|>', whose id is beyond the model's embedding"
    ):
        look(CHATML, unreachable=["<|im_start|>", "<unused>"])
    look(CHATML, unreachable=["<unused>"])


@pytest.mark.parametrize(
    "endless",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro again(n) %}{{ again(n + 1) }}{% endmacro %}{{ again(0) }}",
        "{{ range(10 ** 9) | list }}",
    ],
)
def test_a_template_without_an_end_is_ended(monkeypatch, endless):
    monkeypatch.setattr("harness.models.chat_template.RENDER_SECONDS", 0.2)
    tracer = sys.gettrace()
    start = time.monotonic()
    with pytest.raises(PromptRefused, match="fails: "):
        look(endless + CHATML)
    assert time.monotonic() - start < 10
    assert sys.gettrace() is tracer


@pytest.mark.parametrize(
    "template", [CHATML, QWEN_DEFAULT, GEMMA_3, MISTRAL, LLAMA_2, R1_DISTILL, QWEN_3, LLAMA_3]
)
@pytest.mark.parametrize("system", [None, 'Say "yes" <b>&</b> {{ x }}'])
@pytest.mark.parametrize("open_turn", [True, False])
def test_rendering_is_that_of_transformers(template, system, open_turn):
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    if template is MISTRAL and system:
        system = None
    messages = chat_messages(PromptSpec(system=system), "  What is $\\frac{1}{2}$?\n")
    truth = tokenizer.apply_chat_template(
        messages,
        chat_template=template,
        add_generation_prompt=open_turn,
        tokenize=False,
        enable_thinking=False,
    )
    mine = ChatTemplate(template, TOKENS).render(
        messages, open_turn=open_turn, arguments={"enable_thinking": False}
    )
    assert mine == truth


def test_what_transformers_adds_to_jinja_is_there():
    text = (
        "{{ messages | tojson }}{{ messages | tojson(indent=1, sort_keys=true) }}"
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% endfor %}"
    )
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    messages = [{"role": "user", "content": "<é>"}, {"role": "user", "content": "b"}]
    truth = tokenizer.apply_chat_template(messages, chat_template=text, tokenize=False)
    assert ChatTemplate(text).render(messages, open_turn=False) == truth
    with pytest.raises(TemplateError, match="unsafe"):
        ChatTemplate("{{ messages.__class__.__mro__ }}").render(messages)


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("a<think>\n", "<think>\n"),
        ("a<think>", "<think>"),
        ("a<think>\n\n</think>\n\n", ""),
        ("<think>a", ""),
        ("a", ""),
    ],
)
def test_what_a_prompt_opens(prompt, opened):
    assert opened_thought(prompt) == opened
