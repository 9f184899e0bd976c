"""Dimensions of models that grids here name, so that they can be planned where no hub can be reached."""

from __future__ import annotations

from harness.models.architecture import Architecture

KNOWN = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": Architecture(
        model_type="qwen2",
        context_tokens=131072,
        hidden_size=1536,
        layers=28,
        vocabulary=151936,
        intermediate_size=8960,
        heads=12,
        kv_heads=2,
        head_dim=128,
        tied=False,
        parameters=1_777_088_000,
    ),
}
"""By hub id, from the model's `config.json`; a test holds the count against the dimensions."""


def known_architecture(name: str) -> Architecture | None:
    """Dimensions of a model of this hub id, if they are written down here; nothing is looked up."""
    return KNOWN.get(name)
