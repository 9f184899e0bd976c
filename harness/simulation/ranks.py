"""One rank of several under fake tensors: sharding as on a real machine, and no other process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from harness.training.data_parallel import DataParallel, T


class _OneOfSeveral(DataParallel):
    """Rank 0 of `world_size`; what the others would send is not there."""

    def __init__(self, world_size: int) -> None:
        self.rank, self.world_size, self.is_rank0 = 0, world_size, True
        self.device = torch.device("cpu")
        self._mesh = dist.init_device_mesh("cpu", (world_size,))
        self._wrapped = {}
        self._engine = None
        self.waited_seconds = 0.0

    def shard(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model itself: tensors without values are not copied."""
        return self.shard_in_place(model)

    def gather(self, value: T) -> list[T]:
        """The rank's own value, from every rank."""
        return [value] * self.world_size


@contextmanager
def simulated_ranks(world_size: int) -> Iterator[DataParallel]:
    """The parallelism of rank 0, over collectives that allocate their results and send nothing.

    Raises:
        RuntimeError: this process belongs to a process group already.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group(backend="fake", rank=0, world_size=world_size, store=FakeStore())
    try:
        yield _OneOfSeveral(world_size)
    finally:
        dist.destroy_process_group()
