"""An evaluation of a checkpoint on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.spec.recipe import PromptSpec
from harness.store.records.attempt import Provenance
from harness.store.records.form import Count, Flag, Number, Record, Seconds, Share, Tokens, absent
from harness.store.records.step import MemoryPeaks


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedCompletions(Record):
    """The completions of an evaluation.

    Attributes:
        mean_tokens: mean length.
        truncated_share: share cut off at the cap.
        unparsable_share: share without an answer that can be read.
    """

    mean_tokens: Number
    truncated_share: Share
    unparsable_share: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatFigures(Record):
    """Identical samples of a question, which seeds that are used give no oftener than chance.

    Attributes:
        pairs: of samples of one question.
        identical_pairs: with the same tokens.
        expected_pairs: that many are expected to be.
        p_value: of so many or more.
        flagged: whether there are too many.
    """

    pairs: Count
    identical_pairs: Count
    expected_pairs: Number
    p_value: Number
    flagged: Flag


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationTokens(Record):
    """Tokens of an evaluation: of the prompts, once per question, and of all completions."""

    prompt: Tokens
    completion: Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationTiming(Record):
    """Time of an evaluation.

    Attributes:
        total_seconds: of sampling and scoring, in all attempts that took part.
        tokens_per_second: completion tokens over that; None where an evaluation was cut from a longer one.
    """

    total_seconds: Seconds
    tokens_per_second: Number | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings(Record):
    """How an evaluation sampled; all but the last two are fields of `EvaluateSpec`.

    Attributes:
        samples: completions per question.
        max_completion_tokens: the length cap.
        temperature: of sampling.
        top_p: nucleus threshold.
        seed: of the samples.
        base: whether the grid asks for the untrained model too.
        prompt: from question to prompt.
        engine: that sampled; None in records of early versions, which had `transformers` alone.
        part_rows: completions sampled together.
    """

    samples: Count
    max_completion_tokens: Tokens
    temperature: Number
    top_p: Number
    seed: Count
    base: Flag = True
    prompt: PromptSpec
    engine: str | None = absent()
    part_rows: Count | None = absent()


@dataclass(frozen=True, slots=True, kw_only=True)
class LongerEvaluation(Record):
    """The evaluation whose samples were cut: its identity and its length cap, in tokens."""

    evaluation_id: str
    max_completion_tokens: Tokens


@dataclass(frozen=True, kw_only=True)
class _Benchmark(Record):
    """What was asked.

    Attributes:
        benchmark: its name.
    """

    benchmark: str


@dataclass(frozen=True, kw_only=True)
class EvaluationScores(Record):
    """What follows from an evaluation's scored samples.

    Attributes:
        questions: asked.
        samples: per question, K.
        correct: right completions among all.
        accuracy: mean over questions of the share of right completions.
        pass_at_k: unbiased, by k.
        majority_at_k: share of questions whose most frequent answer is right, by the number of votes.
        majority_accuracy: of all K votes.
        completion: lengths and shares.
        repeats: identical samples; None where tokens were not kept.
        intervals: 95 % bounds by dotted name of the figure, such as `pass_at_k.4`.
    """

    questions: Count
    samples: Count
    correct: Count
    accuracy: Share
    pass_at_k: Mapping[str, Share] | None = absent()
    majority_at_k: Mapping[str, Share] | None = absent()
    majority_accuracy: Share | None = absent()
    completion: EvaluatedCompletions
    repeats: RepeatFigures | None = None
    intervals: Mapping[str, tuple[Number, Number]] | None = absent()


@dataclass(frozen=True, kw_only=True)
class EvaluationFigures(EvaluationScores, _Benchmark):
    """What the evaluator tells of one evaluation.

    Attributes:
        tokens: of prompts and completions.
        settings: of sampling; None in records of early versions, which did not keep them.
        model_fingerprint: of the untrained model.
        timing: seconds and rate.
        memory: peaks by phase; empty where an evaluation was cut from a longer one.
        truncated_from: the evaluation that it was cut from.
    """

    tokens: EvaluationTokens
    settings: EvaluationSettings | None
    model_fingerprint: str
    timing: EvaluationTiming
    memory: Mapping[str, MemoryPeaks]
    truncated_from: LongerEvaluation | None = absent()

    @property
    def known_settings(self) -> EvaluationSettings:
        """The settings.

        Raises:
            ValueError: an early version made the record, and kept none.
        """
        if self.settings is None:
            raise ValueError("an early version made this evaluation: its settings are unknown")
        return self.settings


@dataclass(frozen=True, kw_only=True)
class MadeBy(Record):
    """Who made an evaluation.

    Attributes:
        run_id: the run.
        attempt: that made it; None for `harness.evaluate`, which has no attempts.
        model: name of the model, where no job tells it.
        provenance: code, packages and machine, where no attempt tells it.
    """

    run_id: str | None = absent()
    attempt: Count | None = absent()
    model: str | None = absent()
    provenance: Provenance | None = absent()


@dataclass(frozen=True, kw_only=True)
class _Checkpoint(Record):
    """What was evaluated, on which questions.

    Attributes:
        step: of the checkpoint; 0 for the untrained model.
        evaluation_id: digest of the evaluation's identity.
        benchmark_fingerprint: of the questions.
    """

    step: Count
    evaluation_id: str
    benchmark_fingerprint: str


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord(MadeBy, _Checkpoint, EvaluationFigures):
    """`evaluations/step-….json`: a checkpoint on a benchmark; see the classes that it is made of.

    Attributes:
        invalid_rows: rows of the benchmark's source that were dropped as invalid, in a sentence.
        created_at: when, ISO 8601.
        samples_digest: of the file of its samples; None in records of schema 1.
    """

    invalid_rows: str | None = absent()
    created_at: str
    samples_digest: str | None = absent()
