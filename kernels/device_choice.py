"""Whose choices are made: those of the device that tensors are on, or of one that is only simulated.

A GPU's memory can be known without a GPU: the same code runs on fake tensors, which have shapes and no values. Fake
tensors of a GPU cannot go backward where there is no GPU, so they are a CPU's, and every choice that depends on the
kind of device asks here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_SIMULATED: ContextVar[str | None] = ContextVar("simulated device type", default=None)


def device_type(device: torch.device) -> str:
    """`cpu` or `cuda`: the kind of device to choose for."""
    return _SIMULATED.get() or device.type


def is_simulated() -> bool:
    """Whether tensors have no values, so that kernels are not launched and nothing is compiled."""
    return _SIMULATED.get() is not None


@contextmanager
def simulated_device(kind: str) -> Iterator[None]:
    """Chooses for a device of this kind, whichever the tensors are on."""
    token = _SIMULATED.set(kind)
    try:
        yield
    finally:
        _SIMULATED.reset(token)
