"""Samples K completions per question of a benchmark and scores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from harness.data.problem import Problem
from harness.data.prompts import PromptEncoder
from harness.evaluation.parts import Parts
from harness.evaluation.scoring import figures, scored
from harness.evaluation.truncation import truncated_to
from harness.meters.clock import PhaseClock
from harness.meters.memory import PeakMemory
from harness.models.loading import LoadedModel
from harness.rewards.answers import AnswerChecker
from harness.rollout.engine import Engine, Request, Sampling
from harness.rollout.texts import completion_texts
from harness.spec.engines import FIRST_ENGINE
from harness.spec.errors import SpecError
from harness.spec.evaluation import BenchmarkSpec, EvaluateSpec
from harness.spec.prompt import PromptSpec
from harness.spec.seeds import derive_seed
from harness.store.records import (
    EvaluationFigures,
    EvaluationRecord,
    EvaluationSettings,
    EvaluationTiming,
    EvaluationTokens,
    LongerEvaluation,
    MemoryPeaks,
)

PART_ROWS = 1024
"""Completions sampled together and kept together: what an interrupted evaluation may lose."""


class EvaluationStopped(Exception):
    """The evaluation was asked to stop; its parts are on file."""


class Evaluator:
    """Evaluates the model's current weights.

    Args:
        spec: samples and sampling settings.
        prompt: the run's prompt, used unless `spec` names another.
        loaded: model and tokenizer.
        engine: samples from the model.
        checker: decides whether an answer is right.
        model_fingerprint: of the untrained model, kept in the record.
        engine_name: kept in the record's settings.
        part_rows: completions in a part.
    """

    def __init__(
        self,
        spec: EvaluateSpec,
        prompt: PromptSpec,
        loaded: LoadedModel,
        engine: Engine,
        checker: AnswerChecker,
        *,
        model_fingerprint: str,
        engine_name: str = FIRST_ENGINE,
        part_rows: int = PART_ROWS,
    ) -> None:
        self._spec = spec
        self._prompt = spec.prompt or prompt
        self._loaded = loaded
        self._tokenizer = loaded.tokenizer
        self._engine = engine
        self._checker = checker
        self._fingerprint = model_fingerprint
        self._engine_name = engine_name
        self._part_rows = part_rows
        cuda = loaded.model.device.type == "cuda"
        memory = PeakMemory(loaded.model.device.index or 0 if cuda else None)
        self._clock = PhaseClock(memory, torch.cuda.synchronize if cuda else None)

    def run(
        self,
        benchmark: BenchmarkSpec,
        problems: Sequence[Problem],
        *,
        parts: Parts | None = None,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[EvaluationFigures, pd.DataFrame]:
        """Evaluates on `problems`.

        Args:
            benchmark: for its name.
            problems: the questions.
            parts: what an earlier attempt left, and where this one leaves its own.
            stop: polled between parts.
            progress: told how many of how many questions are sampled.

        Returns:
            The figures, and the samples, a row each, in the order question × sample. A completion cut at the cap
            counts as wrong unless it holds a whole answer; the seeds depend on benchmark, question and sample
            alone, so all checkpoints meet the same random numbers.

        Raises:
            SpecError: a prompt and the cap together are beyond the model's context.
            EvaluationStopped: `stop` became true.
        """
        self._clock.reset()
        with self._clock.phase("evaluation"):
            raw, prompt_tokens, earlier = self._sample(problems, parts or Parts(None), stop, progress)
            samples = scored(raw, self._checker)
        seconds = self._clock.total() + earlier
        timing = EvaluationTiming(
            total_seconds=seconds, tokens_per_second=float(samples["tokens"].sum()) / seconds
        )
        return self._figures(benchmark, samples, prompt_tokens, timing, self._clock.memory()), samples

    def shortened(
        self, benchmark: BenchmarkSpec, record: EvaluationRecord, samples: pd.DataFrame
    ) -> tuple[EvaluationFigures, pd.DataFrame]:
        """What `run` gives under this evaluator's cap, from the samples of a longer evaluation.

        Args:
            benchmark: for its name.
            record: of the longer evaluation, whose other settings are the same.
            samples: its samples, with their tokens.
        """
        cap = self._spec.max_completion_tokens
        self._clock.reset()
        cut = scored(truncated_to(samples, cap, self._tokenizer), self._checker)
        # What sampling took is in the longer evaluation's record.
        timing = EvaluationTiming(total_seconds=self._clock.total(), tokens_per_second=None)
        made = replace(
            self._figures(benchmark, cut, record.tokens.prompt, timing, {}),
            # Whether seeds are distinct shows in whole completions.
            repeats=record.repeats,
            truncated_from=LongerEvaluation(
                evaluation_id=record.evaluation_id,
                max_completion_tokens=record.known_settings.max_completion_tokens,
            ),
        )
        return made, cut

    def _figures(
        self,
        benchmark: BenchmarkSpec,
        samples: pd.DataFrame,
        prompt_tokens: int,
        timing: EvaluationTiming,
        memory: Mapping[str, MemoryPeaks],
    ) -> EvaluationFigures:
        spec = self._spec
        return EvaluationFigures(
            benchmark=benchmark.name,
            **vars(figures(samples, top_p=spec.top_p)),
            tokens=EvaluationTokens(prompt=prompt_tokens, completion=int(samples["tokens"].sum())),
            settings=EvaluationSettings(
                samples=spec.samples,
                max_completion_tokens=spec.max_completion_tokens,
                temperature=spec.temperature,
                top_p=spec.top_p,
                seed=spec.seed,
                base=spec.base,
                prompt=self._prompt,
                engine=self._engine_name,
                part_rows=self._part_rows,
            ),
            model_fingerprint=self._fingerprint,
            timing=timing,
            memory=memory,
        )

    def _sample(
        self,
        problems: Sequence[Problem],
        parts: Parts,
        stop: Callable[[], bool],
        progress: Callable[[int, int], None],
    ) -> tuple[pd.DataFrame, int, float]:
        """Samples in order, tokens of the prompts, and the seconds that earlier attempts took."""
        encoder = PromptEncoder(self._tokenizer, self._prompt, rows=self._loaded.special.vocabulary)
        prompts = [tuple(encoder.encode(p.question)) for p in problems]
        # Questions of like length together: left padding costs time.
        order = sorted(range(len(problems)), key=lambda i: (len(prompts[i]), i))
        self._check_room(problems[order[-1]], len(prompts[order[-1]]))
        width = max(1, self._part_rows // self._spec.samples)
        frames, earlier = [], 0.0
        for number, start in enumerate(range(0, len(order), width)):
            chosen = order[start : start + width]
            frame = parts.read(number)
            asked = [i for i in chosen for _ in range(self._spec.samples)]
            # Parts of another size hold other questions under the same number.
            if frame is None or frame["question_index"].tolist() != asked:
                if stop():
                    raise EvaluationStopped
                before = self._clock.total()
                frame = self.complete(problems, prompts, chosen)
                parts.write(number, frame.assign(seconds=self._clock.total() - before))
            else:
                earlier += float(frame.pop("seconds").iloc[0])
            frames.append(frame)
            progress(min(start + width, len(order)), len(order))
        samples = pd.concat(frames, ignore_index=True)
        samples = samples.sort_values(["question_index", "sample"], ignore_index=True)
        return samples, sum(map(len, prompts)), earlier

    def _check_room(self, longest: Problem, tokens: int) -> None:
        context, cap = self._loaded.source.context_tokens, self._spec.max_completion_tokens
        if tokens + cap > context:
            raise SpecError(
                f"question {longest.id!r}: its prompt of {tokens} tokens and a completion of up to {cap} go beyond "
                f"the model's context of {context}",
                hint=f"a cap of at most {context - tokens}" if tokens < context else "leave the question out",
            )

    def complete(
        self, problems: Sequence[Problem], prompts: Sequence[tuple[int, ...]], chosen: Sequence[int]
    ) -> pd.DataFrame:
        """K completions of each chosen question, a row each, not yet judged."""
        spec = self._spec
        places = [(i, number) for i in chosen for number in range(spec.samples)]
        seeds = [derive_seed(spec.seed, "evaluation", problems[i].id, number) for i, number in places]
        requests = [Request(prompts[i], seed) for (i, _), seed in zip(places, seeds)]
        sampling = Sampling(spec.max_completion_tokens, spec.temperature, spec.top_p)
        completions = self._engine.generate(requests, sampling)
        texts = completion_texts(self._tokenizer, completions, self._loaded.special.end_ids)
        return pd.DataFrame(
            {
                "question_index": np.array([i for i, _ in places], dtype=np.int64),
                "question_id": [problems[i].id for i, _ in places],
                "question": [problems[i].question for i, _ in places],
                "gold": [problems[i].answer for i, _ in places],
                "sample": np.array([number for _, number in places], dtype=np.int64),
                "seed": seeds,
                "text": texts,
                "truncated": [c.truncated for c in completions],
                "tokens": np.array([len(c.token_ids) for c in completions], dtype=np.int64),
                "token_ids": [np.array(c.token_ids, dtype=np.int32) for c in completions],
                "logprob": np.array([sum(c.logprobs) for c in completions], dtype=np.float64),
            }
        )
