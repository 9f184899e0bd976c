"""Rollouts with the policy module itself, or with a bfloat16 copy of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.models.loading import LoadedModel
from harness.models.lora import merged_weights
from harness.models.precision import compute_dtype
from harness.rollout.cache import PreallocatedCache
from harness.rollout.engine import Completion, Request, Sampling
from harness.rollout.sampling import sample
from harness.spec.engines import TransformersTraits
from harness.spec.recipe import Recipe

COMPACT_BELOW = 0.75
"""Finished rows are dropped from the batch when less than this share of it is still running."""


class TransformersEngine:
    """Batched decoding of any causal language model of transformers.

    Prompts are left-padded; completions of the same prompt share its prefill; finished rows leave the batch.

    Args:
        model: the policy, on its device.
        end_ids: tokens that end a completion.
        pad_id: any valid token, for padding.
        vocabulary: rows of the head that are tokens; those from there on are padding and are never sampled. None
            for all.
        bf16: decode with a bfloat16 copy of the weights, which `update_weights` refreshes. Under autocast, casting
            the weights for every token would cost more than the token.
        max_rows: completions decoded together.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        end_ids: Sequence[int],
        pad_id: int,
        vocabulary: int | None = None,
        bf16: bool = False,
        max_rows: int = TransformersTraits.rows,
    ) -> None:
        self._policy = model
        self._model = model
        if bf16:
            self._model = copy.deepcopy(model).requires_grad_(False)
            torch.nn.Module.to(self._model, torch.bfloat16)
        self._end_ids = torch.tensor(sorted(end_ids), device=model.device)
        self._pad_id = pad_id
        self._vocabulary = vocabulary
        self._max_rows = max_rows

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        loaded: LoadedModel,
        *,
        completion_tokens: int = 0,
        on_event: Callable[[str, str], None] | None = None,
    ) -> TransformersEngine:
        """The engine of a recipe; see `harness.rollout.build`. It reserves nothing and has no events."""
        bf16 = compute_dtype(bf16=recipe.model.dtype == "bfloat16", device=loaded.model.device)
        return cls(
            loaded.model,
            end_ids=loaded.special.end_ids,
            pad_id=loaded.special.pad_id,
            vocabulary=loaded.special.vocabulary,
            bf16=bf16 == torch.bfloat16,
        )

    @torch.no_grad()
    def update_weights(self) -> None:
        """Refreshes the bfloat16 copy; without one, the engine samples from the policy itself."""
        if self._model is self._policy:
            return
        mine = dict(self._model.named_parameters())
        for name, tensor in merged_weights(self._policy):
            if name in mine:  # a tied head is named twice and held once
                mine[name].copy_(tensor)

    def sleep(self) -> None:
        """Does nothing: the key-value cache lives no longer than a call of `generate`."""

    def close(self) -> None:
        """Nothing to release."""

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Samples one completion per request, in the order of the requests."""
        was_training = self._model.training
        self._model.eval()
        try:
            completions: list[Completion] = []
            for start in range(0, len(requests), self._max_rows):
                completions += self._decode(requests[start : start + self._max_rows], sampling)
            return completions
        finally:
            self._model.train(was_training)

    def _decode(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        device = self._model.device
        rows = len(requests)
        logits, cache, mask = self._prefill(requests, sampling.max_tokens)
        seeds = np.array([r.seed for r in requests], dtype=np.uint64)
        tokens = torch.full((rows, sampling.max_tokens), self._pad_id, device=device)
        logprobs = torch.zeros((rows, sampling.max_tokens), device=device)
        lengths = torch.full((rows,), sampling.max_tokens, device=device)
        ended = torch.zeros(rows, dtype=torch.bool, device=device)
        running = torch.arange(rows, device=device)
        for position in range(sampling.max_tokens):
            drawn, drawn_logprobs = sample(
                logits,
                seeds[running.cpu().numpy()],
                position,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
            )
            alive = ~ended[running]
            live_rows = running[alive]
            tokens[live_rows, position] = drawn[alive]
            logprobs[live_rows, position] = drawn_logprobs[alive]
            stopped = running[alive & torch.isin(drawn, self._end_ids)]
            ended[stopped] = True
            lengths[stopped] = position + 1
            keep = ~ended[running]
            count = int(keep.sum())
            if count == 0 or position + 1 == sampling.max_tokens:
                break
            if count < COMPACT_BELOW * len(running):
                kept = keep.nonzero()[:, 0]
                cache.select(kept)
                running, drawn, mask = running[kept], drawn[kept], mask[kept]
            mask = torch.cat([mask, mask.new_ones((len(running), 1))], dim=1)
            logits = self._forward(drawn[:, None], mask, cache)
        return _completions(tokens, logprobs, lengths, ended)

    def _prefill(
        self, requests: Sequence[Request], max_tokens: int
    ) -> tuple[Tensor, PreallocatedCache, Tensor]:
        """Logits of the first position, cache and mask for every request, each distinct prompt run once."""
        device = self._model.device
        groups = [(prompt, len(list(same))) for prompt, same in groupby(requests, key=lambda r: r.prompt_ids)]
        width = max(len(prompt) for prompt, _ in groups)
        ids = torch.full((len(groups), width), self._pad_id)
        mask = torch.zeros((len(groups), width), dtype=torch.int64)
        for row, (prompt, _) in enumerate(groups):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        ids, mask = ids.to(device), mask.to(device)
        cache = PreallocatedCache(self._model.config.get_text_config().num_hidden_layers, width + max_tokens)
        logits = self._forward(ids, mask, cache)
        repeats = torch.repeat_interleave(torch.tensor([count for _, count in groups])).to(device)
        cache.select(repeats)
        return logits[repeats], cache, mask[repeats]

    def _forward(self, ids: Tensor, mask: Tensor, cache: PreallocatedCache) -> Tensor:
        """Logits [B, V] of what follows the last of `ids` [B, q]; `mask` [B, cached + q] is 0 on the left padding."""
        positions = (mask.cumsum(-1) - 1).clamp_(min=0)[:, -ids.shape[1] :]
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1, : self._vocabulary]


def _completions(tokens: Tensor, logprobs: Tensor, lengths: Tensor, ended: Tensor) -> list[Completion]:
    token_rows, logprob_rows = tokens.tolist(), logprobs.tolist()
    return [
        Completion(tuple(ids[:length]), tuple(values[:length]), not done)
        for ids, values, length, done in zip(token_rows, logprob_rows, lengths.tolist(), ended.tolist())
    ]
