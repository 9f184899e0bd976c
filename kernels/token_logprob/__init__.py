"""Log-prob of the target token, and the entropy, from hidden states and the weight of the head."""

from kernels.token_logprob.api import IGNORE_INDEX, Implementation, token_logprob
from kernels.token_logprob.types import Lora, TokenLogprob

__all__ = ["IGNORE_INDEX", "Implementation", "Lora", "TokenLogprob", "token_logprob"]
