"""The recipe of a curation: sources, stages in order, and what each of them keeps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.spec.data import SourceSpec
from harness.spec.evaluation import BenchmarkSpec
from harness.spec.prompt import PromptSpec
from harness.spec.recipe import ModelSpec
from harness.spec.section import (
    MOST,
    Fraction,
    Listed,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)

POOL_STAGES = ("invalid rows", "exact duplicates")
"""Stages that every funnel begins with: what the sources hold and cannot be candidates."""


class PoolSource(Section):
    """A source of candidates."""

    source: SourceSpec
    """The source, as in `data.sources`."""
    count: PositiveInt | None = None
    """How many candidates to take; null for all of a source that has an end."""


class Stage(Section):
    """What all stages share."""

    name: str | None = None
    """Name in tables; null for the stage's kind."""


class AnswersStage(Stage):
    """Keeps items whose reference answer is there and can be read, so that a reward can be given at all."""

    stage: Literal["answers"]
    boxed: bool = False
    """The answer column holds a solution: its last `\\boxed{}` is the answer, and items without one are dropped."""


class DuplicatesStage(Stage):
    """Drops questions that are, or nearly are, one that came earlier."""

    stage: Literal["duplicates"]
    shingle: PositiveInt = 3
    """Words in a shingle; a question of fewer words is one shingle."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Jaccard similarity of two questions' shingles from which they are near duplicates; 1 for exact ones alone."""
    permutations: Annotated[int, Field(ge=16, le=MOST)] = 128
    """Hash functions of MinHash, which finds the candidates; similarity itself is computed exactly."""


class DecontaminateStage(Stage):
    """Drops questions that share a run of words with a question of an evaluation benchmark."""

    stage: Literal["decontaminate"]
    benchmarks: Annotated[tuple[BenchmarkSpec | str, ...], Listed, Field(min_length=1)]
    """The benchmarks: names as `harness.evaluate --benchmarks` takes them, or in full as in a grid."""
    ngram: PositiveInt = 13
    """Words in a run. A benchmark question of fewer words must be matched whole."""


class DifficultyStage(Stage):
    """Keeps questions that a model solves sometimes: pass rates within the bounds, both included."""

    stage: Literal["difficulty"]
    model: ModelSpec
    """The model."""
    prompt: PromptSpec = PromptSpec()
    """From question to prompt."""
    samples: PositiveInt = 8
    """Completions per question."""
    max_completion_tokens: PositiveInt = 64
    """Length cap."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling threshold."""
    seed: NonNegativeInt = 0
    """Seed of the samples."""
    lowest: Fraction = 0.0
    """Smallest pass rate that is kept."""
    highest: Fraction = 1.0
    """Largest pass rate that is kept."""
    never: bool = False
    """Keep questions that no sample solved."""
    always: bool = False
    """Keep questions that every sample solved."""
    bands: dict[str, Annotated[tuple[Fraction, Fraction], Listed]] = {}
    """Names of ranges of the pass rate, from above the first bound (or 0) to the second; the first that fits names
    the item's band."""
    part_rows: PositiveInt = 1024
    """Completions sampled together and kept together."""

    @model_validator(mode="after")
    def _ordered(self) -> DifficultyStage:
        if self.lowest > self.highest:
            raise ValueError(f"`lowest` must be <= `highest`, got {self.lowest} > {self.highest}")
        return self


class RulesStage(Stage):
    """Drops noisy and multi-part questions by what can be seen without a model."""

    stage: Literal["rules"]
    drop: Annotated[
        tuple[
            Literal["multi_part", "several_questions", "proof", "figure", "link", "choices", "unprintable"],
            ...,
        ],
        Listed,
    ] = ("multi_part", "proof", "figure", "link", "unprintable")
    """The rules, in the order in which they are tried."""
    shortest: PositiveInt = 1
    """Characters that a question has at least."""
    longest: PositiveInt = 4000
    """Characters that a question has at most."""


class JudgeStage(Stage):
    """Drops what a model, asked a yes/no question about the item, calls bad."""

    stage: Literal["judge"]
    model: ModelSpec
    """The judge."""
    prompt: PromptSpec
    """What it is asked; `{question}` stands for the item's question."""
    method: Literal["logprob", "generate"] = "logprob"
    """`logprob` compares the log-probs of the two answers; `generate` reads the first of them in a greedy reply."""
    bad: str = "Yes"
    """The answer that drops an item."""
    good: str = "No"
    """The answer that keeps it."""
    margin: float = 0.0
    """`logprob`: an item is dropped where log p(bad) − log p(good) is above this."""
    max_completion_tokens: PositiveInt = 16
    """`generate`: length cap of the reply."""
    unclear: Literal["keep", "drop"] = "keep"
    """`generate`: what becomes of an item where the reply holds neither answer."""
    only: Annotated[tuple[str, ...], Listed] | None = None
    """Sources that are judged; null for all. Items of others pass."""
    part_rows: PositiveInt = 64
    """Items judged together and kept together."""


class QuotaStage(Stage):
    """Cuts the dataset to size: so many items of each source, band or difficulty label."""

    stage: Literal["quotas"]
    by: Literal["source", "band", "difficulty"] = "source"
    """What the quotas count."""
    quotas: dict[str, NonNegativeInt] = {}
    """Most items by value of `by`; values that are not listed are not limited."""
    total: PositiveInt | None = None
    """Most items in all, drawn in proportion to what the quotas leave."""
    seed: NonNegativeInt = 0
    """Seed of the draw."""


StageSpec = Annotated[
    AnswersStage
    | DuplicatesStage
    | DecontaminateStage
    | DifficultyStage
    | RulesStage
    | JudgeStage
    | QuotaStage,
    Field(discriminator="stage"),
]


class CurationRecipe(Section):
    """A dataset, from candidates to what is kept."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the dataset and its output folder."""
    purpose: str = ""
    """What the dataset is for, in a sentence."""
    sources: Annotated[tuple[PoolSource, ...], Listed, Field(min_length=1)]
    """Candidates, in this order."""
    seed: NonNegativeInt = 0
    """Seed of the generated sources and of samples of stored ones."""
    stages: Annotated[tuple[StageSpec, ...], Listed, Field(min_length=1)]
    """The funnel."""

    @model_validator(mode="after")
    def _distinct(self) -> CurationRecipe:
        names = self.stage_names()
        if len(set(names)) < len(names):
            raise ValueError(f"stage names must be distinct, got {names}; give one a `name`")
        if taken := set(names) & set(POOL_STAGES):
            raise ValueError(f"every funnel has a stage {min(taken)!r} of its own; give yours another `name`")
        return self

    def stage_names(self) -> list[str]:
        """The stages' names, in order."""
        return [stage.name or stage.stage for stage in self.stages]
