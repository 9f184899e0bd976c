"""Identity: what must not change a run's hash, what must, and that every field is classified."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.matrix.execution.run_matrix import prepare
from harness.spec import identity
from harness.spec.evaluation import EvaluateSpec
from harness.spec.grid import load_grid
from harness.spec.identity import evaluation_identity, run_identity
from harness.spec.recipe import Recipe
from harness.spec.section import Added, Listed, Runtime, Section
from harness.store.records.form import to_data

ROOT = Path(__file__).resolve().parents[3]

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


class Inner(Section):
    kept: int = 1
    knob: Annotated[int, Runtime] = 1


class Outer(Section):
    plain: float = 0.0
    later: Annotated[int | None, Added(before=7)] = None
    one: Inner = Inner()
    several: Annotated[tuple[Inner, ...], Listed] = ()
    maybe: Inner | None = None
    whole: Annotated[Inner, Runtime] = Inner()


def test_marks_are_read_where_fields_are_declared():
    """A field counts unless it says otherwise; whoever adds one touches no list."""
    marks = identity.marks(Outer)
    assert marks.identity == {"plain", "later", "one.kept", "several[].kept", "maybe.kept"}
    assert marks.runtime == {"one.knob", "several[].knob", "maybe.knob", "whole"}
    assert marks.before == {"later": 7}


def test_members_of_a_union_agree_on_what_counts():
    class Other(Section):
        knob: int = 1

    class Both(Section):
        one: Inner | Other = Inner()

    with pytest.raises(TypeError, match=r"one\.knob"):
        identity.marks(Both)


def test_every_added_field_leaves_the_identity_at_its_former_value():
    """A recipe that gives each of them its former value has the digest of one that gives none."""
    assert identity.RECIPE.before.keys() <= identity.RECIPE.identity | {"model.lora"}
    recipe = Recipe.model_validate(RECIPE).model_dump(mode="json")
    for name, value in identity.RECIPE.before.items():
        for holder in holders(recipe, name.split(".")[:-1]):
            if (key := name.rpartition(".")[2]) in holder:  # not every kind of source has every field
                holder[key] = value
    again = Recipe.model_validate(recipe)
    assert run_identity(again, 0, model_fingerprint="m", data_fingerprint="d").digest == digest()


def holders(data, keys):
    """The mappings at a dotted place; `name[]` stands for every element, where it has the key."""
    if not keys:
        return [data]
    key = keys[0].removesuffix("[]")
    below = data[key] if keys[0].endswith("[]") else [data[key]]
    return [holder for part in below for holder in holders(part, keys[1:])]


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


def test_the_quickstart_is_the_study_that_was_committed(tmp_path):
    """Every run and evaluation of the grid has the digest under which its results were published."""
    published = json.loads((ROOT / "results/studies/quickstart-cpu/plan.json").read_text(encoding="utf-8"))
    planned = to_data(prepare(str(ROOT / "ablations/quickstart.yaml"), tmp_path / "out").plan.record())
    for key in ("run", "evaluation_ids"):
        assert [job[key] for job in planned["jobs"]] == [job[key] for job in published["jobs"]]
    assert [c["run"] for c in planned["cells"]] == [c["run"] for c in published["cells"]]


def _digests(cells):
    """Of the runs of some cells, the models and the data left out of account, in one number."""
    digests = [
        run_identity(recipe, seed, model_fingerprint="m", data_fingerprint="d").digest
        for recipe, seed in cells
    ]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:12]


@pytest.mark.parametrize(
    ("study", "expected"),
    [
        ("quickstart-cpu", "7dfcd410db8d"),
        ("smollm2-cpu", "ac141f04c250"),
        ("smollm2-vllm-cpu", "bc69f8088c29"),
    ],
)
def test_committed_studies_keep_their_digests(study, expected):
    """What was resolved when they ran is read today as what it was."""
    grid = json.loads((ROOT / "results/studies" / study / "grid.resolved.json").read_text(encoding="utf-8"))
    assert _digests((Recipe.model_validate(c["recipe"]), c["seed"]) for c in grid["cells"]) == expected


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ("gpu-check.yaml", "31af0092c479"),
        ("open_rs/corrected.yaml", "ff5f5c0d5991"),
        ("open_rs/experiments.yaml", "e028132dde30"),
        ("quickstart.yaml", "7dfcd410db8d"),
        ("smollm2-vllm.yaml", "bc69f8088c29"),
        ("smollm2.yaml", "ac141f04c250"),
    ],
)
def test_committed_grids_keep_their_digests(grid, expected):
    cells = load_grid(ROOT / "ablations" / grid).cells
    assert _digests((cell.recipe, cell.seed) for cell in cells) == expected


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
