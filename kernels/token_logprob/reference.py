"""The definition, in plain torch: what every other implementation is held to.

N tokens, H hidden, V rows of the head's weight, R rank of the low-rank pair.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.token_logprob.head import (
    IGNORE_INDEX,
    LOWEST_LOG_PROB,
    Lora,
    TokenLogprob,
    Transform,
    accumulate_dtype,
)


def reference_token_logprob(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    transform: Transform,
    vocab_size: int,
    lora: Lora | None = None,
    return_entropy: bool = False,
) -> TokenLogprob:
    """Full logits [N, vocab_size], products in the dtype of `hidden`, the rest in fp32 (fp64 for fp64).

    Arguments as in `kernels.token_logprob.token_logprob`, already validated.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        product = hidden @ weight[:vocab_size].to(hidden.dtype).T
        if lora is not None:
            inner = hidden @ lora.a.to(hidden.dtype).T
            product = product + lora.scale * (inner @ lora.b[:vocab_size].to(hidden.dtype).T)
        product = product.to(accumulate_dtype(hidden.dtype))
        if bias is not None:
            product = product + bias[:vocab_size]
        log_probs = torch.log_softmax(transform.logits(product), dim=-1)
        wanted = targets != IGNORE_INDEX
        logprob = log_probs.gather(1, targets.where(wanted, 0)[:, None])[:, 0].where(wanted, 0.0)
        if not return_entropy:
            return TokenLogprob(logprob, None)
        return TokenLogprob(
            logprob, -(log_probs.exp() * log_probs.clamp_min(LOWEST_LOG_PROB)).sum(-1).where(wanted, 0.0)
        )
