"""`token_logprob`, the public function: it validates its arguments and chooses an implementation.

N tokens, H hidden, V rows of the head's weight, R LoRA rank.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from kernels.device_choice import device_type
from kernels.token_logprob.autograd import SlabBackend, slabbed_token_logprob
from kernels.token_logprob.plan import SlabPlan, plan_fused, plan_slabs
from kernels.token_logprob.reference import reference_token_logprob
from kernels.token_logprob.slabs import SLABS
from kernels.token_logprob.types import IGNORE_INDEX, Lora, TokenLogprob, Transform
from kernels.triton_installed import require_triton, triton_installed

Implementation = Literal["auto", "reference", "slabs", "fused"]

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def token_logprob(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    vocab_size: int | None = None,
    lora: Lora | tuple[Tensor, Tensor, float] | None = None,
    return_entropy: bool = False,
    implementation: Implementation = "auto",
    logit_bytes: int | None = None,
    accumulate_in_place: bool = False,
) -> TokenLogprob:
    """Log-prob of each target, and the entropy if asked for, under the head `weight`.

    With z = softcap · tanh((hidden · weightᵀ + bias) / softcap) / temperature over the first `vocab_size`
    rows of the head: logprob = z[target] - logsumexp(z), entropy = logsumexp(z) - Σ softmax(z) · z.
    Differentiable once in hidden, weight, bias and the adapter, through both outputs. A gradient is computed
    only for tensors that require one. Rows whose upstream gradients are exactly zero are left out of the
    backward pass, which changes nothing but its cost. Neither pass holds logits [N, V]: the vocabulary is
    processed in slabs, as in Cut Cross-Entropy (arXiv 2411.09009).

    Args:
        hidden: [N, H] fp16, bf16, fp32 or fp64; products are taken in this dtype.
        weight: [V, H], any floating dtype; it is cast slab by slab where it differs from `hidden`.
        targets: [N] int64 in [0, vocab_size), or -100 in rows to ignore: these give 0, pass no gradient and
            cost nothing. On a GPU the range is not checked; an index out of it gives NaN.
        bias: [V], added to the product in fp32.
        temperature: divides the logits after the softcap; > 0.
        softcap: bound of the logits by tanh (Gemma 2, arXiv 2408.00118, section 2); > 0.
        vocab_size: rows of the head that are tokens; rows from there on are padding and have probability 0.
        lora: (a [R, H], b [V, R], scale) adds scale · b @ a to the weight (arXiv 2106.09685).
        return_entropy: also return the entropy of each distribution, in nats.
        implementation: `reference` holds full logits; `slabs` is torch on any device; `fused` is Triton;
            `auto` takes `fused` for CUDA tensors and `slabs` otherwise.
        logit_bytes: what the forward pass may keep for the backward pass. Slabs of logits that fit are kept
            in the dtype of `hidden` (three products a pass), the others are recomputed (four). 0 keeps
            none; None is a fixed default, so that rounding does not depend on what else is running.
        accumulate_in_place: the backward pass adds the weight's gradient to `weight.grad`, slab by slab, and
            returns none to autograd: over several micro-batches that saves a tensor of the weight's size and two
            passes over it. `weight` must be a leaf; `torch.autograd.grad` and hooks on its gradient see nothing.
            Not available in `reference`.

    Returns:
        `TokenLogprob(logprob, entropy)`, each [N] fp32 (fp64 for fp64 inputs); entropy None unless asked for.

    Raises:
        ValueError: a shape, dtype, device or value breaks the rules above.
        RuntimeError: `fused` where Triton has neither a GPU nor its interpreter.
    """
    tokens = weight.shape[0] if vocab_size is None else vocab_size
    adapter = None if lora is None else Lora(*lora)
    _check_tensors(hidden, weight, targets, bias, adapter)
    _check_values(hidden, weight, targets, temperature, softcap, tokens, implementation, logit_bytes)
    options: dict[str, Any] = {
        "bias": bias,
        "transform": Transform(
            temperature=float(temperature), softcap=None if softcap is None else float(softcap)
        ),
        "vocab_size": tokens,
        "lora": adapter,
        "return_entropy": return_entropy,
    }
    if accumulate_in_place:
        _check_in_place(weight, implementation)
    if implementation == "reference":
        return reference_token_logprob(hidden, weight, targets, **options)
    if implementation == "fused" or (
        implementation == "auto" and _on_gpu(hidden) and hidden.dtype != torch.float64 and triton_installed()
    ):
        backend, plan = _fused(hidden, tokens, logit_bytes)
    else:
        computed = int((targets != IGNORE_INDEX).sum())
        backend, plan = SLABS, plan_slabs(computed, tokens, hidden.dtype, hidden.device, logit_bytes)
    return slabbed_token_logprob(
        hidden, weight, targets, backend=backend, plan=plan, in_place=accumulate_in_place, **options
    )


def _on_gpu(tensor: Tensor) -> bool:
    return device_type(tensor.device) == "cuda"


def _fused(hidden: Tensor, vocab: int, logit_bytes: int | None) -> tuple[SlabBackend, SlabPlan]:
    require_triton("slabs")
    # Imported here, since runs on a CPU need no Triton.
    from kernels.token_logprob.launch import FUSED, fused_available

    if not fused_available(hidden.device):
        raise RuntimeError(f"`implementation` fused needs a GPU or TRITON_INTERPRET=1, got {hidden.device}")
    if hidden.dtype == torch.float64:
        raise ValueError("`hidden` must be fp16, bf16 or fp32 for `implementation` fused, got torch.float64")
    return FUSED, plan_fused(hidden.shape[0], vocab, hidden.dtype, logit_bytes)


def _check_in_place(weight: Tensor, implementation: str) -> None:
    if not (weight.is_leaf and weight.requires_grad):
        raise ValueError("`weight` must be a leaf that requires a gradient for `accumulate_in_place`")
    if implementation == "reference":
        raise ValueError("`accumulate_in_place` is not for `implementation` reference")


def _check_tensors(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, lora: Lora | None
) -> None:
    shapes: list[tuple[str, Tensor, tuple[int | str, ...]]] = [("hidden", hidden, ("N", "H"))]
    tokens, width = (*hidden.shape, 0, 0)[:2]
    rows = weight.shape[0] if weight.ndim else 0
    shapes += [("weight", weight, ("V", width)), ("targets", targets, (tokens,))]
    if bias is not None:
        shapes.append(("bias", bias, (rows,)))
    if lora is not None:
        rank = lora.a.shape[0] if lora.a.ndim else 0
        shapes += [("lora.a", lora.a, ("R", width)), ("lora.b", lora.b, (rows, rank))]
    for name, tensor, wanted in shapes:
        fits = tensor.ndim == len(wanted) and all(
            isinstance(want, str) or size == want for size, want in zip(tensor.shape, wanted)
        )
        if not fits:
            text = ", ".join(str(size) for size in wanted)
            raise ValueError(f"`{name}` must have shape [{text}], got {list(tensor.shape)}")
        if tensor.device != hidden.device:
            raise ValueError(f"`{name}` must be on {hidden.device} like `hidden`, got {tensor.device}")
        if name == "targets":
            if tensor.dtype != torch.int64:
                raise ValueError(f"`targets` must be int64, got {tensor.dtype}")
        elif tensor.dtype not in _FLOATS:
            raise ValueError(f"`{name}` must be fp16, bf16, fp32 or fp64, got {tensor.dtype}")


def _check_values(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float,
    softcap: float | None,
    vocab_size: int,
    implementation: str,
    logit_bytes: int | None,
) -> None:
    if not 0 < temperature < float("inf"):
        raise ValueError(f"`temperature` must be > 0 and finite, got {temperature}")
    if softcap is not None and not 0 < softcap < float("inf"):
        raise ValueError(f"`softcap` must be > 0 and finite, got {softcap}")
    if not 1 <= vocab_size <= weight.shape[0]:
        raise ValueError(
            f"`vocab_size` must be in [1, {weight.shape[0]}] (rows of `weight`), got {vocab_size}"
        )
    if implementation not in get_args(Implementation):
        raise ValueError(
            f"`implementation` must be one of {', '.join(get_args(Implementation))}, got {implementation}"
        )
    if logit_bytes is not None and logit_bytes < 0:
        raise ValueError(f"`logit_bytes` must be >= 0, got {logit_bytes}")
    if device_type(targets.device) == "cpu" and targets.numel():
        low, high = (int(bound) for bound in targets.aminmax())
        if high >= vocab_size or (low < 0 and bool(((targets < 0) & (targets != IGNORE_INDEX)).any())):
            bad = targets[(targets >= vocab_size) | ((targets < 0) & (targets != IGNORE_INDEX))][0]
            raise ValueError(f"`targets` must be in [0, {vocab_size}) or {IGNORE_INDEX}, got {int(bad)}")
