"""From a problem to prompt tokens, through the model's chat template."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from harness.data.problem import Problem
from harness.spec.recipe import PromptSpec


class NoChatTemplate(Exception):
    """The model's tokenizer has no chat template."""


@dataclass(frozen=True)
class EncodedProblem:
    """A problem and its prompt tokens."""

    problem: Problem
    tokens: list[int]


def chat_messages(prompt: PromptSpec, question: str) -> list[dict[str, str]]:
    """The messages that stand for a question."""
    system = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
    # Not str.format: questions and templates are full of LaTeX braces.
    return [*system, {"role": "user", "content": prompt.template.replace("{question}", question)}]


def encode_prompt(tokenizer: Any, prompt: PromptSpec, problem: Problem) -> list[int]:
    """Prompt tokens of a problem, up to and including the opening of the assistant's turn.

    Args:
        tokenizer: a transformers tokenizer.
        prompt: system message and template.
        problem: the problem.

    Raises:
        NoChatTemplate: the tokenizer has no chat template.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        name = getattr(tokenizer, "name_or_path", "")
        raise NoChatTemplate(
            f"the tokenizer of {name!r} has no chat template; use an instruction-tuned model"
        )
    return tokenizer.apply_chat_template(
        chat_messages(prompt, problem.question), add_generation_prompt=True, tokenize=True, return_dict=False
    )


def encode_prompts(
    tokenizer: Any, prompt: PromptSpec, problems: Iterable[Problem]
) -> tuple[list[EncodedProblem], list[Problem]]:
    """Encodes problems in order and sets aside those whose prompt exceeds `prompt.max_tokens`.

    Returns:
        The encoded problems, and the problems that were too long.

    Raises:
        NoChatTemplate: the tokenizer has no chat template.
    """
    kept, dropped = [], []
    for problem in problems:
        tokens = encode_prompt(tokenizer, prompt, problem)
        if len(tokens) > prompt.max_tokens:
            dropped.append(problem)
        else:
            kept.append(EncodedProblem(problem, tokens))
    return kept, dropped
