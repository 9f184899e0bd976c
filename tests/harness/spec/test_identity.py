"""Identity: what must not change a run's hash, what must, and that every field is classified."""

from __future__ import annotations

import types
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from harness.spec import identity
from harness.spec.evaluation import EvaluateSpec
from harness.spec.identity import evaluation_identity, run_identity
from harness.spec.recipe import Recipe

RECIPE = {
    "model": "tiny",
    "data": {"sources": [{"source": "sums", "terms": [2]}, {"source": "file", "path": "a.jsonl"}]},
    "reward": {"functions": [{"name": "accuracy"}]},
    "optimizer": {"learning_rate": 1e-6},
    "training": {"steps": 10},
}


def digest(seed=0, *, model_content="m", data_content="d", **sections):
    recipe = Recipe.model_validate({**RECIPE, **sections})
    return run_identity(recipe, seed, model_fingerprint=model_content, data_fingerprint=data_content).digest


def models_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Annotated, typing.Union, types.UnionType, tuple, list):
        return [m for part in typing.get_args(annotation) for m in models_in(part)]
    return []


def listed(annotation):
    if typing.get_origin(annotation) is typing.Annotated:
        return listed(typing.get_args(annotation)[0])
    return typing.get_origin(annotation) in (tuple, list)


def field_names(model, prefix=""):
    names = set()
    for name, field in model.model_fields.items():
        below = models_in(field.annotation)
        if not below or typing.get_origin(field.annotation) is types.UnionType:
            names.add(prefix + name)
        for part in below:
            mark = "[]." if listed(field.annotation) else "."
            names |= set() if prefix + name in names else field_names(part, prefix + name + mark)
    return names


def test_every_recipe_field_is_classified():
    """A new field fails here until someone decides whether it changes the experiment."""
    assert not identity.IDENTITY_FIELDS & identity.RUNTIME_FIELDS
    assert field_names(Recipe) == identity.IDENTITY_FIELDS | identity.RUNTIME_FIELDS


def test_every_evaluation_field_is_classified():
    found = {
        n if not n.startswith("benchmarks[].source") else "benchmarks[].source"
        for n in field_names(EvaluateSpec)
    }
    assert not identity.EVALUATION_FIELDS & identity.EVALUATION_RUNTIME_FIELDS
    assert found == identity.EVALUATION_FIELDS | identity.EVALUATION_RUNTIME_FIELDS


def test_order_of_keys_does_not_count():
    backwards = {k: RECIPE[k] for k in reversed(RECIPE)}
    recipe = Recipe.model_validate(backwards)
    assert run_identity(recipe, 0, model_fingerprint="m", data_fingerprint="d").digest == digest()


def test_spelling_of_numbers_and_defaults_does_not_count():
    assert digest(optimizer={"learning_rate": 0.000001}) == digest()
    assert digest(optimizer={"learning_rate": 1e-6, "weight_decay": 0}) == digest()
    assert digest(model={"name": "tiny", "dtype": "float32"}) == digest()


def with_source(**source):
    return digest(data={"sources": [source]})


def test_columns_that_are_looked_for_count_as_their_former_defaults():
    file = {"source": "file", "path": "a.jsonl"}
    assert with_source(**file) == with_source(**file, question="question", answer="answer")
    assert with_source(**file) != with_source(**file, question="problem")
    hub = {"source": "hub", "dataset": "someone/some"}
    assert with_source(**hub) == with_source(**hub, question="problem", answer="answer")
    assert with_source(**hub) != with_source(**hub, question="question")
    assert with_source(**file) == with_source(**file, drop_invalid=True)
    assert with_source(**file) != with_source(**file, answer_pattern="gsm8k")


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"name": "a/copy/of/tiny"}},
        {"model": {"name": "tiny", "attention": "eager"}},
        {
            "training": {
                "steps": 10,
                "microbatch_tokens": 1,
                "checkpoint_every": 2,
                "gradient_checkpointing": True,
            }
        },
        {"training": {"steps": 99}},
        {
            "data": {
                "sources": [{"source": "sums", "terms": [2]}, {"source": "file", "path": "moved/b.jsonl"}]
            }
        },
    ],
)
def test_runtime_knobs_names_and_length_do_not_count(sections):
    assert digest(**sections) == digest()


@pytest.mark.parametrize(
    "sections",
    [
        {"seed": 1},
        {"model_content": "other"},
        {"data_content": "other"},
        {"prompt": {"system": "Think."}},
        {"rollout": {"max_completion_tokens": 63}},
        {"objective": {"beta": 0.04}},
        {"reward": {"functions": [{"name": "accuracy", "weight": 0.5}]}},
        {"optimizer": {"learning_rate": 1e-6, "schedule": "cosine"}},
    ],
)
def test_what_changes_the_experiment_counts(sections):
    recipe = {k: v for k, v in sections.items() if isinstance(v, dict)}
    content = {k: v for k, v in sections.items() if isinstance(v, str)}
    assert digest(sections.get("seed", 0), **content, **recipe) != digest()


def test_length_counts_under_a_schedule_that_looks_ahead():
    cosine = {"optimizer": {"schedule": "cosine"}}
    assert digest(**cosine, training={"steps": 10}) != digest(**cosine, training={"steps": 20})


@settings(max_examples=50)
@given(rate=st.floats(1e-9, 1.0), other=st.floats(1e-9, 1.0))
def test_digests_are_equal_exactly_when_values_are(rate, other):
    one, two = (digest(optimizer={"learning_rate": r}) for r in (rate, other))
    assert (one == two) == (rate == other)


def test_evaluation_identity():
    def of(name="easy", **changes):
        source = {"source": "file", "path": changes.pop("path", "a.jsonl")}
        benchmark = {"name": name, "questions": 4, "source": source}
        evaluate = EvaluateSpec.model_validate({"benchmarks": [benchmark], **changes})
        prompt = Recipe.model_validate(RECIPE).prompt
        return evaluation_identity(evaluate, evaluate.benchmarks[0], prompt, benchmark_fingerprint="b").digest

    assert of() == of(name="renamed") == of(base=False) == of(path="moved.jsonl")
    assert len({of(), of(samples=8), of(seed=1), of(temperature=0.5), of(max_completion_tokens=9)}) == 5


def test_digests_stay_what_they_were():
    """A changed digest reruns everybody's finished work: raise `identity.VERSION` and this value together."""
    assert digest() == DIGEST


DIGEST = "cb8708fac8f4"


def test_a_later_field_at_its_old_value_leaves_the_identity_as_it_was():
    """Runs that were made before the field was there keep their identity, and are not done again."""
    later = {"quota": None, "difficulty": None, "difficulty_column": None, "difficulty_range": None}
    sources = [
        {"source": "sums", "terms": [2], "quota": None},
        {"source": "file", "path": "a.jsonl", **later},
    ]
    assert digest(data={"sources": sources}, training={"steps": 10, "logprob_temperature": None}) == digest()
    assert digest() == "cb8708fac8f4"
    assert digest(training={"steps": 10, "logprob_temperature": 0.5}) != digest()
    assert digest(reward={"functions": [{"name": "accuracy"}], "normalization": "group"}) != digest()
    band = {"difficulty_column": "level", "difficulty": ["5"]}
    bands = [RECIPE["data"]["sources"][0], {"source": "file", "path": "a.jsonl", **band}]
    assert digest(data={"sources": bands}) != digest()


def test_cells_of_one_stated_schedule_are_checkpoints_of_one_run():
    cosine = {"learning_rate": 1e-6, "schedule": "cosine"}
    assert digest(optimizer=cosine, training={"steps": 50}) != digest(
        optimizer=cosine, training={"steps": 100}
    )
    stated = {**cosine, "schedule_steps": 500}
    assert digest(optimizer=stated, training={"steps": 50}) == digest(
        optimizer=stated, training={"steps": 100}
    )
    assert digest(optimizer=stated) != digest(optimizer={**stated, "schedule_steps": 400})
