"""A key-value cache that writes into preallocated room, for decoding large batches step by step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class PreallocatedLayer(CacheLayerMixin):
    """Keys and values [B, heads, capacity, head_dim] of one layer, filled from the left.

    transformers' dynamic layer concatenates at every token, which copies the whole cache each time.
    """

    is_sliding = False

    def __init__(self, capacity: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = self._room(key_states)
        self.values = self._room(value_states)
        self.is_initialized = True

    def _room(self, states: Tensor) -> Tensor:
        batch, heads, _, dim = states.shape
        return torch.empty((batch, heads, self.capacity, dim), dtype=states.dtype, device=states.device)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Appends [B, heads, q, head_dim] and returns views of everything held so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        end = self.length + key_states.shape[-2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that a query of `query_length` sees."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens held."""
        return self.length

    def get_max_length(self) -> int:
        """Tokens that there is room for."""
        return self.capacity

    def select(self, rows: Tensor) -> None:
        """Keeps, in order, the batch rows `rows` (int64, repeats allowed)."""
        assert self.keys is not None
        assert self.values is not None
        self.keys = self._rows(self.keys, rows)
        self.values = self._rows(self.values, rows)

    def _rows(self, states: Tensor, rows: Tensor) -> Tensor:
        _, heads, capacity, dim = states.shape
        kept = torch.empty((len(rows), heads, capacity, dim), dtype=states.dtype, device=states.device)
        kept[:, :, : self.length] = states[rows, :, : self.length]
        return kept


class PreallocatedCache(Cache):
    """One `PreallocatedLayer` per layer of the model."""

    def __init__(self, layers: int, capacity: int) -> None:
        super().__init__(layers=[PreallocatedLayer(capacity) for _ in range(layers)])

    def select(self, rows: Tensor) -> None:
        """Keeps, in order, the batch rows `rows` (int64, repeats allowed)."""
        for layer in self.layers:
            assert isinstance(layer, PreallocatedLayer)
            layer.select(rows)
