"""How good `tiny` is: accuracy on held-out sums by difficulty, sampled at temperature 1."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch

from harness.models.tiny.sums import draw_sum, held_out, sum_terms
from harness.rewards.boxed import final_answer

DIFFICULTIES = ((2, 1), (2, 2), (3, 2), (4, 2), (5, 2))
"""Terms × digits."""


@dataclass(frozen=True)
class Measured:
    """Shares of completions.

    Attributes:
        accuracy: with the right answer in the box.
        formatted: with exactly one end of thought on a line of its own.
        tokens: mean completion length.
    """

    accuracy: float
    formatted: float
    tokens: float


@torch.no_grad()
def measure(
    model: Any,
    tokenizer: Any,
    *,
    terms: int,
    digits: int,
    completions: int,
    greedy: bool = False,
    max_completion_tokens: int = 80,
    seed: int = 0,
) -> Measured:
    """Samples one completion for each of `completions` held-out questions, with repeats where there are fewer."""
    rng = random.Random(seed)
    questions: list[str] = []
    while len(questions) < completions:
        if held_out(question := draw_sum(rng, terms, digits)):
            questions.append(question)
    prompts = tokenizer.apply_chat_template(
        [[{"role": "user", "content": question}] for question in questions],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        padding=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        output = model.generate(
            **prompts,
            max_new_tokens=max_completion_tokens,
            **({"do_sample": False} if greedy else {"do_sample": True, "top_k": 0}),
            pad_token_id=tokenizer.pad_token_id,
        )
    tokens = output[:, prompts["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    right = [final_answer(text) == str(sum(sum_terms(q))) for text, q in zip(texts, questions, strict=True)]
    return Measured(
        accuracy=sum(right) / completions,
        formatted=sum(text.count("\n</think>\n") == 1 for text in texts) / completions,
        tokens=(tokens != tokenizer.pad_token_id).sum().item() / completions,
    )
