"""Data-parallel training over several processes: sharded weights (FSDP2), one loss, one set of records.

Every rank runs the same program. What must happen once (sampling's bookkeeping, rewards, evaluation, records) happens
on the lead, rank 0, through `together`; while it does, the others serve its calls for completions. Weights, gradients
and moments are sharded over the ranks; each rank also keeps a whole copy of the weights, the replica, which samples
completions and is what checkpoints hold, so that a run may go on with another number of ranks.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from transformers import PreTrainedModel

from harness.rollout.engine import Completion, Engine, Request, Sampling
from harness.training.batch import MicroBatch
from harness.training.policy import completion_logprobs

T = TypeVar("T")

TIMEOUT = timedelta(hours=4)
"""For one rank to wait for another, which may be evaluating. A rank that died is noticed at once, by its connection
and by torchrun, not by this."""


class Alone:
    """A run in one process: nothing to agree on."""

    rank, world = 0, 1
    device: torch.device | None = None
    waited_seconds = 0.0

    @property
    def lead(self) -> bool:
        """Whether this process keeps the records."""
        return self.rank == 0

    def engine(self, engine: Engine | None) -> Engine:
        """The engine through which this rank samples; None where it has none of its own."""
        assert engine is not None
        return engine

    def together(self, work: Callable[[], T]) -> T:
        """Does `work` once, on the lead; every rank gets what it returns or raises."""
        return work()

    def wait(self, found: T) -> list[T]:
        """What every rank found, by rank; the seconds until all have are added to `waited_seconds`."""
        return [found]

    def shard(self, model: PreTrainedModel) -> PreTrainedModel:
        """A sharded copy of `model`, or the model itself where there is nothing to shard."""
        return model

    def logprobs(
        self, model: PreTrainedModel, batch: MicroBatch, *, temperature: float, bf16: bool
    ) -> tuple[Tensor, Tensor]:
        """`completion_logprobs` of a model that `shard` returned."""
        return completion_logprobs(model, batch, temperature=temperature, bf16=bf16, in_place=True)

    def budget(self, tokens: int, budget_tokens: int) -> int:
        """Padded tokens of a micro-batch, so that every rank gets one."""
        return budget_tokens

    def shares(self, batches: Sequence[MicroBatch]) -> Iterator[tuple[MicroBatch, float]]:
        """This rank's micro-batches, and the factor of their loss before the backward pass."""
        return ((batch, 1.0) for batch in batches)

    def merged(self, found: list[T], count: int) -> list[T]:
        """What all ranks found, in the order of the `count` micro-batches."""
        return found

    def publish(self, policy: PreTrainedModel, replica: PreTrainedModel) -> None:
        """Copies the policy's weights into the replica."""

    def adopt(self, policy: PreTrainedModel, replica: PreTrainedModel) -> None:
        """Copies the replica's weights into the policy."""


class Ranks(Alone):
    """One process of several, started by torchrun.

    Args:
        device: `cpu` or `cuda`.
    """

    def __init__(self, device: str) -> None:
        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.device = (
            torch.device(device, int(os.environ["LOCAL_RANK"])) if device == "cuda" else torch.device(device)
        )
        if device == "cuda":
            torch.cuda.set_device(self.device)
        dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
        # Objects travel by gloo: on NCCL a long wait would count as a hang.
        self._objects = dist.new_group(backend="gloo", timeout=TIMEOUT)
        self._mesh = dist.init_device_mesh(device, (self.world,))
        self._wrapped: dict[int, _Wrapped] = {}
        self._engine: _SharedEngine | None = None
        self.waited_seconds = 0.0

    def close(self) -> None:
        """Leaves the group."""
        dist.destroy_process_group()

    def engine(self, engine: Engine | None) -> Engine:
        """The lead's calls are shared among the ranks that have an engine; with the lead's alone it does all."""
        self._engine = _SharedEngine(self, engine)
        return self._engine

    def together(self, work: Callable[[], T]) -> T:
        """Does `work` on the lead, while the others serve its calls for completions."""
        if not self.lead:
            return self._serve()
        try:
            result = work()
        except Exception as error:
            self.tell(("raised", error))
            raise
        self.tell(("returned", result))
        return result

    def _serve(self) -> Any:
        while True:
            kind, content = self.tell(None)
            if kind == "returned":
                return content
            if kind == "raised":
                raise content
            assert self._engine is not None
            self._engine.share(*content)

    def tell(self, message: Any) -> Any:
        """The lead's message, on every rank."""
        box = [message]
        dist.broadcast_object_list(box, src=0, group=self._objects)
        return box[0]

    def gather(self, found: T) -> list[T]:
        """What every rank found, by rank."""
        everything: list[Any] = [None] * self.world
        dist.all_gather_object(everything, found, group=self._objects)
        return everything

    def wait(self, found: T) -> list[T]:
        """`gather`, whose seconds count as waited."""
        start = time.perf_counter()
        everything = self.gather(found)
        self.waited_seconds += time.perf_counter() - start
        return everything

    def shard(self, model: PreTrainedModel) -> PreTrainedModel:
        """A copy whose weights are split over the ranks, layer by layer."""
        from torch.distributed.fsdp import fully_shard

        sharded = copy.deepcopy(model)
        wrapped = _Wrapped(sharded)
        for layer in _layers(sharded):
            fully_shard(layer, mesh=self._mesh)
        # The root as well gives its gathered weights back after a pass, so that the shards can be read at any time.
        fully_shard(wrapped, mesh=self._mesh, reshard_after_forward=True)
        self._wrapped[id(sharded)] = wrapped
        return sharded

    def logprobs(
        self, model: PreTrainedModel, batch: MicroBatch, *, temperature: float, bf16: bool
    ) -> tuple[Tensor, Tensor]:
        """Body and head in one forward call of the wrapped module, for which the weights are gathered."""
        return self._wrapped[id(model)](batch, temperature=temperature, bf16=bf16)

    def budget(self, tokens: int, budget_tokens: int) -> int:
        """No more than an even share of the tokens."""
        return max(1, min(budget_tokens, math.ceil(tokens / self.world)))

    def shares(self, batches: Sequence[MicroBatch]) -> Iterator[tuple[MicroBatch, float]]:
        """Equally many passes on every rank, as their collectives need; idle ranks repeat a batch at weight 0.

        FSDP averages gradients over ranks, where the loss's normaliser wants their sum.
        """
        for start in range(0, len(batches), self.world):
            own = start + self.rank
            yield (batches[own], float(self.world)) if own < len(batches) else (batches[0], 0.0)

    def merged(self, found: list[T], count: int) -> list[T]:
        """The ranks' rounds laid end to end, on the host; what idle ranks repeated is left out."""
        on_host = tree_map(lambda x: x.cpu() if isinstance(x, Tensor) else x, found)
        return [item for one in zip(*self.gather(on_host)) for item in one][:count]

    @torch.no_grad()
    def publish(self, policy: PreTrainedModel, replica: PreTrainedModel) -> None:
        """Gathers the weights, one tensor after the other."""
        for mine, theirs in zip(replica.parameters(), policy.parameters(), strict=True):
            mine.copy_(theirs.full_tensor())  # type: ignore[attr-defined]

    @torch.no_grad()
    def adopt(self, policy: PreTrainedModel, replica: PreTrainedModel) -> None:
        """Every rank takes its shards out of its own replica."""
        for mine, theirs in zip(policy.parameters(), replica.parameters(), strict=True):
            mine.copy_(like(theirs, mine))


class _Wrapped(nn.Module):
    """The module that FSDP wraps: hidden states and head in one forward, so that both see gathered weights."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: MicroBatch, *, temperature: float, bf16: bool) -> tuple[Tensor, Tensor]:
        return completion_logprobs(self.model, batch, temperature=temperature, bf16=bf16)


class _SharedEngine:
    """Splits the lead's requests over the ranks."""

    def __init__(self, ranks: Ranks, own: Engine | None) -> None:
        self._ranks = ranks
        self._own = own
        self._able = [rank for rank, able in enumerate(ranks.gather(own is not None)) if able]

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Called by the lead alone; the other ranks are in `Ranks.together`."""
        self._ranks.tell(("generate", (list(requests), sampling)))
        return self.share(requests, sampling)

    def share(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Samples the ranks' contiguous parts, so that completions of a prompt stay together as far as can be.

        Returns:
            All completions on the lead, nothing elsewhere.

        Raises:
            RuntimeError: on the lead, if another rank's engine failed; what its own engine raised, if that did.
        """
        own: list[Completion] = []
        failure: Exception | None = None
        try:
            own = self._part(requests, sampling)
        except Exception as error:  # told to all: who left alone would let the others wait
            failure = error
        everything = self._ranks.wait(
            (own, None if failure is None else f"{type(failure).__name__}: {failure}")
        )
        if not self._ranks.lead:
            return []
        if failure is not None:
            raise failure
        for rank, (_, words) in enumerate(everything):
            if words is not None:
                raise RuntimeError(f"sampling failed on rank {rank}: {words}")
        return [completion for part, _ in everything for completion in part]

    def _part(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """What this rank samples of the lead's requests."""
        if self._own is None:
            return []
        part, parts = self._able.index(self._ranks.rank), len(self._able)
        own = requests[len(requests) * part // parts : len(requests) * (part + 1) // parts]
        return self._own.generate(own, sampling) if own else []

    def sync(self) -> None:
        """Every rank's engine takes its replica's weights."""
        if self._own is not None:
            self._own.sync()

    def rest(self) -> None:
        """Every rank's engine makes room for the update."""
        if self._own is not None:
            self._own.rest()

    def close(self) -> None:
        """Releases what this rank's engine holds."""
        if self._own is not None:
            self._own.close()


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor as `parameter` lies: the same shards on the same ranks, or the tensor itself on its device."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    value = value.to(parameter.device)
    if not isinstance(parameter, DTensor) or not value.dim():
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def whole(value: Any) -> Any:
    """A sharded tensor gathered, on every rank; anything else as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder layers: the longest list of modules."""
    lists: list[Any] = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    longest: Any = max(lists, key=len, default=[])
    return list(longest)
