"""Bytes allocated by what runs under fake tensors: now, at the peak, and what held them then.

Every storage that an operation makes is counted from its birth until nothing refers to it, rounded up as torch's
allocator for the device does. What the allocator keeps beyond that (fragmentation, pools) is not here.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from harness.simulation.labels import BACKWARD, CASTS, REFERENCE, UNALLOCATED, WEIGHTS

GPU_BLOCK = 512
"""Bytes to whose multiple a GPU's caching allocator rounds requests (CUDACachingAllocator.h, kMinBlockSize)."""
_SCALAR = torch.ops.aten._local_scalar_dense.default
_CAST = torch.ops.aten._to_copy.default
_HOST_WAITS = frozenset({"_local_scalar_dense", "nonzero", "equal", "masked_select"})


@dataclass
class Peak:
    """The most that was allocated at once.

    Attributes:
        bytes: allocated then.
        by_label: the bytes of each label then.
    """

    bytes: int = 0
    by_label: dict[str, int] = field(default_factory=dict)


class MemoryTracker(TorchDispatchMode):
    """Counts the storages of all tensors that operations make while it is active, above a `FakeTensorMode`.

    Args:
        fake: the mode, whose tensors are counted.
        label_of_frame: what an allocation under this Python frame is for; None to ask its caller.
        rounded_to: bytes to whose multiple the allocator rounds.

    Attributes:
        allocated: bytes now.
        peaks: the peak of each phase.
        operations: operations called in each phase.
        waits: reads of a device's value by the host in each phase.
    """

    def __init__(
        self, fake: FakeTensorMode, label_of_frame: Callable[[FrameType], str | None], *, rounded_to: int
    ) -> None:
        super().__init__()
        self._rounded_to = rounded_to
        self._fake = fake
        self._resize = torch.UntypedStorage.resize_
        self.allocated = 0
        self.peaks: dict[str, Peak] = {}
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self._label_of_frame = label_of_frame
        self._labels: dict[int, str] = {}
        self._sizes: dict[int, int] = {}
        self._by_label: Counter[str] = Counter()
        self._sums: MutableMapping[Tensor, int] = WeakIdKeyDictionary()
        self._phase = "other"
        self._given: str | None = None

    @contextmanager
    def phase(self, name: str, label: str | None = None) -> Iterator[None]:
        """Books what runs inside under the phase `name`; what it allocates under `label`, if that is given."""
        before = self._phase, self._given
        self._phase, self._given = name, label
        self._note_peak()
        try:
            yield
        finally:
            self._phase, self._given = before

    def relabel(self, tensors: Iterable[Tensor], label: str) -> None:
        """Books these tensors' storages under `label` from now on."""
        for tensor in tensors:
            key = _key(tensor.to_local() if isinstance(tensor, DTensor) else tensor)
            if (old := self._labels.get(key)) is not None:
                size = self._sizes[key]
                self._by_label[old] -= size
                self._by_label[label] += size
                self._labels[key] = label

    def __enter__(self) -> Self:
        tracker = self

        def resize(storage: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
            result: torch.UntypedStorage = tracker._resize(storage, size)
            if (key := storage._cdata) in tracker._sizes:
                tracker._change(key, tracker._rounded(size))
            return result

        # FSDP empties and refills the storages of gathered weights, which no operation shows.
        self._patch = patch.object(torch.UntypedStorage, "resize_", resize)
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patch.stop()

    def _change(self, key: int, size: int) -> None:
        difference = size - self._sizes[key]
        self._sizes[key] = size
        self._by_label[self._labels[key]] += difference
        self.allocated += difference
        self._note_peak()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(issubclass(t, DTensor) for t in types):
            return NotImplemented  # its shards come by
        self.operations[self._phase] += 1
        name = func._schema.name.removeprefix("aten::")
        if name in _HOST_WAITS:
            self.waits[self._phase] += 1
        if func is _SCALAR:
            return self._answer(args[0])
        out = func(*args, **(kwargs or {}))
        cast = func is _CAST and self._labels.get(_key(args[0])) in (WEIGHTS, REFERENCE)
        for leaf in tree_leaves(out):
            if isinstance(leaf, FakeTensor) and leaf.fake_mode is self._fake:
                self._count(leaf, CASTS if cast else None)
        if name == "sum" and args[0].dtype == torch.bool:
            self._sums[out] = args[0].numel()
        return out

    def _answer(self, tensor: Tensor) -> bool | float | int:
        """What the host reads where there is no value: true, one, an index; of a mask's sum, all its places."""
        if tensor.dtype == torch.bool:
            return True
        return 1.0 if tensor.is_floating_point() else self._sums.get(tensor, 0)

    def _count(self, tensor: Tensor, known: str | None) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._labels:
            return
        size = self._rounded(storage.nbytes())
        found = self._label()
        if found == UNALLOCATED:
            return
        label = known or self._given or found
        self._labels[key], self._sizes[key] = label, size
        self._by_label[label] += size
        self.allocated += size
        weakref.finalize(storage, self._freed, key)
        self._note_peak()

    def _freed(self, key: int) -> None:
        size = self._sizes.pop(key)
        self.allocated -= size
        self._by_label[self._labels.pop(key)] -= size

    def _note_peak(self) -> None:
        peak = self.peaks.setdefault(self._phase, Peak())
        if self.allocated > peak.bytes:
            peak.bytes = self.allocated
            peak.by_label = {label: size for label, size in self._by_label.items() if size}

    def _rounded(self, size: int) -> int:
        return -(-size // self._rounded_to) * self._rounded_to

    def _label(self) -> str:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if (found := self._label_of_frame(frame)) is not None:
                return found
            frame = frame.f_back
        return BACKWARD


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
