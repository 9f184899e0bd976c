"""The device that a model is put on."""

from __future__ import annotations

import torch


def choose_device(wanted: str) -> torch.device:
    """The device for `hardware.device`: `cpu`, `cuda`, or `auto` for the first CUDA device where there is one.

    Raises:
        RuntimeError: `cuda` is wanted, and torch sees no CUDA device.
    """
    cuda = torch.cuda.is_available()
    if wanted == "cuda" and not cuda:
        raise RuntimeError("hardware.device is cuda, but torch sees no CUDA device")
    return torch.device("cuda", 0) if cuda and wanted != "cpu" else torch.device("cpu")
