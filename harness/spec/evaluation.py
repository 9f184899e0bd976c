"""What is measured on every checkpoint: benchmarks, samples and sampling settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from harness.spec.data import SourceSpec
from harness.spec.prompt import PromptSpec
from harness.spec.section import Listed, NonNegativeFloat, NonNegativeInt, PositiveInt, Runtime, Section


class BenchmarkSpec(Section):
    """A fixed set of held-out questions."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"), Runtime]
    """Name in tables."""
    source: SourceSpec
    """Where the questions come from; generated sources give questions disjoint from training."""
    questions: PositiveInt | None = None
    """How many questions, the first ones in the source's order; null for all of them."""
    seed: NonNegativeInt = 0
    """Seed of a generated source."""


class EvaluateSpec(Section):
    """Evaluation of a checkpoint: benchmarks × K samples a question, under fixed conditions for all cells."""

    benchmarks: Annotated[tuple[BenchmarkSpec, ...], Listed, Field(min_length=1)]
    """The benchmarks."""
    samples: PositiveInt = 4
    """Completions per question (K)."""
    max_completion_tokens: PositiveInt = 64
    """Length cap of evaluation, in tokens: the same for every cell."""
    temperature: NonNegativeFloat = 1.0
    """Sampling temperature; 0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling threshold."""
    seed: NonNegativeInt = 0
    """Seed of the samples: common to all cells, so that paired differences share their random numbers."""
    prompt: PromptSpec | None = None
    """Another prompt than in training; null for the same."""
    base: Annotated[bool, Runtime] = True
    """Evaluate the untrained model (step 0) once, for all cells that start from it."""

    @model_validator(mode="after")
    def _sensible(self) -> EvaluateSpec:
        names = [b.name for b in self.benchmarks]
        if len(set(names)) < len(names):
            raise ValueError(f"benchmark names must be distinct, got {names}")
        if "all" in names:
            raise ValueError("no benchmark can be called `all`: it is the mean over benchmarks in tables")
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(f"`samples` must be 1 at temperature 0, got {self.samples} identical samples")
        return self
