"""Tiles and slabs of a few rows, so that small problems span several."""

from __future__ import annotations

import pytest
import torch

from kernels.token_logprob import plan
from kernels.triton_installed import triton_installed


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles so small that every problem here spans several in both directions, none of them full at the end."""
    threads = torch.get_num_threads()
    # Threads only wait for one another on problems this small.
    torch.set_num_threads(1)
    monkeypatch.setattr(plan, "TILE_ROWS", 8)
    monkeypatch.setattr(plan, "TILE_ELEMENTS", 8 * 20)
    monkeypatch.setattr(plan, "FEWEST_COLUMNS", 31)
    monkeypatch.setattr(plan, "SLAB_BYTES", 0)
    if triton_installed():
        monkeypatch.setattr("kernels.token_logprob.launch.SPLIT_COLUMNS", 32)
    yield
    torch.set_num_threads(threads)
