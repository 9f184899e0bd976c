"""From a problem to prompt tokens: through a chat template, or as plain text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.data.templates import PromptRefused, check_prompt, opened_thought
from harness.models.chat_template import ChatTemplate
from harness.spec.prompt import PromptSpec

_TAIL_TOKENS = 16
"""Tokens at the end of a prompt that hold what it opens, `<think>` spelled letter by letter included."""


def chat_messages(prompt: PromptSpec, question: str) -> list[dict[str, str]]:
    """The messages that stand for a question."""
    system = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
    return [*system, {"role": "user", "content": _filled(prompt, question)}]


def _filled(prompt: PromptSpec, question: str) -> str:
    # Not str.format: questions and templates are full of LaTeX braces.
    return prompt.template.replace("{question}", question)


class PromptEncoder:
    """Makes prompt tokens of problems, up to and including the opening of the assistant's turn.

    Args:
        tokenizer: a transformers tokenizer.
        prompt: the recipe's prompt.
        rows: tokens that the model knows; None where that is not to be looked at.

    Raises:
        PromptRefused: the tokenizer has no chat template and the prompt wants one, or the template does not render
            the prompt as it was meant.
    """

    def __init__(self, tokenizer: Any, prompt: PromptSpec, *, rows: int | None = None) -> None:
        self._tokenizer, self._prompt, self._rows = tokenizer, prompt, rows
        self._name = str(getattr(tokenizer, "name_or_path", ""))
        self.facts = check_prompt(prompt, _template_of(tokenizer), self._name)

    def encode(self, question: str) -> list[int]:
        """Prompt tokens of a question.

        A raw prompt is encoded as plain text: the beginning-of-text token goes before it where the tokenizer puts one
        before every text and the prompt does not begin with it; what a tokenizer puts at the end is left out.

        Raises:
            PromptRefused: a token has no row in the embedding.
        """
        if self._prompt.format == "raw":
            tokens = self._plain(_filled(self._prompt, question))
        else:
            tokens = self._tokenizer.apply_chat_template(
                chat_messages(self._prompt, question),
                chat_template=self._prompt.chat_template,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                **self._prompt.template_args,
            )
        if self._rows is not None and tokens and max(tokens) >= self._rows:
            raise PromptRefused(
                f"the prompt holds {self._tokenizer.decode([max(tokens)])!r} (token {max(tokens)}), and the model "
                f"knows {self._rows} tokens",
                "take the tokenizer that the model was trained with",
            )
        return tokens

    def _plain(self, text: str) -> list[int]:
        tokens = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        begin = self._tokenizer.bos_token_id
        marked = self._tokenizer(text)["input_ids"]
        if begin is not None and marked[:1] == [begin] and tokens[:1] != [begin]:
            return [begin, *tokens]
        return tokens

    def opened(self, tokens: Iterable[int]) -> str:
        """What prompt tokens open of the thought that the completion goes on with, such as `<think>`."""
        return opened_thought(self._tokenizer.decode(list(tokens)[-_TAIL_TOKENS:]))


def _template_of(tokenizer: Any) -> ChatTemplate | None:
    found = getattr(tokenizer, "chat_template", None)
    if isinstance(found, dict):  # several, each with a name
        found = found.get("default")
    tokens = getattr(tokenizer, "special_tokens_map", None) or {}
    return None if found is None else ChatTemplate(found, tuple(tokens.items()))
