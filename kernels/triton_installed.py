"""Whether Triton is here: it exists for Linux alone, and everything but the fused kernels works without it."""

from __future__ import annotations

import importlib.util


def triton_installed() -> bool:
    """Whether `import triton` would find something."""
    return importlib.util.find_spec("triton") is not None


def require_triton(otherwise: str) -> None:
    """Raises `ValueError`, naming the implementation to use `otherwise`, where Triton is not installed."""
    if not triton_installed():
        raise ValueError(
            f"`implementation` must be {otherwise} here, got fused: Triton is not installed (it is for Linux alone)"
        )
