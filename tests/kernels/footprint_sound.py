"""Small kernels in sound launch configurations, for the tests of the footprint check."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.cases import KernelCase, Work


@triton.jit
def product_kernel(
    a_ptr,
    b_ptr,
    c_ptr,
    M,
    N,
    K,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    steps = tl.arange(0, BLOCK_K)
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for k in range(0, K, BLOCK_K):
        a = tl.load(a_ptr + rows[:, None] * K + k + steps[None, :])
        b = tl.load(b_ptr + columns[None, :] * K + k + steps[:, None])
        total = tl.dot(a, b, total, input_precision=PRECISION)
    tl.store(c_ptr + rows[:, None] * N + columns[None, :], total)


def product_case(name, tile, *, dtype="bf16", num_warps=4, num_stages=3, precision="tf32"):
    block_m, block_n, block_k = tile
    constants = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "PRECISION": precision}
    pointers = {"a_ptr": f"*{dtype}", "b_ptr": f"*{dtype}", "c_ptr": "*fp32"}
    signature = {
        argument: pointers.get(argument, "constexpr" if argument in constants else "i32")
        for argument in product_kernel.arg_names
    }
    return KernelCase(
        op="product",
        name=name,
        fn=product_kernel,
        signature=signature,
        constexprs=constants,
        num_warps=num_warps,
        num_stages=num_stages,
        divisible_by_16=("a_ptr", "b_ptr", "c_ptr", "M", "N", "K"),
        matmul=True,
        work=(Work(shape="1k", flops=2.0 * 1024**3, bytes=8.0 * 1024**2, programs=256),),
    )


@triton.jit
def scale_kernel(x_ptr, factor, BLOCK: tl.constexpr):
    at = x_ptr + tl.arange(0, BLOCK)
    tl.store(at, tl.load(at) * factor)


def scale_case(name, factor_type):
    return KernelCase(
        op="scale",
        name=name,
        fn=scale_kernel,
        signature={"x_ptr": "*fp32", "factor": factor_type, "BLOCK": "constexpr"},
        constexprs={"BLOCK": 128},
        num_warps=4,
        num_stages=1,
    )


FOOTPRINT_CASES = (
    *(
        product_case(name, (64, 64, 32))
        for name in ("shared", "spill", "tensor", "copy", "occupancy", "invalid")
    ),
    scale_case("fp64", "fp32"),
)
