"""Samples K completions per question of a benchmark and scores them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from harness.data.problem import Problem
from harness.data.prompts import encode_prompt
from harness.meters.clock import PhaseClock
from harness.meters.memory import PeakMemory
from harness.models.loading import LoadedModel
from harness.rewards.answers import AnswerChecker
from harness.rollout.engine import Engine, Request, Sampling
from harness.spec.evaluation import BenchmarkSpec, EvaluateSpec
from harness.spec.recipe import PromptSpec
from harness.spec.seeds import derive_seed
from harness.stats.passk import pass_at_k

SCHEMA = 1


class Evaluator:
    """Evaluates the model's current weights.

    Args:
        spec: samples and sampling settings.
        prompt: the run's prompt, used unless `spec` names another.
        loaded: model and tokenizer.
        engine: samples from the model.
        checker: decides whether an answer is right.
        model_fingerprint: of the untrained model, kept in the record.
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
    ) -> None:
        self._spec = spec
        self._prompt = spec.prompt or prompt
        self._tokenizer = loaded.tokenizer
        self._engine = engine
        self._checker = checker
        self._fingerprint = model_fingerprint
        cuda = loaded.model.device.type == "cuda"
        memory = PeakMemory(loaded.model.device.index or 0 if cuda else None)
        self._clock = PhaseClock(memory, torch.cuda.synchronize if cuda else None)

    def run(
        self, benchmark: BenchmarkSpec, problems: Sequence[Problem]
    ) -> tuple[dict[str, Any], pd.DataFrame]:
        """Evaluates on `problems`.

        Returns:
            The record, and the samples, a row each, in the order question × sample. A completion cut at the cap
            counts as wrong unless it holds a whole answer; the seeds depend on benchmark, question and sample
            alone, so all checkpoints meet the same random numbers.
        """
        self._clock.reset()
        with self._clock.phase("evaluation"):
            samples, prompt_tokens = self._sample(benchmark, problems)
        seconds = self._clock.total()
        by_question = samples.groupby("question_index", sort=True)["correct"].sum().tolist()
        count = self._spec.samples
        powers = [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k <= count]
        record = {
            "schema": SCHEMA,
            "benchmark": benchmark.name,
            "questions": len(problems),
            "samples": count,
            "correct": int(samples["correct"].sum()),
            "accuracy": float(samples["correct"].mean()),
            "pass_at_k": {
                str(k): sum(pass_at_k(count, c, k) for c in by_question) / len(problems) for k in powers
            },
            "majority_accuracy": _majority_accuracy(samples),
            "completion": {
                "mean_tokens": float(samples["tokens"].mean()),
                "truncated_share": float(samples["truncated"].mean()),
                "unparsable_share": float(1 - samples["parsable"].mean()),
            },
            "tokens": {"prompt": prompt_tokens, "completion": int(samples["tokens"].sum())},
            "timing": {
                "total_seconds": seconds,
                "tokens_per_second": float(samples["tokens"].sum()) / seconds,
            },
            "memory": self._clock.peaks,
            "settings": {
                **self._spec.model_dump(mode="json", exclude={"benchmarks", "prompt"}),
                "prompt": self._prompt.model_dump(mode="json"),
            },
            "model_fingerprint": self._fingerprint,
        }
        return record, samples

    def _sample(self, benchmark: BenchmarkSpec, problems: Sequence[Problem]) -> tuple[pd.DataFrame, int]:
        spec = self._spec
        # Questions of like length together: left padding costs time.
        prompts = [tuple(encode_prompt(self._tokenizer, self._prompt, p)) for p in problems]
        seeds = [
            [derive_seed(spec.seed, "evaluation", p.id, number) for number in range(spec.samples)]
            for p in problems
        ]
        order = sorted(range(len(problems)), key=lambda i: (len(prompts[i]), i))
        requests = [Request(prompts[i], seed) for i in order for seed in seeds[i]]
        sampling = Sampling(spec.max_completion_tokens, spec.temperature, spec.top_p)
        completions = self._engine.generate(requests, sampling)
        texts = self._tokenizer.batch_decode(
            [list(c.token_ids) for c in completions], skip_special_tokens=True
        )
        golds = [problems[i].answer for i in order for _ in range(spec.samples)]
        checks = self._checker.check_many(list(zip(texts, golds)))
        rows = []
        for position, (completion, text, check) in enumerate(zip(completions, texts, checks)):
            index = order[position // spec.samples]
            number = position % spec.samples
            rows.append(
                {
                    "question_index": index,
                    "question_id": problems[index].id,
                    "question": problems[index].question,
                    "gold": problems[index].answer,
                    "sample": number,
                    "seed": seeds[index][number],
                    "text": text,
                    "answer": check.answer,
                    "correct": check.correct,
                    "parsable": check.parsable,
                    "truncated": completion.truncated,
                    "tokens": len(completion.token_ids),
                }
            )
        frame = pd.DataFrame(rows).sort_values(["question_index", "sample"], ignore_index=True)
        return frame, sum(map(len, prompts))


def _majority_accuracy(samples: pd.DataFrame) -> float:
    """Share of questions whose most frequent answer is right; ties share their credit by first appearance."""
    right = 0
    for _, question in samples.groupby("question_index", sort=True):
        answered = question[question["parsable"]]
        if answered.empty:
            continue
        winner = Counter(answered["answer"]).most_common(1)[0][0]
        right += bool(answered.loc[answered["answer"] == winner, "correct"].iloc[0])
    return right / samples["question_index"].nunique()
