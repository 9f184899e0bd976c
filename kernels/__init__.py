"""Triton and torch kernels for GRPO: token log-probs from hidden states, and the GRPO loss.

Nothing is imported here: the name is shared with a Hugging Face package that transformers probes for by
import and `__version__`. Import the operators from `kernels.token_logprob` and `kernels.grpo_loss`.
"""
