"""Shapes of the heads of real models, by name, for benchmarks and roofline estimates.

N tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """One problem size."""

    model: str
    tokens: int
    """N"""
    hidden: int
    """H"""
    vocab: int
    """V"""

    @property
    def name(self) -> str:
        """E.g. `qwen2.5-1.5b@8192`."""
        return f"{self.model}@{self.tokens}"

    @property
    def product_flops(self) -> float:
        """FLOPs of one product hidden · weightᵀ; a pass has three, or four if logits are recomputed."""
        return 2.0 * self.tokens * self.hidden * self.vocab


MODELS: dict[str, tuple[int, int]] = {
    "tiny": (128, 26),
    "small": (256, 8192),
    "smollm2-135m": (576, 49152),
    "qwen2.5-0.5b": (896, 151936),
    "qwen2.5-1.5b": (1536, 151936),
    "gemma3-270m": (640, 262144),
}
"""Model → (H, V). `tiny` is the model bundled with the harness, `small` none: it is for checks that take seconds."""


def head_shape(name: str) -> HeadShape:
    """The shape called `model@tokens`.

    Raises:
        ValueError: the name has another form, the model is unknown or the number of tokens is not positive.
    """
    model, _, tokens = name.partition("@")
    if model not in MODELS:
        raise ValueError(f"shape must name one of {', '.join(MODELS)} as model@tokens, got {name!r}")
    if not tokens.isdigit() or int(tokens) == 0:
        raise ValueError(f"shape must end in a positive number of tokens, as {model}@1024, got {name!r}")
    hidden, vocab = MODELS[model]
    return HeadShape(model=model, tokens=int(tokens), hidden=hidden, vocab=vocab)
