"""The definition in plain torch, which every other implementation is tested against.

N tokens, H hidden, V rows of the head's weight, K LoRA rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.token_logprob.dtypes import accumulate_dtype
from kernels.token_logprob.types import IGNORE_INDEX, LOWEST_LOG_PROB, Lora, TokenLogprob, Transform


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
            lora_hidden = hidden @ lora.a.to(hidden.dtype).T
            product = product + lora.scale * (lora_hidden @ lora.b[:vocab_size].to(hidden.dtype).T)
        product = product.to(accumulate_dtype(hidden.dtype))
        if bias is not None:
            product = product + bias[:vocab_size]
        log_probs = torch.log_softmax(transform.logits(product), dim=-1)
        valid = targets != IGNORE_INDEX
        logprob = log_probs.gather(1, targets.where(valid, 0)[:, None])[:, 0].where(valid, 0.0)
        if not return_entropy:
            return TokenLogprob(logprob, None)
        entropy = -(log_probs.exp() * log_probs.clamp_min(LOWEST_LOG_PROB)).sum(-1)
        return TokenLogprob(logprob, entropy.where(valid, 0.0))
