"""What an allocation is for, told from the code that asked for it."""

from __future__ import annotations

from types import FrameType

WEIGHTS, REFERENCE, REPLICA = "weights", "reference policy", "replica for rollouts"
CASTS = "weights in bfloat16"
GRADIENTS, MOMENTS = "gradients", "optimiser moments"
HEAD, LOSS, INPUTS, SHARDING, BACKWARD = "fused head", "loss", "inputs", "gathered weights", "backward pass"

UNALLOCATED = "shapes alone"
"""Sharded tensors ask for the shapes of whole ones, which no device will hold."""

_FILES = (
    ("torch/distributed/tensor/_sharding_prop", UNALLOCATED),
    ("kernels/token_logprob/", HEAD),
    ("kernels/grpo_loss/", LOSS),
    ("harness/training/batch.py", INPUTS),
    ("torch/optim/", MOMENTS),
    ("harness/simulation/eight_bit.py", MOMENTS),
    ("torch/distributed/fsdp/", SHARDING),
)
_FUNCTIONS = (
    ("MLP", "feed-forward activations"),
    ("Attention", "attention activations"),
    ("Rotary", "attention activations"),
    ("Norm", "norm activations"),
    ("DecoderLayer", "residual stream"),
    ("Model", "residual stream"),
    ("lora", "adapter activations"),
)


def label_of_frame(frame: FrameType) -> str | None:
    """The label of what this function allocates; None where its caller knows better."""
    code = frame.f_code
    file = code.co_filename.replace("\\", "/")
    for part, label in _FILES:
        if part in file:
            return label
    if "/transformers/models/" in file or "/peft/tuners/" in file:
        name = code.co_qualname if "/transformers/" in file else "lora"
        return next((label for part, label in _FUNCTIONS if part in name), None)
    return None
