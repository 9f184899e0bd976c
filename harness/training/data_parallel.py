"""Data-parallel training over several processes: sharded weights (FSDP2), one loss, one set of records.

Every rank runs the same program. Work that must happen once (choosing prompts, rewards, evaluation, records) happens
on rank 0 through `on_rank0`; meanwhile the other ranks sample the completions that rank 0 asks for. Weights,
gradients and optimiser state are sharded over the ranks. Each rank also keeps a full copy of the weights, the
replica, from which its engine samples and which checkpoints store, so a run may resume with another number of ranks.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, Protocol, TypeVar

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
"""How long a collective may wait for another rank, which may be evaluating. A dead rank is noticed at once: its
connection closes, and torchrun sees it end."""


class Parallelism(Protocol):
    """How a run's training is spread over processes: `SingleProcess` or `DataParallel`."""

    @property
    def rank(self) -> int:
        """Number of this process."""

    @property
    def world_size(self) -> int:
        """Number of processes."""

    @property
    def is_rank0(self) -> bool:
        """Whether this process keeps the records."""

    @property
    def device(self) -> torch.device | None:
        """This rank's device; None where the recipe's hardware decides."""

    @property
    def waited_seconds(self) -> float:
        """Seconds spent in `wait_for_all` so far."""

    def shared_engine(self, engine: Engine | None) -> Engine:
        """An engine for calls on rank 0, which splits the requests over all ranks that have an engine.

        Args:
            engine: this rank's own; None where it has none.
        """

    def on_rank0(self, work: Callable[[], T]) -> T:
        """Calls `work` on rank 0 alone; every rank returns its result or raises its exception."""

    def wait_for_all(self, value: T) -> list[T]:
        """All-gathers `value` from every rank, in rank order; the seconds are added to `waited_seconds`."""

    def shard(self, model: PreTrainedModel) -> PreTrainedModel:
        """A sharded copy of `model`; the model itself in a single process."""

    def logprobs(
        self,
        model: PreTrainedModel,
        batch: MicroBatch,
        *,
        temperature: float,
        bf16: bool,
        vocab_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`completion_logprobs` of a model that `shard` returned."""

    def microbatch_tokens(self, tokens: int, budget_tokens: int) -> int:
        """Token budget of a micro-batch: at most `budget_tokens`, and so small that each rank gets one micro-batch.

        Args:
            tokens: tokens of all samples.
            budget_tokens: the recipe's `microbatch_tokens`.
        """

    def local_batches(self, batches: Sequence[MicroBatch]) -> Iterator[tuple[MicroBatch, float]]:
        """This rank's micro-batches, each with the factor for its loss before the backward pass."""

    def gather_batches(self, local: list[T], count: int) -> list[T]:
        """The results of all ranks, one for each of the `count` micro-batches and in their order."""

    def sync_replica(self, policy: PreTrainedModel, replica: PreTrainedModel) -> None:
        """Copies the policy's weights into the replica."""

    def load_replica(self, policy: PreTrainedModel, replica: PreTrainedModel) -> None:
        """Copies the replica's weights into the policy."""


class SingleProcess:
    """`Parallelism` of a run in one process: the policy is its own replica, and nothing is communicated."""

    rank, world_size, is_rank0 = 0, 1, True
    device: torch.device | None = None
    waited_seconds = 0.0

    def shared_engine(self, engine: Engine | None) -> Engine:
        """The engine itself."""
        assert engine is not None
        return engine

    def on_rank0(self, work: Callable[[], T]) -> T:
        """Calls `work`."""
        return work()

    def wait_for_all(self, value: T) -> list[T]:
        """`[value]`, at once."""
        return [value]

    def shard(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model itself."""
        return model

    def logprobs(
        self,
        model: PreTrainedModel,
        batch: MicroBatch,
        *,
        temperature: float,
        bf16: bool,
        vocab_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `completion_logprobs`; large gradients are added in place."""
        return completion_logprobs(
            model, batch, temperature=temperature, bf16=bf16, vocab_size=vocab_size, in_place=True
        )

    def microbatch_tokens(self, tokens: int, budget_tokens: int) -> int:
        """`budget_tokens`."""
        return budget_tokens

    def local_batches(self, batches: Sequence[MicroBatch]) -> Iterator[tuple[MicroBatch, float]]:
        """All of them, with factor 1."""
        return ((batch, 1.0) for batch in batches)

    def gather_batches(self, local: list[T], count: int) -> list[T]:
        """`local` itself."""
        return local

    def sync_replica(self, policy: PreTrainedModel, replica: PreTrainedModel) -> None:
        """Does nothing."""

    def load_replica(self, policy: PreTrainedModel, replica: PreTrainedModel) -> None:
        """Does nothing."""


class DataParallel:
    """`Parallelism` of one process of several that torchrun started.

    Args:
        device: `cpu` or `cuda`.
    """

    def __init__(self, device: str) -> None:
        self.rank, self.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.is_rank0 = self.rank == 0
        self.device = (
            torch.device(device, int(os.environ["LOCAL_RANK"])) if device == "cuda" else torch.device(device)
        )
        if device == "cuda":
            torch.cuda.set_device(self.device)
        dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
        # Python objects go over gloo: NCCL would take a long wait for a hang.
        self._objects = dist.new_group(backend="gloo", timeout=TIMEOUT)
        self._mesh = dist.init_device_mesh(device, (self.world_size,))
        self._wrapped: dict[int, _BodyAndHead] = {}
        self._engine: _SharedEngine | None = None
        self.waited_seconds = 0.0

    def close(self) -> None:
        """Leaves the process group."""
        dist.destroy_process_group()

    def shared_engine(self, engine: Engine | None) -> Engine:
        """See `Parallelism`; called on every rank."""
        self._engine = _SharedEngine(self, engine)
        return self._engine

    def on_rank0(self, work: Callable[[], T]) -> T:
        """Calls `work` on rank 0 while the other ranks sample what it asks for."""
        if not self.is_rank0:
            return self._serve()
        try:
            result = work()
        except Exception as error:
            self.broadcast(("raised", error))
            raise
        self.broadcast(("returned", result))
        return result

    def _serve(self) -> Any:
        """Samples this rank's part of each of rank 0's calls; ends as `on_rank0` ended on rank 0."""
        while True:
            kind, content = self.broadcast(None)
            if kind == "returned":
                return content
            if kind == "raised":
                raise content
            assert self._engine is not None
            self._engine.generate_part(*content)

    def broadcast(self, message: Any) -> Any:
        """Rank 0's message, on every rank."""
        box = [message]
        dist.broadcast_object_list(box, src=0, group=self._objects)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """All-gathers `value`, in rank order."""
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value, group=self._objects)
        return gathered

    def wait_for_all(self, value: T) -> list[T]:
        """`gather`, whose seconds count as waited."""
        start = time.perf_counter()
        gathered = self.gather(value)
        self.waited_seconds += time.perf_counter() - start
        return gathered

    def shard(self, model: PreTrainedModel) -> PreTrainedModel:
        """A copy sharded by FSDP2, layer by layer."""
        return self.shard_in_place(copy.deepcopy(model))

    def shard_in_place(self, sharded: PreTrainedModel) -> PreTrainedModel:
        """The model itself, sharded."""
        from torch.distributed.fsdp import fully_shard

        wrapped = _BodyAndHead(sharded)
        for layer in _layers(sharded):
            fully_shard(layer, mesh=self._mesh)
        # The root is resharded after the forward pass too, so that its shards can be read at any time.
        fully_shard(wrapped, mesh=self._mesh, reshard_after_forward=True)
        self._wrapped[id(sharded)] = wrapped
        return sharded

    def logprobs(
        self,
        model: PreTrainedModel,
        batch: MicroBatch,
        *,
        temperature: float,
        bf16: bool,
        vocab_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Body and head in one forward call of the FSDP module, which gathers the weights of both."""
        return self._wrapped[id(model)](batch, temperature=temperature, bf16=bf16, vocab_size=vocab_size)

    def microbatch_tokens(self, tokens: int, budget_tokens: int) -> int:
        """At most an even share of the tokens."""
        return max(1, min(budget_tokens, math.ceil(tokens / self.world_size)))

    def local_batches(self, batches: Sequence[MicroBatch]) -> Iterator[tuple[MicroBatch, float]]:
        """Batch i goes to rank i mod W. Where batches run out, a rank repeats the first one with factor 0.

        FSDP's collectives need equally many passes on every rank. The factor is W, because FSDP averages gradients
        over ranks where the loss's normaliser needs their sum.
        """
        for start in range(0, len(batches), self.world_size):
            own = start + self.rank
            yield (batches[own], float(self.world_size)) if own < len(batches) else (batches[0], 0.0)

    def gather_batches(self, local: list[T], count: int) -> list[T]:
        """All results, tensors on the CPU; those of repeated batches are dropped."""
        on_host = tree_map(lambda x: x.cpu() if isinstance(x, Tensor) else x, local)
        return [item for one in zip(*self.gather(on_host)) for item in one][:count]

    @torch.no_grad()
    def sync_replica(self, policy: PreTrainedModel, replica: PreTrainedModel) -> None:
        """All-gathers the weights, one tensor after the other."""
        for mine, theirs in zip(replica.parameters(), policy.parameters(), strict=True):
            mine.copy_(theirs.full_tensor())  # type: ignore[attr-defined]

    @torch.no_grad()
    def load_replica(self, policy: PreTrainedModel, replica: PreTrainedModel) -> None:
        """Every rank copies its shards out of its own replica."""
        for mine, theirs in zip(policy.parameters(), replica.parameters(), strict=True):
            mine.copy_(distribute_like(theirs, mine))


class _BodyAndHead(nn.Module):
    """The module that FSDP wraps: body and head in one forward call, so that both see gathered weights."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, batch: MicroBatch, *, temperature: float, bf16: bool, vocab_size: int | None
    ) -> tuple[Tensor, Tensor]:
        return completion_logprobs(
            self.model, batch, temperature=temperature, bf16=bf16, vocab_size=vocab_size
        )


class _SharedEngine:
    """Splits rank 0's requests over the ranks that have an engine."""

    def __init__(self, ranks: DataParallel, own: Engine | None) -> None:
        self._ranks = ranks
        self._own = own
        self._able = [rank for rank, able in enumerate(ranks.gather(own is not None)) if able]

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Called on rank 0 inside `on_rank0`, where the other ranks wait for it."""
        self._ranks.broadcast(("generate", (list(requests), sampling)))
        return self.generate_part(requests, sampling)

    def generate_part(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Samples this rank's contiguous part of the requests; contiguous, to keep completions of a prompt together.

        Returns:
            All completions on rank 0, nothing elsewhere.

        Raises:
            RuntimeError: on rank 0, if another rank's engine failed. If its own failed, that engine's exception.
        """
        own: list[Completion] = []
        failure: Exception | None = None
        try:
            own = self._part(requests, sampling)
        except (
            Exception
        ) as error:  # raised after the gather, in which the other ranks would wait for this one
            failure = error
        gathered = self._ranks.wait_for_all(
            (own, None if failure is None else f"{type(failure).__name__}: {failure}")
        )
        if not self._ranks.is_rank0:
            return []
        if failure is not None:
            raise failure
        for rank, (_, words) in enumerate(gathered):
            if words is not None:
                raise RuntimeError(f"sampling failed on rank {rank}: {words}")
        return [completion for part, _ in gathered for completion in part]

    def _part(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """The completions of this rank's part of the requests."""
        if self._own is None:
            return []
        part, parts = self._able.index(self._ranks.rank), len(self._able)
        own = requests[len(requests) * part // parts : len(requests) * (part + 1) // parts]
        return self._own.generate(own, sampling) if own else []

    def update_weights(self) -> None:
        """Called on every rank: its engine loads its replica's weights."""
        if self._own is not None:
            self._own.update_weights()

    def sleep(self) -> None:
        """Called on every rank: its engine frees memory for the update."""
        if self._own is not None:
            self._own.sleep()

    def close(self) -> None:
        """Called on every rank: closes its engine."""
        if self._own is not None:
            self._own.close()


def distribute_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A full tensor distributed as `parameter` is: sharded alike, or the tensor itself on the parameter's device."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    value = value.to(parameter.device)
    if not isinstance(parameter, DTensor) or not value.dim():
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def full_tensor(value: Any) -> Any:
    """A sharded tensor all-gathered, which every rank must ask for; anything else unchanged."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder layers: the longest `nn.ModuleList`."""
    lists: list[Any] = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    longest: Any = max(lists, key=len, default=[])
    return list(longest)
