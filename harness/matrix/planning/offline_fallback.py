"""What a plan may take for granted of a hub that cannot be reached: labelled, and never enough to run on."""

from __future__ import annotations

import dataclasses

from harness.models.catalog import ModelSource
from harness.models.known import known_architecture
from harness.spec.data import HubSource, SourceSpec
from harness.spec.recipe import ModelSpec

PREFIX = "assumed:"
"""Begins every fingerprint of content that nobody has seen."""


def assumed_model(spec: ModelSpec) -> ModelSource | None:
    """A hub model from its published dimensions; None where these are not written down."""
    architecture = known_architecture(spec.name)
    if architecture is None:
        return None
    return ModelSource(
        **dataclasses.asdict(architecture),
        name=spec.name,
        kind="hub",
        path=None,
        revision=spec.revision,
        fingerprint=f"{PREFIX}{spec.name}@{spec.revision or 'main'}",
    )


def assumed_fingerprint(source: SourceSpec) -> str | None:
    """Stands for the content of a hub dataset; None for any other source, which is here or nowhere."""
    if not isinstance(source, HubSource):
        return None
    return f"{PREFIX}{source.dataset}@{source.revision or 'main'}"


def assumption(models: list[str], datasets: list[str]) -> str | None:
    """What was taken for granted, in a sentence; None where nothing was."""
    if not models and not datasets:
        return None
    parts = [f"the dimensions of {', '.join(models)} are the published ones"] if models else []
    if datasets:
        parts.append(f"{', '.join(datasets)} are taken as the grid describes them")
    return (
        f"the hub cannot be reached: {'; '.join(parts)}. Run ids change once their content is known, and nothing "
        "runs before that."
    )
