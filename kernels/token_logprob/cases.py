"""Launch configurations of the head's Triton kernels that the footprint check compiles."""

from __future__ import annotations

from typing import Any

import torch

from kernels.cases import KernelCase, Work
from kernels.token_logprob.configs import AMPERE_16BIT, AMPERE_32BIT, SMALL, LaunchConfig
from kernels.token_logprob.fused import SPLIT_COLUMNS, forward_kernel, gradient_kernel
from kernels.token_logprob.shapes import HeadShape, head_shape

FOOTPRINT_SHAPES = ("smollm2-135m@2048", "qwen2.5-1.5b@8192", "qwen2.5-1.5b@32768")
_TRITON_TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_FP32 = (
    "maximum", "sum_exp", "moment", "target_logit", "log_sum_exp", "target_coef", "softmax_coef", "entropy_coef",
    "column_sum",
)  # fmt: skip
_INT64 = ("index", "target")
_STRIDES = ("x_stride", "w_stride", "u_stride", "b_stride", "kept_stride", "dz_stride")
_FEATURES: dict[str, frozenset[str]] = {
    "plain": frozenset(),
    "keep": frozenset({"kept"}),
    "entropy": frozenset({"moment", "entropy_coef"}),
    "full": frozenset({"moment", "entropy_coef", "bias", "column_sum", "index", "CAP"}),
    "lora": frozenset({"u", "b"}),
}
"""The optional arguments of a case; `full` is everything that costs registers at once."""
_OPTIONAL = frozenset().union(*_FEATURES.values())
_OF_THE_PRODUCT = frozenset({"x", "w", "u", "b", "bias"})
"""Tensors that the backward kernel is not given where the forward pass kept the product."""


def _constexprs(fn: Any, feature: str, dtype: torch.dtype, config: LaunchConfig) -> dict[str, Any]:
    """Values of the constexpr arguments, and None for every tensor that the case leaves out."""
    given = _FEATURES[feature]
    absent = _OPTIONAL - given
    if fn is gradient_kernel and "kept" in given:
        absent |= _OF_THE_PRODUCT
    values: dict[str, Any] = {f"{name}_ptr": None for name in absent}
    values |= {
        "H": 1536, "RANK": 16 if "u" in given else 0, "ALPHA": 1.0, "CAP": 30.0 if "CAP" in given else None,
        "LORA_SCALE": 2.0, "SPLIT": SPLIT_COLUMNS, "GROUP": config.group,
        "PRECISION": "tf32x3" if dtype == torch.float32 else "ieee",
        "BM": config.rows, "BN": config.columns, "BK": config.depth,
    }  # fmt: skip
    return {name: values[name] for name in fn.arg_names if name in values}


def _signature(fn: Any, dtype: torch.dtype, constexprs: dict[str, Any]) -> dict[str, str]:
    types: dict[str, str] = {}
    for name in fn.arg_names:
        stem = name.removesuffix("_ptr")
        if name in constexprs:
            types[name] = "constexpr"
        elif stem == name:
            types[name] = "i32"
        elif stem in _INT64:
            types[name] = "*i64"
        else:
            types[name] = "*fp32" if stem in _FP32 else f"*{_TRITON_TYPES[dtype]}"
    return types


def _work(kind: str, feature: str, shape: HeadShape, config: LaunchConfig, itemsize: int) -> Work:
    kept = "kept" in _FEATURES[feature]
    columns = min(shape.vocab, SPLIT_COLUMNS)
    slabs = -(-shape.vocab // columns)
    inputs = (shape.tokens + (shape.vocab if kind == "forward" else columns)) * shape.hidden * itemsize
    if kind == "forward":
        logits = shape.tokens * shape.vocab * itemsize if kept else 0
        flops, traffic = shape.product_flops, inputs + logits + 16 * shape.tokens * slabs
        tiles = slabs
    else:
        logits = shape.tokens * columns * itemsize
        flops = 6.0 * shape.tokens * columns if kept else shape.product_flops / shape.vocab * columns
        traffic = 2 * logits if kept else inputs + logits
        tiles = -(-columns // config.columns)
    programs = -(-shape.tokens // config.rows) * tiles
    return Work(shape=shape.name, flops=flops, bytes=float(traffic), programs=programs)


def _footprint_case(kind: str, feature: str, dtype: torch.dtype, config: LaunchConfig) -> KernelCase:
    fn = forward_kernel if kind == "forward" else gradient_kernel
    constexprs = _constexprs(fn, feature, dtype, config)
    signature = _signature(fn, dtype, constexprs)
    aligned = [name for name, type_ in signature.items() if type_.startswith("*") or name in _STRIDES]
    return KernelCase(
        op="token_logprob",
        name=f"{kind}/{feature}/{_TRITON_TYPES[dtype]}/{config.name}",
        fn=fn,
        signature=signature,
        constexprs=constexprs,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        divisible_by_16=tuple(aligned),
        matmul=not (kind == "gradient" and feature == "keep"),
        work=tuple(
            _work(kind, feature, head_shape(name), config, dtype.itemsize) for name in FOOTPRINT_SHAPES
        ),
    )


FOOTPRINT_CASES = [
    _footprint_case(kind, feature, dtype, config)
    for dtype, config in (
        (torch.bfloat16, AMPERE_16BIT),
        (torch.float16, AMPERE_16BIT),
        (torch.float32, AMPERE_32BIT),
        (torch.bfloat16, SMALL),
    )
    for kind in ("forward", "gradient")
    for feature in (_FEATURES if dtype == torch.bfloat16 and config is AMPERE_16BIT else ("plain", "full"))
]
"""Every kernel in every launch configuration it can be given, for `kernels.footprint`."""
