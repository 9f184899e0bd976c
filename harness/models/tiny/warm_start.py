"""Supervised training of `tiny` on noisy traces, from random weights: deterministic on one thread.

Shapes: B sequences, T positions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from harness.models.tiny.tokenizer import CONTEXT_TOKENS, build_tokenizer
from harness.models.tiny.traces import Faults, Trace, draw_trace


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """How `tiny` is trained."""

    steps: int = 2000
    """Optimiser updates."""
    clean_steps: int = 1400
    """Updates on faultless traces that come first: adding is learned from them, imitation of the teacher later."""
    batch_tokens: int = 1024
    """Padded tokens in a batch, about."""
    pool_traces: int = 4096
    """Traces that are sorted into batches of like length together."""
    learning_rate: float = 1.2e-3
    """Peak learning rate, after a linear warm-up and before a cosine to a tenth."""
    warmup_steps: int = 50
    """Steps of linear warm-up."""
    weight_decay: float = 0.05
    """Decoupled weight decay."""
    terms: tuple[int, ...] = (2, 3, 4, 5)
    """Numbers of terms, drawn uniformly."""
    digits: tuple[int, ...] = (1, 2)
    """Numbers of digits, drawn uniformly."""
    faults: Faults = field(default_factory=Faults)
    """Noise of the traces."""
    seed: int = 0
    """Seed of the initial weights and of the traces."""


def build_model(vocabulary: int) -> Qwen2ForCausalLM:
    """The architecture with fresh weights, drawn from torch's global generator."""
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        use_cache=True,
    )
    return Qwen2ForCausalLM(config)


def warm_start(
    settings: WarmStart, report: Callable[[int, float], None] = lambda step, loss: None
) -> tuple[Qwen2ForCausalLM, PreTrainedTokenizerBase]:
    """Trains `tiny` in float32 on the CPU.

    Args:
        settings: how.
        report: called after each step with its number and its loss in nats a token.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            tokenizer = build_tokenizer()
            model = build_model(len(tokenizer))
            _train(model, tokenizer, settings, report)
    finally:
        torch.set_num_threads(threads)
    return model.eval(), tokenizer


def _train(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    settings: WarmStart,
    report: Callable[[int, float], None],
) -> None:
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    model.train()
    for step, (tokens, targets) in enumerate(_batches(tokenizer, settings)):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step, settings)
        logits = model(input_ids=tokens, use_cache=False).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        report(step, loss.item())


def _schedule(step: int, settings: WarmStart) -> float:
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


def _batches(
    tokenizer: PreTrainedTokenizerBase, settings: WarmStart
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """A batch for each step: tokens [B, T] and next-token targets [B, T], −100 where there is none.

    Right padding needs no mask under causal attention: no trained position looks at it.
    """
    rng = random.Random(settings.seed)
    clean = Faults(skipped_working=0.0, slip=0.0, no_end_of_thought=0.0, no_box=0.0)
    for count, faults in (
        (settings.clean_steps, clean),
        (settings.steps - settings.clean_steps, settings.faults),
    ):
        done = 0
        while done < count:
            batches = _pool(tokenizer, settings, faults, rng)[: count - done]
            done += len(batches)
            yield from map(_padded, batches)


def _pool(
    tokenizer: PreTrainedTokenizerBase, settings: WarmStart, faults: Faults, rng: random.Random
) -> list[list[tuple[list[int], list[int]]]]:
    """Shuffled batches of traces of like length."""
    traces = [
        draw_trace(rng, terms=settings.terms, digits=settings.digits, faults=faults)
        for _ in range(settings.pool_traces)
    ]
    encoded = sorted(encode_traces(tokenizer, traces), key=lambda pair: sum(map(len, pair)))
    batches, start = [], 0
    for end in range(1, len(encoded) + 1):
        longest = sum(map(len, encoded[end - 1]))
        if (end - start) * longest >= settings.batch_tokens:
            batches.append(encoded[start:end])
            start = end
    rng.shuffle(batches)
    return batches


def encode_traces(
    tokenizer: PreTrainedTokenizerBase, traces: list[Trace]
) -> list[tuple[list[int], list[int]]]:
    """Prompt and completion tokens of each trace, through the chat template."""
    chats = [[{"role": "user", "content": trace.question}] for trace in traces]
    prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=False)
    completions = tokenizer([t.completion + tokenizer.eos_token for t in traces], add_special_tokens=False)
    return list(zip(prompts, completions["input_ids"], strict=True))


def _padded(batch: list[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(prompt) + len(completion) for prompt, completion in batch)
    tokens = torch.zeros(len(batch), longest, dtype=torch.long)
    targets = torch.full((len(batch), longest), -100)
    for row, (prompt, completion) in enumerate(batch):
        sequence = torch.tensor(prompt + completion)
        tokens[row, : len(sequence)] = sequence
        targets[row, len(prompt) - 1 : len(sequence) - 1] = sequence[len(prompt) :]
    return tokens, targets
