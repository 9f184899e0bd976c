"""Launch configurations of the GRPO loss kernel that the footprint check compiles."""

from __future__ import annotations

from collections.abc import Iterator

from kernels.cases import KernelCase, Work

from .fused import grpo_loss_kernel
from .launch import launch_config, launch_constants
from .objective import Objective

_TYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_OPTIONAL = ("old_ptr", "reference_ptr", "rollout_ptr", "entropy_ptr", "threshold_ptr")
# Completions a step × cap: the reference study's step, and short completions sharing a program.
_SHAPES = {"72x3584": (72, 3584), "32x128": (32, 128)}

# Each surrogate, both ratio levels, each importance level, and everything at once.
_OBJECTIVES: dict[str, tuple[Objective, tuple[str, ...]]] = {
    "dapo": (Objective(), ("old_ptr",)),
    "grpo+kl+delta": (Objective(loss="grpo", beta=0.04, delta=4.0), ("old_ptr", "reference_ptr")),
    "gspo+kl_ratio": (Objective(loss="gspo", beta=0.04, kl_ratio=True), ("old_ptr", "reference_ptr")),
    "cispo+token_truncate": (
        Objective(loss="cispo", importance="token_truncate"),
        ("old_ptr", "rollout_ptr"),
    ),
    "sapo+sequence_mask": (Objective(loss="sapo", importance="sequence_mask"), ("old_ptr", "rollout_ptr")),
    "vespo+token_mask": (Objective(loss="vespo", importance="token_mask"), ("old_ptr", "rollout_ptr")),
    "luspo+everything": (
        Objective(
            loss="luspo",
            beta=0.04,
            kl_ratio=True,
            delta=4.0,
            importance="sequence_truncate",
            top_entropy_quantile=0.2,
        ),
        _OPTIONAL,
    ),
}


def _case(name: str, dtype: str, shape: str) -> KernelCase:
    objective, given = _OBJECTIVES[name]
    rows, positions = _SHAPES[shape]
    config = launch_config(rows, positions)
    warps = config.pop("num_warps")
    constants = launch_constants(objective.resolved(), with_grad=True) | config
    constants |= dict.fromkeys(set(_OPTIONAL) - set(given))
    pointers = {"mask_ptr": "*i1", "weight_ptr": "*fp32", "grad_ptr": "*fp32", "sums_ptr": "*fp32"}
    integers = ("B", "T", "advantage_row_stride", "advantage_column_stride")
    signature = {}
    for argument in grpo_loss_kernel.arg_names:
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument in integers:
            signature[argument] = "i32"
        else:
            signature[argument] = pointers.get(argument, f"*{dtype}")
    if "threshold_ptr" in given:
        signature["threshold_ptr"] = "*fp32"
    inputs = 1 + len(set(given) - {"threshold_ptr"})
    tokens = rows * positions
    return KernelCase(
        op="grpo_loss",
        name=f"{name}/{dtype}/{config['ROWS']}x{config['BLOCK']}",
        fn=grpo_loss_kernel,
        signature=signature,
        constexprs=constants,
        num_warps=warps,
        num_stages=3,
        divisible_by_16=(*(a for a, t in signature.items() if t.startswith("*")), "T"),
        work=(
            Work(
                shape=shape,
                # About thirty operations a token, two of them exponentials: memory decides.
                flops=30.0 * tokens,
                # Log-probs read once, the mask byte, the fp32 gradient written.
                bytes=float(tokens * (inputs * _TYPE_BYTES[dtype] + 1 + 4)),
                programs=-(-rows // config["ROWS"]),
            ),
        ),
    )


def _cases() -> Iterator[KernelCase]:
    for name in _OBJECTIVES:
        yield _case(name, "fp32", "72x3584")
    yield _case("dapo", "bf16", "72x3584")
    yield _case("luspo+everything", "bf16", "72x3584")
    for name in ("dapo", "luspo+everything"):
        yield _case(name, "fp32", "32x128")


FOOTPRINT_CASES: tuple[KernelCase, ...] = tuple(_cases())
