"""Rollouts with vLLM: in this process beside the trainer, or in a process with devices of its own."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.models.loading import LoadedModel
from harness.models.lora import merged_weights
from harness.models.precision import compute_dtype
from harness.rollout.engine import Completion, Request, Sampling
from harness.rollout.vllm_core import CoreOptions, VllmCore
from harness.rollout.vllm_process import ProcessCore
from harness.spec.engines import VllmTraits
from harness.spec.recipe import Recipe, VllmSpec

PROBE_TOKENS = 32
MISMATCH_LIMIT = {torch.float32: 1e-2, torch.bfloat16: 1.0}
"""Largest mean difference of the probe's log-probs, trainer to engine, by the engine's dtype. Two implementations
in fp32 differ by about 1e-5, in bf16 by up to a few tenths on improbable tokens; other weights by several nats."""
RESTARTS_PER_CALL = 2

T = TypeVar("T")


class EngineFailed(RuntimeError):
    """The engine failed again after every restart, or does not hold the policy's weights."""


class _Core(Protocol):
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]: ...
    def score(self, ids: Sequence[int]) -> list[float]: ...
    def load_weights(self, weights: Sequence[tuple[str, Tensor]], *, shared: bool) -> None: ...
    def sleep(self, level: int) -> None: ...
    def wake_up(self) -> None: ...
    def close(self) -> None: ...


class VllmEngine:
    """vLLM behind the engine interface.

    A completion's random draws depend on its request's seed and the position alone. The logits may depend in their
    last bits on what else is in the batch, so a completion may, very rarely, differ between pools; the same pool of
    requests gives the same completions, after a resume or a restart of the engine too, since no call shares
    state with another. On a CPU that is bit for bit with one thread; with several, up to the order of summation.

    If the engine raises or its process dies, it is built anew, given the policy's weights, and asked for the same
    requests again: the step goes on with the completions that it would have had.

    A colocated engine sleeps from `sleep` to the next `update_weights` or `generate`, which frees its memory for the
    update.

    Args:
        model: the policy, on its device.
        end_ids: tokens that end a completion.
        vocabulary: rows of the head that are tokens; those from there on are padding and are never sampled. None
            for all.
        spec: placement and memory.
        bf16: compute in bfloat16, where the device has it.
        context_tokens: longest prompt and completion together; more makes the engine start anew.
        on_event: told of restarts: kind and message.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        end_ids: Sequence[int],
        vocabulary: int | None = None,
        spec: VllmSpec,
        bf16: bool,
        context_tokens: int,
        on_event: Callable[[str, str], None] | None = None,
    ) -> None:
        self._policy = model
        self._spec = spec
        self._on_event = on_event or (lambda kind, message: None)
        self._dtype = compute_dtype(bf16=bf16, device=model.device)
        # A trainer of several processes has a process group that vLLM's would collide with.
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        distributed = several and torch.distributed.get_world_size() > 1
        self._own_process = spec.placement == "own" or distributed
        self._sleeps = spec.sleep_level if spec.placement == "colocated" else 0
        self._folder = Path(tempfile.mkdtemp(prefix="grpo-vllm-"))
        config = copy.deepcopy(model.config.get_text_config())
        config.architectures = config.architectures or [type(model).__name__]
        config.save_pretrained(self._folder)
        self._options = CoreOptions(
            folder=str(self._folder),
            dtype="bfloat16" if self._dtype == torch.bfloat16 else "float32",
            device="cpu" if model.device.type == "cpu" else "cuda",
            context_tokens=max(context_tokens, PROBE_TOKENS + 1),
            max_sequences=spec.max_sequences,
            cache_gib=spec.cache_gib,
            memory_utilization=spec.memory_utilization,
            cuda_graphs=spec.cuda_graphs,
            sleep=self._sleeps > 0,
            end_ids=tuple(sorted(end_ids)),
            vocabulary=vocabulary or config.vocab_size,
        )
        known = self._options.vocabulary
        step = max(1, known // PROBE_TOKENS)
        self.probe = tuple((17 + i * step) % known for i in range(PROBE_TOKENS))
        self.restarts = 0
        self.mismatch = float("nan")
        """Mean absolute difference of the probe's log-probs, trainer to engine, after the last `update_weights`."""
        self.core: _Core | None = None
        self._asleep = False
        self._holds_weights = False

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        loaded: LoadedModel,
        *,
        completion_tokens: int = 0,
        on_event: Callable[[str, str], None] | None = None,
    ) -> VllmEngine:
        """The engine of a recipe, with room for the longest completion; see `harness.rollout.build`."""
        longest = max(recipe.rollout.max_completion_tokens, completion_tokens)
        return cls(
            loaded.model,
            end_ids=loaded.special.end_ids,
            vocabulary=loaded.special.vocabulary,
            spec=recipe.rollout.vllm,
            bf16=recipe.model.dtype == "bfloat16",
            context_tokens=min(recipe.prompt.max_tokens + longest, loaded.source.context_tokens),
            on_event=on_event,
        )

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Samples one completion per request in one pooled call, in the order of the requests.

        Raises:
            EngineFailed: after `RESTARTS_PER_CALL` restarts.
            ValueError: the temperature is beyond what vLLM admits.
        """
        if not requests:
            return []
        if sampling.temperature > (most := VllmTraits.max_temperature):
            raise ValueError(f"`temperature` must be at most {most:g} for vLLM, got {sampling.temperature}")
        self._make_room(max(len(r.prompt_ids) for r in requests) + sampling.max_tokens)
        return self._persistently(lambda: self.awake().generate(requests, sampling))

    def update_weights(self) -> None:
        """Loads the policy's weights and compares the log-probs of a fixed probe with the policy's.

        Raises:
            EngineFailed: they differ by more than `MISMATCH_LIMIT`.
        """
        self._persistently(lambda: self._load(self.awake(loaded=False)))

    def sleep(self) -> None:
        """Puts a colocated engine to sleep, as `sleep_level` says."""
        if self._sleeps and not self._asleep:
            self._persistently(self._fall_asleep)

    def _fall_asleep(self) -> None:
        if self.core is not None:  # one that failed is built when it is used again
            self.core.sleep(self._sleeps)
            self._asleep = True
            self._holds_weights = self._sleeps == 1 and self._options.device == "cuda"

    def _make_room(self, tokens: int) -> None:
        """Builds the engine anew if it has no room for a sequence of `tokens` tokens."""
        if tokens > self._options.context_tokens:
            self.close()
            self._options = replace(self._options, context_tokens=tokens)

    def close(self) -> None:
        """Ends the engine and frees what it holds. It starts anew when it is used again."""
        core, self.core = self.core, None
        self._asleep = self._holds_weights = False
        if core is not None:
            core.close()

    def __del__(self) -> None:
        shutil.rmtree(getattr(self, "_folder", ""), ignore_errors=True)

    def scores(self) -> Tensor:
        """Log-probs of the probe's tokens after the first as the engine computes them, fp32 [PROBE_TOKENS − 1]."""
        return torch.tensor(self.awake().score(self.probe))

    @torch.no_grad()
    def policy_scores(self) -> Tensor:
        """The same from the policy itself, at temperature 1."""
        was_training = self._policy.training
        self._policy.eval()
        device = self._policy.device
        ids = torch.tensor([self.probe], device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            logits = self._policy(input_ids=ids, use_cache=False).logits[0, :-1, : self._options.vocabulary]
        self._policy.train(was_training)
        return logits.float().log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0].cpu()

    def awake(self, *, loaded: bool = True) -> _Core:
        """The core, built and woken if need be, with weights unless they are not wanted."""
        if self.core is None:
            self.core = (
                ProcessCore(self._options, self._devices()) if self._own_process else VllmCore(self._options)
            )
        elif self._asleep:
            self.core.wake_up()
            self._asleep = False
        if loaded and not self._holds_weights:
            self._load(self.core)
        return self.core

    def _devices(self) -> tuple[int, ...]:
        mine = self._policy.device.index
        return self._spec.devices or (() if mine is None else (mine,))

    def _load(self, core: _Core) -> None:
        tied = self._policy.config.get_text_config().tie_word_embeddings
        core.load_weights(
            [
                (n, t.detach())
                for n, t in merged_weights(self._policy)
                if not (tied and n == "lm_head.weight")
            ],
            shared=True,
        )
        self._holds_weights = True
        difference = torch.tensor(core.score(self.probe)) - self.policy_scores()
        self.mismatch = float(difference.abs().mean())
        if not self.mismatch <= MISMATCH_LIMIT[self._dtype] and bool(
            torch.isfinite(self.policy_scores()).all()
        ):
            raise EngineFailed(
                f"after the weights were loaded, the engine's log-probs are {self.mismatch:.3g} from the policy's"
            )

    def _persistently(self, work: Callable[[], T]) -> T:
        """Does `work`, on a new engine if the one there is fails."""
        for attempt in range(RESTARTS_PER_CALL + 1):
            try:
                return work()
            except EngineFailed:
                raise
            except Exception as error:
                reason = (str(error).strip().splitlines() or [repr(error)])[-1]
                try:
                    self.close()
                except Exception:
                    self.core = None
                if attempt == RESTARTS_PER_CALL:
                    raise EngineFailed(f"vLLM failed {attempt + 1} times in a row: {reason}") from error
                self.restarts += 1
                self._on_event("engine_restarted", f"vLLM failed and was started again: {reason}")
        raise AssertionError
