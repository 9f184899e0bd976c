"""Stages that ask a model: pass rates, and a judge. Completed parts survive an interruption."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from harness.curation.items import KEEP, Decision, Item
from harness.data.prompts import PromptEncoder
from harness.evaluation.evaluate import Evaluator
from harness.evaluation.parts import Parts
from harness.models.catalog import resolve_model
from harness.models.loading import LoadedModel, load_model
from harness.rewards.answers import AnswerChecker
from harness.rollout.engine import Request, Sampling
from harness.rollout.texts import completion_texts
from harness.rollout.transformers_engine import TransformersEngine
from harness.spec.curation import DifficultyStage, JudgeStage
from harness.spec.data import SumsSource
from harness.spec.evaluation import BenchmarkSpec, EvaluateSpec
from harness.spec.recipe import ModelSpec

Progress = Callable[[int, int], None]


def open_model(spec: ModelSpec) -> tuple[LoadedModel, TransformersEngine]:
    """The model on this machine's device, and an engine that samples from it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load_model(resolve_model(spec), spec, device=device)
    engine = TransformersEngine(
        loaded.model,
        end_ids=loaded.special.end_ids,
        pad_id=loaded.special.pad_id,
        vocabulary=loaded.special.vocabulary,
        bf16=spec.dtype == "bfloat16",
    )
    return loaded, engine


def by_difficulty(
    items: Sequence[Item],
    spec: DifficultyStage,
    checker: AnswerChecker,
    parts: Path,
    progress: Progress = lambda done, total: None,
) -> list[Decision]:
    """Keeps items whose measured pass rate is within the bounds, and notes it with its band.

    Args:
        items: the candidates, with distinct ids: the samples' seeds come from them.
        spec: model, sampling, bounds and bands.
        checker: decides which answers are right.
        parts: folder of what is sampled already.
        progress: told how many of how many items are sampled.
    """
    loaded, engine = open_model(spec.model)
    longest = loaded.source.context_tokens - spec.max_completion_tokens
    encoder = PromptEncoder(loaded.tokenizer, spec.prompt, rows=loaded.special.vocabulary)
    fits = [i for i, item in enumerate(items) if len(encoder.encode(item.problem().question)) <= longest]
    sampling = EvaluateSpec(
        benchmarks=(BenchmarkSpec(name="pool", source=SumsSource(source="sums")),),
        samples=spec.samples,
        max_completion_tokens=spec.max_completion_tokens,
        temperature=spec.temperature,
        top_p=spec.top_p,
        seed=spec.seed,
    )
    rates: dict[int, float] = {}
    if fits:
        evaluator = Evaluator(
            sampling,
            spec.prompt,
            loaded,
            engine,
            checker,
            model_fingerprint=loaded.source.fingerprint,
            part_rows=spec.part_rows,
        )
        problems = [items[i].problem() for i in fits]
        with closing(engine):
            _, samples = evaluator.run(
                sampling.benchmarks[0], problems, parts=Parts(parts), progress=progress
            )
        means = samples.groupby("question_index", sort=True)["correct"].mean()
        rates = {fits[int(str(index))]: float(rate) for index, rate in means.items()}
    return [_by_rate(rates.get(i), spec) for i in range(len(items))]


def _by_rate(rate: float | None, spec: DifficultyStage) -> Decision:
    if rate is None:
        return Decision("prompt beyond the model's context")
    band = next((n for n, (low, high) in spec.bands.items() if (low < rate or low == 0) and rate <= high), "")
    changes = {"pass_rate": rate, "band": band}
    if rate == 0 and not spec.never:
        return Decision("never solved", f"0 of {spec.samples}", changes)
    if rate == 1 and not spec.always:
        return Decision("always solved", f"{spec.samples} of {spec.samples}", changes)
    if rate < spec.lowest:
        return Decision("too hard", f"pass rate {rate:.3f}", changes)
    if rate > spec.highest:
        return Decision("too easy", f"pass rate {rate:.3f}", changes)
    return Decision(changes=changes)


def by_judge(
    items: Sequence[Item], spec: JudgeStage, parts: Path, progress: Progress = lambda done, total: None
) -> list[Decision]:
    """Drops items that the judge answers with `bad`.

    Args:
        items: the candidates.
        spec: judge, prompt and method.
        parts: folder of what is judged already.
        progress: told how many of how many items are judged.
    """
    asked = [i for i, item in enumerate(items) if spec.only is None or item.source in spec.only]
    decisions = [KEEP] * len(items)
    if not asked:
        return decisions
    loaded, engine = open_model(spec.model)
    room = loaded.source.context_tokens - max(spec.max_completion_tokens, 16)
    encoder = PromptEncoder(loaded.tokenizer, spec.prompt, rows=loaded.special.vocabulary)
    prompts = {i: tuple(encoder.encode(items[i].problem().question)) for i in asked}
    for i in [i for i in asked if len(prompts[i]) > room]:
        decisions[i] = Decision("prompt beyond the judge's context", f"{len(prompts[i])} tokens")
        asked.remove(i)
    # Like lengths together: padding costs time.
    order = sorted(asked, key=lambda i: (len(prompts[i]), i))
    kept = Parts(parts)
    judge = _by_logprob if spec.method == "logprob" else _by_reply
    for number, start in enumerate(range(0, len(order), spec.part_rows)):
        chosen = order[start : start + spec.part_rows]
        frame = kept.read(number)
        if frame is None:
            frame = judge([prompts[i] for i in chosen], spec, loaded, engine)
            kept.write(number, frame)
        for i, score, reply in zip(chosen, frame["score"], frame["reply"], strict=True):
            decisions[i] = _judged(float(score), str(reply), spec)
        progress(start + len(chosen), len(order))
    engine.close()
    return decisions


def _judged(score: float, reply: str, spec: JudgeStage) -> Decision:
    if np.isnan(score):
        return Decision("unclear to the judge", reply[:200]) if spec.unclear == "drop" else KEEP
    if score > spec.margin:
        told = f"log-odds {score:.2f}" if spec.method == "logprob" else reply[:200]
        return Decision("bad by the judge", told)
    return KEEP


@torch.inference_mode()
def _by_logprob(
    prompts: Sequence[tuple[int, ...]], spec: JudgeStage, loaded: LoadedModel, engine: Any
) -> pd.DataFrame:
    """log p(bad) − log p(good) of each prompt."""
    answers = [
        tuple(loaded.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (spec.bad, spec.good)
    ]
    # Answers of one token share their forward pass: the row is the prompt itself.
    rows = list(dict.fromkeys(prompt + answer[:-1] for prompt in prompts for answer in answers))
    logprobs = dict(zip(rows, _next_logprobs(rows, max(map(len, answers)), loaded), strict=True))
    scores = []
    for prompt in prompts:
        bad, good = (
            sum(
                float(logprobs[prompt + answer[:-1]][-len(answer) + place, token])
                for place, token in enumerate(answer)
            )
            for answer in answers
        )
        scores.append(bad - good)
    return pd.DataFrame({"score": np.array(scores, dtype=np.float64), "reply": [""] * len(scores)})


def _next_logprobs(rows: Sequence[tuple[int, ...]], places: int, loaded: LoadedModel) -> list[torch.Tensor]:
    """Log-probs [places, V] of what follows each of a row's last `places` tokens."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), loaded.special.pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.int64)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = torch.tensor(row)
        mask[number, width - len(row) :] = 1
    device = loaded.model.device
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask.cumsum(-1) - 1).clamp_(min=0)
    output = loaded.model(
        input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=places, use_cache=False
    )
    return list(torch.log_softmax(output.logits.float(), dim=-1).cpu())


def _by_reply(
    prompts: Sequence[tuple[int, ...]], spec: JudgeStage, loaded: LoadedModel, engine: TransformersEngine
) -> pd.DataFrame:
    """1 where a greedy reply names `bad` first, −1 where `good`, NaN where neither."""
    requests = [Request(prompt, 0) for prompt in prompts]
    completions = engine.generate(requests, Sampling(spec.max_completion_tokens, 0.0))
    replies = completion_texts(loaded.tokenizer, completions, loaded.special.end_ids)
    pattern = re.compile(rf"\b(?:({re.escape(spec.bad)})|({re.escape(spec.good)}))\b", re.IGNORECASE)
    found = [pattern.search(reply) for reply in replies]
    scores = [np.nan if match is None else 1.0 if match[1] else -1.0 for match in found]
    return pd.DataFrame({"score": np.array(scores, dtype=np.float64), "reply": replies})
