"""Log-prob of the target token, and the entropy, from hidden states and the weight of the head.

To read in order: `types` and `reference` (the definition), `plan`, `head`, `epilogue`, `gradients` and `slabs` (the
vocabulary in slabs, in torch), `fused` (the Triton kernels), `configs` and `launch`, `autograd`, `api` (the public
function), `cases` (launch configurations for the footprint check) and `shapes` (heads of real models).
"""

from kernels.token_logprob.api import IGNORE_INDEX, Implementation, token_logprob
from kernels.token_logprob.types import Lora, TokenLogprob

__all__ = ["IGNORE_INDEX", "Implementation", "Lora", "TokenLogprob", "token_logprob"]
