"""Training questions: sources, and the mix of them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from harness.spec.known_datasets import with_known_fields
from harness.spec.section import Added, Listed, NonNegativeInt, PositiveFloat, PositiveInt, Runtime, Section


class _Source(Section):
    """What every source has."""

    weight: PositiveFloat = 1.0
    """Share of this source in the mix, relative to the others."""
    quota: Annotated[PositiveInt | None, Added(before=None)] = None
    """Questions of this source in the mix; null for a share by `weight` of what the quotas leave of `data.size`."""


ANSWER_PATTERNS = ("gsm8k", "boxed")
"""Patterns of a reference in its solution that have a name."""


class _Tabled(_Source):
    """A source with columns: question, answer, and perhaps the difficulty."""

    question: str | None = None
    """Column with the question; null for the one that is called `question`, `problem` or `prompt`."""
    answer: str | None = None
    """Column with the reference answer; null for the first of `answer`, `final_answer`, `solution` that is there."""
    answer_pattern: Annotated[str | None, Added(before=None)] = None
    """Where the reference stands in the answer's column, if that holds solutions: `gsm8k` for what follows the last
    `####`, `boxed` for what is in the last `\\boxed{}`, or a regular expression whose one group is the reference,
    in its last match; null where the column holds the reference itself."""
    drop_invalid: Annotated[bool, Runtime] = False
    """Drop rows that cannot be used (no question, no answer, an answer that is neither text nor a number, nothing
    found by the pattern) and count them; otherwise such a row is an error before anything runs."""
    difficulty_column: Annotated[str | None, Added(before=None)] = None
    """Column with each question's difficulty, such as a grade or a measured pass rate; null for none."""
    difficulty: Annotated[Annotated[tuple[str, ...], Listed] | None, Added(before=None)] = None
    """Difficulty labels to keep; null for all of them."""
    difficulty_range: Annotated[Annotated[tuple[float, float], Listed] | None, Added(before=None)] = None
    """Lowest and highest difficulty to keep, both included, where the column holds numbers; null for all."""

    @field_validator("answer_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        if pattern is None or pattern in ANSWER_PATTERNS:
            return pattern
        try:
            groups = re.compile(pattern).groups
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        if groups != 1:
            raise ValueError(
                f"must be {', '.join(ANSWER_PATTERNS)} or a regular expression with one group, got {pattern!r}, "
                f"which has {groups or 'none'}"
            )
        return pattern

    @model_validator(mode="after")
    def _band(self) -> Self:
        limits = self.difficulty_range
        if self.difficulty_column is None and (limits is not None or self.difficulty is not None):
            raise ValueError("a difficulty band needs the `difficulty_column` that it is a band of")
        if limits is not None and limits[0] > limits[1]:
            raise ValueError(f"`difficulty_range` must rise, got {list(limits)}")
        return self


class SumsSource(_Source):
    """The project's own generated sums, `12+7+35=`, answered in `\\boxed{}`."""

    source: Literal["sums"]
    terms: Annotated[tuple[PositiveInt, ...], Listed] = (2, 3, 4)
    """Numbers of terms, drawn uniformly."""
    digits: Annotated[tuple[PositiveInt, ...], Listed] = (1, 2)
    """Numbers of digits of a term, drawn uniformly per question."""


class ReasoningGymSource(_Source):
    """A reasoning-gym family (https://github.com/open-thought/reasoning-gym)."""

    source: Literal["reasoning_gym"]
    family: str
    """Dataset name in reasoning-gym, such as `chain_sum`."""
    params: dict[str, Any] = {}
    """Parameters of the family's configuration."""


class FileSource(_Tabled):
    """A local file of rows, by its suffix: `.jsonl`, `.json`, `.csv` (each also as `.gz`) or `.parquet`."""

    source: Literal["file"]
    path: Annotated[str, Runtime]
    """Path, relative to the current folder."""


class HubSource(_Tabled):
    """A dataset on the Hugging Face hub. Columns, pattern and configuration of datasets that are known
    (`harness.spec.known_datasets`) need not be given."""

    source: Literal["hub"]
    dataset: str
    """Hub id."""
    config: str | None = None
    """Dataset configuration."""
    split: str = "train"
    """Split name."""
    revision: Annotated[str | None, Runtime] = None
    """Hub revision: a commit, tag or branch."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, fields: Any) -> Any:
        return with_known_fields(fields) if isinstance(fields, dict) else fields


class ChampSource(_Source):
    """CHAMP, 270 competition problems, from the package `champ-dataset`."""

    source: Literal["champ"]
    difficulty: Annotated[Annotated[tuple[str, ...], Listed] | None, Added(before=None)] = None
    """Categories to keep; null for all of them."""


SourceSpec = Annotated[
    SumsSource | ReasoningGymSource | FileSource | HubSource | ChampSource, Field(discriminator="source")
]


class DataSpec(Section):
    """Training questions: a seeded mix of sources."""

    sources: Annotated[tuple[SourceSpec, ...], Listed, Field(min_length=1)]
    """The sources and their weights."""
    size: PositiveInt = 7000
    """Number of distinct training questions, quotas included; fewer where a source has fewer."""
    seed: NonNegativeInt = 0
    """Seed of the mix (the run's seed decides the order, not the content)."""

    @model_validator(mode="after")
    def _quotas_fit(self) -> DataSpec:
        quotas = sum(source.quota or 0 for source in self.sources)
        if quotas > self.size:
            raise ValueError(f"the sources' quotas come to {quotas}, more than `size`, {self.size}")
        return self
