"""A Triton kernel in one launch configuration, as data: enough to compile it and estimate its time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Work:
    """Operations and memory traffic of one launch at one named shape, for a roofline estimate."""

    shape: str
    """Name of the shape, e.g. `qwen2.5-1.5b@8192`."""
    flops: float
    """Floating point operations of the launch; a multiply-add counts as two."""
    bytes: float
    """Least traffic with device memory: every input read once, every output written once."""
    programs: int
    """Programs (thread blocks) in the launch grid."""


@dataclass(frozen=True, kw_only=True)
class KernelCase:
    """One Triton kernel in one launch configuration, as `triton.compiler.ASTSource` wants it."""

    op: str
    """Operator the kernel belongs to, e.g. `token_logprob`."""
    name: str
    """Kernel and configuration, e.g. `forward/bf16/128x128x32`; unique within its operator."""
    fn: Any
    """The `triton.jit` function."""
    signature: Mapping[str, str]
    """Argument name → Triton type (`*bf16`, `i32`, `fp32`, `constexpr`), in the function's order."""
    constexprs: Mapping[str, Any]
    """Value of every `constexpr` argument."""
    num_warps: int
    """Warps per program."""
    num_stages: int
    """Software pipeline stages."""
    divisible_by_16: tuple[str, ...] = ()
    """Arguments whose value the launcher sees as a multiple of 16 (aligned pointers, padded strides)."""
    matmul: bool = False
    """True where the kernel must use tensor-core and asynchronous-copy instructions."""
    work: tuple[Work, ...] = field(default=())
    """Work per named shape; empty where a roofline says nothing."""

    def attrs(self) -> dict[tuple[int, ...], list[list[Any]]]:
        """Attributes in the form of `ASTSource(attrs=…)`: argument index → hints."""
        return argument_attrs(self.fn.arg_names, self.divisible_by_16)


def argument_attrs(
    arg_names: Iterable[str], divisible_by_16: Iterable[str]
) -> dict[tuple[int, ...], list[list[Any]]]:
    """Divisibility hints by argument index.

    Raises:
        ValueError: if a name in `divisible_by_16` is no argument.
    """
    index = {name: position for position, name in enumerate(arg_names)}
    unknown = sorted(set(divisible_by_16) - set(index))
    if unknown:
        raise ValueError(f"`divisible_by_16` must name arguments of the kernel, got {', '.join(unknown)}")
    return {(index[name],): [["tt.divisibility", 16]] for name in divisible_by_16}
