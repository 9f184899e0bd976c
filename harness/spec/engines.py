"""Rollout engines by name: what recipes, plans and evaluations know of each without loading it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from harness.spec.recipe import RolloutSpec


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """Memory that an engine takes for itself on a training device, whatever is asked of it."""

    device_share: float
    """Of a GPU's memory, weights included."""
    cache_gib: float
    """On a CPU: keys and values, beside the weights."""
    libraries_gib: float
    """On a CPU: what its libraries add to the training process."""
    asleep_in_updates: bool
    """Given back while the policy is updated."""


class EngineTraits:
    """What can be known of an engine from its name and a recipe's settings."""

    path: str
    """`module:class`, an `EngineClass` of `harness.rollout.build`; imported when an engine is built."""
    title: str
    """In messages and plans."""
    package: str | None = None
    """What it needs beside the product, by import name; None for nothing."""
    exact: bool = False
    """Whether its tokens depend on the request and what precedes them, and not on the batch or the cap: then an
    evaluation under a smaller cap is the truncation of a longer one."""
    max_temperature: float | None = None
    """The highest temperature that it samples at; None for any."""
    continuous_batching: bool = False
    """Whether a request that waits begins when another one ends, not when all that are decoded together have."""
    copies_weights: bool = False
    """Whether the training device holds a copy of the weights for it where the policy computes in bfloat16."""

    def concurrency(self, rollout: RolloutSpec) -> int:
        """Completions decoded together, at most."""
        raise NotImplementedError

    def layer_seconds(self, rollout: RolloutSpec) -> float:
        """Fixed time of a decoding step on a GPU, of one layer: launching kernels, mostly."""
        raise NotImplementedError

    def has_own_devices(self, rollout: RolloutSpec) -> bool:
        """Whether one engine, on devices that train nothing, samples for all training processes."""
        return False

    def reservation(self, rollout: RolloutSpec) -> Reservation | None:
        """What it reserves on a training device; None for one that needs memory for what it is asked alone."""
        return None


class TransformersTraits(EngineTraits):
    """The policy module itself, decoding in batches."""

    path = "harness.rollout.transformers_engine:TransformersEngine"
    title = "transformers"
    exact = True
    copies_weights = True
    rows = 1024
    """Completions decoded together; the next ones wait until all of them are done."""

    def concurrency(self, rollout: RolloutSpec) -> int:
        """Always `rows`."""
        return self.rows

    def layer_seconds(self, rollout: RolloutSpec) -> float:
        """Of Python between the kernels; see `VllmTraits.layer_seconds` for how well it fits."""
        return 1e-3


class VllmTraits(EngineTraits):
    """vLLM, beside the trainer or on devices of its own, as `rollout.vllm` says."""

    path = "harness.rollout.vllm_engine:VllmEngine"
    title = "vLLM"
    package = "vllm"
    max_temperature: float = 2.0
    continuous_batching = True

    def concurrency(self, rollout: RolloutSpec) -> int:
        """As set."""
        return rollout.vllm.max_sequences

    def layer_seconds(self, rollout: RolloutSpec) -> float:
        """With CUDA graphs or without.

        This, the time per sequence and the share of the bandwidth (`harness.matrix.planning.time_model`) put a model
        of 1.5B weights on an A40 within a quarter of what was published: 115 to 143 s for four calls of 18 sequences
        of up to 3,584 tokens, and 1,628 to 2,106 tokens a second over 500 questions of up to 32,768.
        """
        return 5e-5 if rollout.vllm.cuda_graphs else 3e-4

    def has_own_devices(self, rollout: RolloutSpec) -> bool:
        """As set."""
        return rollout.vllm.placement == "own"

    def reservation(self, rollout: RolloutSpec) -> Reservation | None:
        """Where it is colocated."""
        settings = rollout.vllm
        if settings.placement == "own":
            return None
        return Reservation(
            device_share=settings.memory_utilization,
            cache_gib=settings.cache_gib,
            libraries_gib=0.4,
            asleep_in_updates=settings.sleep_level > 0,
        )


ENGINES: dict[str, EngineTraits] = {"transformers": TransformersTraits(), "vllm": VllmTraits()}
"""What `rollout.engine` accepts: the one place to add another."""

FIRST_ENGINE = "transformers"
"""The default, and the engine of identities and records that name none: early versions had no other."""

if TYPE_CHECKING:
    EngineName = str
else:
    EngineName = Literal[tuple(ENGINES)]
