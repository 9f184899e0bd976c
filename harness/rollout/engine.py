"""The interface of a rollout engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Request:
    """One completion to sample.

    Attributes:
        prompt_ids: the encoded prompt.
        seed: 63-bit seed of this completion; the sample does not depend on what else is in the batch.
    """

    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Sampling:
    """How to sample.

    Attributes:
        max_tokens: length cap in tokens, the end token included.
        temperature: 0 is greedy.
        top_p: nucleus threshold.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Completion:
    """One sampled completion.

    Attributes:
        token_ids: sampled tokens, the end token included if there is one.
        logprobs: log-prob of each token under the tempered distribution, before top-p; at temperature 0
            under the untempered one.
        truncated: the cap ended it, not an end token.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    truncated: bool


class Engine(Protocol):
    """Samples completions from the policy."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Samples one completion per request, in the order of the requests."""
        ...

    def update_weights(self) -> None:
        """Loads the policy's current weights, from which later calls of `generate` sample."""
        ...

    def sleep(self) -> None:
        """Frees memory for the policy update. The next `update_weights` or `generate` wakes the engine up."""
        ...

    def close(self) -> None:
        """Releases what the engine holds."""
        ...
