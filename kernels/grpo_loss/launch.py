"""Launching the fused GRPO loss kernel.

Shapes: B sequences, T positions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor

from kernels.device_choice import device_type, is_simulated

from .fused import grpo_loss_kernel
from .objective import Objective
from .reference import FAR, K3_FAR, VESPO_FLOOR, VESPO_LOG_MAX, VESPO_LOG_MIN, Inputs
from .statistics import ROW_SUMS

COLUMNS = triton.next_power_of_2(len(ROW_SUMS))
TILE = 1024
"""Elements of [rows, positions] that one program holds at a time: four a thread at eight warps."""


def launch_constants(objective: Objective, *, with_grad: bool) -> dict[str, Any]:
    """The kernel's constexpr arguments for a resolved objective; also what the footprint check compiles."""
    o = objective
    level, _, action = o.importance.partition("_")
    return {
        "SURROGATE": o.variant.surrogate,
        "SEQUENCE_RATIO": o.ratio_level == "sequence",
        "LOWER": 1 - o.clip_low,
        "UPPER": 1 + o.clip_high,
        "DELTA": o.delta,
        "CISPO_MAX": o.cispo_max,
        "TAU_POS": o.sapo_tau_pos,
        "TAU_NEG": o.sapo_tau_neg,
        "K_POS": o.vespo_k_pos,
        "RATE_POS": o.vespo_lambda_pos,
        "K_NEG": o.vespo_k_neg,
        "RATE_NEG": o.vespo_lambda_neg,
        "LOG_MIN": VESPO_LOG_MIN,
        "LOG_MAX": VESPO_LOG_MAX,
        "FLOOR": VESPO_FLOOR,
        "FAR": FAR,
        "K3_FAR": K3_FAR,
        "BETA": float(o.beta),
        "KL": o.kl,
        "KL_RATIO": o.kl_ratio,
        "IMPORTANCE": o.importance != "none",
        "SEQUENCE_IMPORTANCE": level == "sequence",
        "IMPORTANCE_CAP": o.importance_cap,
        "LOG_IMPORTANCE_CAP": math.log(o.importance_cap),
        "IMPORTANCE_MASKS": action == "mask",
        "WITH_GRAD": with_grad,
        "COLUMNS": COLUMNS,
    }


def launch_config(rows: int, positions: int) -> dict[str, int]:
    """Tile and num_warps for `rows` sequences of up to `positions` tokens; short ones share a program."""
    block = min(TILE, max(16, triton.next_power_of_2(positions)))
    per_program = min(TILE // block, triton.next_power_of_2(max(rows, 1)))
    return {"ROWS": per_program, "BLOCK": block, "num_warps": max(1, min(16, per_program * block // 128))}


def launch_kernel(
    x: Inputs, objective: Objective, weights: Tensor, *, with_grad: bool
) -> tuple[Tensor, Tensor]:
    """One launch over the sequences.

    Returns:
        d loss / d logprob [B, T] fp32, [B, 0] without `with_grad`, and the sums [B, COLUMNS] fp32 in the order of
        `ROW_SUMS`.

    Raises:
        ValueError: without a CUDA device, unless Triton interprets.
    """
    if device_type(x.mask.device) != "cuda" and isinstance(grpo_loss_kernel, triton.JITFunction):
        raise ValueError(
            f"`implementation` must be torch on this device, got fused on {x.mask.device.type}: Triton needs "
            "CUDA tensors, or TRITON_INTERPRET=1 set before it is imported"
        )
    rows, positions = x.mask.shape
    grad = torch.empty(rows, positions if with_grad else 0, dtype=torch.float32, device=x.mask.device)
    sums = torch.zeros(rows, COLUMNS, dtype=torch.float32, device=x.mask.device)
    per_token = x.advantage.shape[1] == positions
    if rows > 0 and not is_simulated():
        config = launch_config(rows, positions)
        grpo_loss_kernel[(triton.cdiv(rows, config["ROWS"]),)](
            *(None if v is None else v.contiguous() for v in (x.logprob, x.old, x.reference, x.rollout)),
            None if x.entropy is None else x.entropy.contiguous(),
            x.threshold,
            x.advantage,
            x.mask.contiguous(),
            weights.to(torch.float32),
            grad,
            sums,
            rows,
            positions,
            x.advantage.stride(0),
            x.advantage.stride(1) if per_token else 0,
            **launch_constants(objective, with_grad=with_grad),
            **config,
        )
    return grad, sums
