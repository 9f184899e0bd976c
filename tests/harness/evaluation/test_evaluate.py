"""Evaluation with an engine that says what it is told, so that every figure can be counted by hand."""

from dataclasses import asdict

import pytest
import torch

from harness.data.mix import build_benchmark
from harness.data.problem import Problem
from harness.evaluation.evaluate import Evaluator
from harness.models.catalog import resolve_model
from harness.models.loading import load_model
from harness.rewards.answers import AnswerChecker
from harness.rollout.engine import Completion
from harness.rollout.transformers_engine import TransformersEngine
from harness.spec.evaluation import EvaluateSpec
from harness.spec.prompt import PromptSpec
from harness.spec.recipe import ModelSpec

PROBLEMS = [
    Problem(id=f"q{i}", question=f"{'1+' * i}1+1=", answer=str(i + 2), source="test", difficulty="")
    for i in range(3)
]
ANSWERS = [
    # question 0, gold 2: three of four right; question 1, gold 3: one right, two agree on a wrong answer;
    # question 2, gold 4: nothing parsable.
    ["\\boxed{2}", "\\boxed{2}", "\\boxed{7}", "\\boxed{2}"],
    ["\\boxed{3}", "\\boxed{5}", "\\boxed{5}", "1+1"],
    ["4", "", "1+1+1+1=", "</think>"],
]
SPEC = {"samples": 4, "benchmarks": [{"name": "toy", "source": {"source": "sums"}}]}


@pytest.fixture(scope="module")
def tiny():
    spec = ModelSpec(name="tiny")
    return load_model(resolve_model(spec), spec)


class Script:
    """Answers by prompt, in the order of the samples."""

    def __init__(self, tokenizer, answers):
        self.tokenizer, self.answers, self.requests = tokenizer, answers, []

    def generate(self, requests, sampling):
        self.requests += requests
        by_prompt: dict[tuple[int, ...], int] = {}
        out = []
        for request in requests:
            number = by_prompt[request.prompt_ids] = by_prompt.get(request.prompt_ids, -1) + 1
            text = self.answers[len(self.tokenizer.decode(list(request.prompt_ids)).split("+")) - 2][number]
            ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            out.append(Completion(ids, (-0.1,) * len(ids), text == "1+1"))
        return out


def evaluate(tiny, engine, **fields):
    spec = EvaluateSpec.model_validate({**SPEC, **fields})
    with AnswerChecker() as checker:
        evaluator = Evaluator(spec, PromptSpec(), tiny, engine, checker, model_fingerprint="f")
        return evaluator.run(spec.benchmarks[0], PROBLEMS)


def test_every_figure_by_hand(tiny):
    record, samples = evaluate(tiny, Script(tiny.tokenizer, ANSWERS))
    assert record.correct == 4
    assert record.accuracy == pytest.approx(4 / 12)
    # Unbiased: 1 − C(wrong, k)/C(4, k), averaged over the questions.
    assert record.pass_at_k["1"] == pytest.approx((3 / 4 + 1 / 4 + 0) / 3)
    assert record.pass_at_k["2"] == pytest.approx(((1 - 0 / 6) + (1 - 3 / 6) + 0) / 3)
    assert record.pass_at_k["4"] == pytest.approx(2 / 3)
    assert set(record.pass_at_k) == {"1", "2", "4"}
    assert record.majority_accuracy == pytest.approx(1 / 3)
    assert record.completion.unparsable_share == pytest.approx(5 / 12)
    assert record.completion.truncated_share == pytest.approx(1 / 12)
    assert record.tokens.completion == samples["tokens"].sum()
    assert samples["correct"].tolist() == [a == f"\\boxed{{{i + 2}}}" for i in range(3) for a in ANSWERS[i]]
    assert samples["text"].tolist() == [a for row in ANSWERS for a in row]


def test_seeds_belong_to_question_and_sample_not_to_the_benchmark_or_its_order(tiny):
    engine = Script(tiny.tokenizer, ANSWERS)
    _, samples = evaluate(tiny, engine)
    assert len({r.seed for r in engine.requests}) == 12
    _, again = evaluate(
        tiny, Script(tiny.tokenizer, ANSWERS), benchmarks=[{**SPEC["benchmarks"][0], "name": "b"}]
    )
    assert samples["seed"].tolist() == again["seed"].tolist()
    _, other = evaluate(tiny, Script(tiny.tokenizer, ANSWERS), seed=1)
    assert not set(samples["seed"]) & set(other["seed"])


def test_the_speed_in_the_record_is_tokens_over_seconds(tiny):
    record, samples = evaluate(tiny, Script(tiny.tokenizer, ANSWERS))
    timing = record.timing
    assert timing.tokens_per_second * timing.total_seconds == pytest.approx(samples["tokens"].sum())


def test_the_same_evaluation_twice_gives_the_same_samples(tiny):
    torch.set_num_threads(1)
    spec = EvaluateSpec.model_validate(
        {
            "samples": 2,
            "max_completion_tokens": 24,
            "benchmarks": [{"name": "b", "questions": 12, "source": {"source": "sums", "terms": [2]}}],
        }
    )
    engine = TransformersEngine(tiny.model, end_ids=tiny.special.end_ids, pad_id=tiny.tokenizer.pad_token_id)
    with AnswerChecker() as checker:
        evaluator = Evaluator(spec, PromptSpec(), tiny, engine, checker, model_fingerprint="f")
        problems = build_benchmark(spec.benchmarks[0])
        first, second = (evaluator.run(spec.benchmarks[0], problems)[1] for _ in range(2))
        halves = [evaluator.run(spec.benchmarks[0], part)[1] for part in (problems[:6], problems[6:])]
    assert first.equals(second)
    # Nor does a question's sample depend on which others are asked.
    assert first["text"].tolist() == [text for half in halves for text in half["text"]]
    assert 0.3 < first["correct"].mean() < 1


def test_answers_equal_in_value_vote_together(tiny):
    """1/2, 0.5 and \\frac{2}{4} are one wrong answer against two right ones; so they win the vote, and are wrong."""
    wrong = ["\\boxed{1/2}", "\\boxed{0.5}", "\\boxed{\\frac{2}{4}}", "\\boxed{2}"]
    record, samples = evaluate(tiny, Script(tiny.tokenizer, [wrong, wrong, wrong]))
    assert samples["answer_class"].tolist()[:3] == [1, 1, 1]
    assert record.majority_at_k["4"] == 0
    assert record.majority_at_k["1"] == pytest.approx(1 / 12)
    assert record.majority_accuracy == record.majority_at_k["4"]


def test_samples_that_ignore_their_seeds_are_flagged(tiny):
    same = [["1+1=\\boxed{2}" + "0" * 200] * 4] * 3
    record, _ = evaluate(tiny, Script(tiny.tokenizer, same))
    assert record.repeats.identical_pairs == 18
    assert record.repeats.flagged
    record, _ = evaluate(tiny, Script(tiny.tokenizer, ANSWERS))
    assert not record.repeats.flagged


def test_every_figure_has_bounds_that_hold_it(tiny):
    record, _ = evaluate(tiny, Script(tiny.tokenizer, ANSWERS))
    flat = {"accuracy": record.accuracy}
    flat |= {f"pass_at_k.{k}": v for k, v in record.pass_at_k.items()}
    flat |= {f"majority_at_k.{k}": v for k, v in record.majority_at_k.items()}
    flat |= {f"completion.{k}": v for k, v in asdict(record.completion).items()}
    assert flat.keys() == record.intervals.keys()
    for name, value in flat.items():
        low, high = record.intervals[name]
        assert low <= value <= high, name
