"""Liger's kernels for the parts of a model that the harness has none of its own for."""

from __future__ import annotations

import inspect

import torch
from transformers import PreTrainedModel

from harness.spec.errors import SpecError

PARTS = ("rope", "rms_norm", "swiglu")


def apply_liger(model: PreTrainedModel) -> None:
    """Replaces RMSNorm, SwiGLU and rotary embeddings of a loaded model by Liger's (arXiv 2410.10989), in place.

    Liger's own losses stay off: the head and the loss are computed by `kernels`.

    Raises:
        SpecError: the model is not on a GPU, liger-kernel is not installed, or it does not know the architecture.
    """
    hint = "set `liger: false`, or install liger-kernel on a machine with a GPU"
    if model.device.type != "cuda" or not torch.cuda.is_available():
        raise SpecError("model.liger needs a CUDA device", hint=hint)
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    except ImportError:
        raise SpecError("model.liger needs liger-kernel", hint=hint) from None
    kind = model.config.get_text_config().model_type
    apply = MODEL_TYPE_TO_APPLY_LIGER_FN.get(kind)
    if apply is None:
        raise SpecError(f"model.liger: liger-kernel has no kernels for {kind!r}", hint="set `liger: false`")
    known = inspect.signature(apply).parameters
    losses = {name: False for name in ("cross_entropy", "fused_linear_cross_entropy") if name in known}
    apply(model=model, **{part: True for part in PARTS if part in known}, **losses)
