"""The tokenizer of `tiny`: one token a byte, and one each for the marks of the answer contract.

It is a `Qwen2Tokenizer` without merges, because `AutoTokenizer` admits no other class beside a Qwen2 config;
with all 256 bytes no character is unknown. `<think>`, `</think>` and `\\boxed{` are ordinary tokens, not special
ones: decoding with `skip_special_tokens=True` keeps them, as reward functions need.
"""

from __future__ import annotations

from tokenizers import AddedToken, pre_tokenizers
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

PAD, BEGIN, END = "<pad>", "<bos>", "<eos>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
MARKS = ("<think>", "</think>", "\\boxed{")
CONTEXT_TOKENS = 1024

CHAT_TEMPLATE = """\
{{- '<bos>' -}}
{%- for message in messages -%}
{{- '<|' + message.role + '|>' + message.content -}}
{%- if message.role == 'assistant' -%}{{- '<eos>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|><think>\\n' -}}{%- endif -%}
"""


def build_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer in Hugging Face format; any text round-trips through it exactly."""
    words = (PAD, BEGIN, END, *ROLES, *MARKS, *sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer = Qwen2Tokenizer(
        vocab={word: i for i, word in enumerate(words)},
        merges=[],
        unk_token=PAD,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        extra_special_tokens=list(ROLES),
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_TOKENS,
        padding_side="left",
    )
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
