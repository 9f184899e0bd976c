"""Sources: what they load, the split of generated ones, and what is said when they aren't there."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from harness.data.champ import plain_answer
from harness.data.generated import UNJUDGED
from harness.data.sources import (
    SourceNotFound,
    UnusableData,
    check_rows,
    check_source,
    load_source,
    source_fingerprint,
)
from harness.models.tiny.sums import held_out
from harness.spec.data import ChampSource, FileSource, HubSource, ReasoningGymSource, SumsSource

ROWS = [{"question": f"{i}+{i}=", "answer": str(2 * i)} for i in range(20)]


def sums(terms=(2, 3), digits=(1, 2)) -> SumsSource:
    return SumsSource(source="sums", terms=terms, digits=digits)


def gym(family="chain_sum", **params) -> ReasoningGymSource:
    return ReasoningGymSource(source="reasoning_gym", family=family, params=params)


def file(path, **columns) -> FileSource:
    return FileSource(source="file", path=str(path), **columns)


def load(spec, split="train", count=None, seed=0):
    return load_source(spec, split=split, count=count, seed=seed)


def test_sums_add_up_and_carry_their_difficulty():
    problems = load(sums(), count=500)
    assert len({problem.question for problem in problems}) == 500
    for problem in problems:
        terms = problem.question.removesuffix("=").split("+")
        assert problem.answer == str(sum(map(int, terms)))
        assert problem.difficulty == f"{len(terms)}x{max(map(len, terms))}"
    assert {problem.difficulty for problem in problems} == {"2x1", "2x2", "3x1", "3x2"}


@pytest.mark.parametrize("spec", [sums(), gym(min_terms=2, max_terms=3, min_digits=1, max_digits=2)])
def test_train_and_test_are_disjoint_whatever_the_seeds(spec):
    train = {p.question for seed in (0, 1) for p in load(spec, count=300, seed=seed)}
    test = {p.question for seed in (0, 1) for p in load(spec, split="test", count=60, seed=seed)}
    assert train.isdisjoint(test)
    assert not any(map(held_out, train))
    assert all(map(held_out, test))


@pytest.mark.parametrize("spec", [sums(), gym(min_terms=2, max_terms=2)])
def test_seeds_decide_the_questions(spec):
    assert load(spec, count=50) == load(spec, count=50)
    assert load(spec, count=30) == load(spec, count=50)[:30]
    first, second = ({p.question for p in load(spec, count=40, seed=seed)} for seed in (0, 1))
    assert len(first & second) < 30


def test_sums_do_not_depend_on_the_hash_seed():
    code = (
        "from harness.data.sources import load_source; from harness.spec.data import SumsSource\n"
        "print(load_source(SumsSource(source='sums'), split='train', count=40, seed=5))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_an_exhausted_space_gives_all_it_has():
    spec = sums(terms=(2,), digits=(1,))
    everything = {f"{a}+{b}=" for a in range(10) for b in range(10)}
    train = {p.question for p in load(spec, count=1000)}
    test = {p.question for p in load(spec, split="test", count=1000)}
    assert train | test == everything
    assert train == {p.question for p in load(spec)}  # no count: all
    with pytest.raises(SourceNotFound, match="has no end"):
        load(sums(terms=(4,), digits=(2,)))


def test_reasoning_gym_ends_when_a_family_has_no_more():
    one = gym(min_terms=2, max_terms=2, min_digits=1, max_digits=1)
    problems = load(one, count=5000)
    assert 100 < len(problems) < 1000
    assert len({p.question for p in problems}) == len(problems)


def test_families_that_comparison_cannot_judge_are_refused():
    from reasoning_gym.factory import DATASETS

    assert set(DATASETS) >= UNJUDGED
    for family in UNJUDGED:
        with pytest.raises(SourceNotFound, match=rf"'{family}' cannot be judged"):
            check_source(gym(family))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_files_of_every_kind(tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    elif suffix == "csv":
        path.write_text("question,answer\n" + "".join(f"{r['question']},{r['answer']}\n" for r in ROWS))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    check_source(file(path))
    test = load(file(path), split="test")
    assert [(p.question, p.answer) for p in test] == [(r["question"], r["answer"]) for r in ROWS]
    assert [p.id for p in test[:2]] == ["rows:0", "rows:1"]
    assert load(file(path), split="test", count=3) == test[:3]
    train = load(file(path), count=10)
    assert train == load(file(path), count=20)[:10]
    assert sorted(p.id for p in load(file(path))) == sorted(p.id for p in test)
    assert train != load(file(path), count=10, seed=1)


def test_files_drop_repeats_and_map_columns(tmp_path):
    path = tmp_path / "data.jsonl"
    rows = [
        {"problem": "1+1=", "solution": 2},
        {"problem": "1+1=", "solution": 3},
        {"problem": "x", "solution": 1.5},
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    problems = load(file(path, question="problem", answer="solution"), split="test")
    assert [(p.id, p.answer) for p in problems] == [("data:0", "2"), ("data:2", "1.5")]


def test_fingerprints_follow_content_not_names(tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    for path in (one, two):
        path.write_text(json.dumps(ROWS[0]) + "\n", encoding="utf-8")
    assert source_fingerprint(file(one)) == source_fingerprint(file(two))
    two.write_text(json.dumps(ROWS[1]) + "\n", encoding="utf-8")
    assert source_fingerprint(file(one)) != source_fingerprint(file(two))
    kinds = {source_fingerprint(s) for s in (sums(), gym(), ChampSource(source="champ"), file(one))}
    assert len(kinds) == 4


def test_champ():
    problems = load(ChampSource(source="champ"), split="test")
    assert len(problems) == 270
    assert problems[0].id == "P_Combinatorics_1"
    assert problems[0].answer == "239"
    assert not any("@@" in p.question or "@@" in p.answer for p in problems)


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        ("@@2*C(10, 5)@@, or equivalently @@504@@", "504"),
        ("@@5/14@@, or approximately 35.7%", "5/14"),
        ("0 (i.e., no such values)", "0"),
        ("0 (no such selection is possible)", "0"),
        ("The limit exists and is equal to @@(a+3b)/2@@", "(a+3b)/2"),
        ("-3 is the only possible value", "-3"),
        ("1, 4 and 9", "1, 4, 9"),
        ("@@n@@ times", "n"),
        ("Exactly one sequence", "1"),
        ("@@x=0, y=2@@ and @@x=9, y=11@@", "x=0, y=2 and x=9, y=11"),
        ("No integer solutions", "No integer solutions"),
    ],
)
def test_champ_answers_are_read(raw, answer):
    assert plain_answer(raw) == answer


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: gym("chain_sun"), "no family 'chain_sun'\n  did you mean \"chain_sum\"?"),
        (lambda t: gym(min_term=1), "no parameter 'min_term'\n  did you mean \"min_terms\"?"),
        (lambda t: gym(min_terms=5, max_terms=2), "rejects {'min_terms': 5, 'max_terms': 2}"),
        (lambda t: file(write(t / "data.jsonl", "{}").parent / "dta.jsonl"), 'did you mean "data.jsonl"?'),
        (lambda t: file(t / "data.txt"), "unknown suffix '.txt'"),
        (lambda t: file(write(t / "a.jsonl", '{"question": 1, "anser": 2}')), "`answer: anser`"),
        (
            lambda t: file(write(t / "b.jsonl", '{"question": 1, "anser": 2}'), answer="ans"),
            'did you mean "anser"?',
        ),
        (lambda t: file(write(t / "a.jsonl", "{oops")), "a.jsonl:1: not valid JSON"),
        (lambda t: file(write(t / "a.jsonl", "[1]")), "must be a JSON object, got 1"),
        (lambda t: file(write(t / "a.parquet", "no parquet")), "not a Parquet file"),
        (lambda t: file(write(t / "a.jsonl", "[" * 100_000)), "a.jsonl:1: not valid JSON"),
        (lambda t: file(write(t / "a.jsonl", "")), "a.jsonl: holds no rows"),
        (lambda t: file(write(t / "a.csv", "question,answer\n")), "a.csv: holds no rows"),
        (lambda t: file(write(t / "a.csv", "question,anser\n1,2\n")), "its columns: 'question', 'anser'"),
        (lambda t: gym("graph_color", num_colors=3), "family 'graph_color' cannot be judged"),
    ],
)
def test_what_is_not_there_is_told(tmp_path, make, message):
    with pytest.raises(SourceNotFound, match=re.escape(message)):
        check_source(make(tmp_path))


def test_values_that_are_missing_are_told_when_loading(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"question": "q", "answer": "1"}\n{"question": "q2", "answer": null}')
    check_source(file(path))
    with pytest.raises(
        SourceNotFound, match=re.escape("a.jsonl:2: 'answer' must be text or a number, got null")
    ):
        load(file(path))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("NaN", "'answer' must be a finite number, got nan"),
        ("-Infinity", "'answer' must be a finite number, got -inf"),
        ('"\\ud800"', "'answer' holds half a surrogate pair"),
    ],
)
def test_values_that_cannot_be_used_are_told_with_their_line(tmp_path, value, message):
    path = write(
        tmp_path / "a.jsonl", f'{{"question": "q", "answer": "1"}}\n\n{{"question": "r", "answer": {value}}}'
    )
    with pytest.raises(SourceNotFound, match=re.escape(f"a.jsonl:3: {message}")):
        load(file(path))


def test_a_parquet_file_with_a_column_twice_is_told(tmp_path):
    column = pyarrow.array(["1"])
    table = pyarrow.Table.from_arrays([column] * 3, names=["question", "answer", "answer"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SourceNotFound, match=re.escape("a.parquet: two columns are called 'answer'")):
        load(file(tmp_path / "a.parquet"))


def test_answers_that_are_numbers_are_written_in_digits(tmp_path):
    numbers = {"0.00001": "0.00001", "1e22": "1" + 22 * "0", "-2.50": "-2.5", "1.0": "1.0", "7": "7"}
    lines = [f'{{"question": "{i}", "answer": {n}}}\n' for i, n in enumerate(numbers)]
    path = write(tmp_path / "a.jsonl", "".join(lines))
    assert [p.answer for p in load(file(path), split="test")] == list(numbers.values())


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv", "question,answer\n1+1=,2\n"), ("a.jsonl", '{"question": "1+1=", "answer": 2}\n')],
)
def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert [(p.question, p.answer) for p in load(file(tmp_path / name))] == [("1+1=", "2")]


def cached_copy(cache, rows, *, folder="someone___some_data", commit="abc123"):
    """A dataset as `datasets` leaves it in its cache."""
    table = pyarrow.Table.from_pylist(rows)
    copy = cache / folder / "default" / "0.0.0" / commit
    copy.mkdir(parents=True)
    name = folder.partition("___")[2]
    with (
        pyarrow.OSFile(str(copy / f"{name}-train.arrow"), "wb") as sink,
        pyarrow.ipc.new_stream(sink, table.schema) as out,
    ):
        out.write_table(table)
    split = {"name": "train", "num_bytes": 1, "num_examples": len(rows), "dataset_name": name}
    features = {column: {"dtype": "string", "_type": "Value"} for column in table.column_names}
    info = {
        "builder_name": "json",
        "dataset_name": name,
        "config_name": "default",
        "splits": {"train": split},
    }
    (copy / "dataset_info.json").write_text(json.dumps({**info, "features": features}))


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of hub datasets, and no hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    return tmp_path


# `datasets` writes SomeData as some_data.
HUB_DATA = HubSource(source="hub", dataset="someone/SomeData")


def test_a_hub_dataset_without_a_hub(hub_cache):
    with pytest.raises(SourceNotFound, match="HF_HUB_OFFLINE is set, and no copy is cached"):
        check_source(HUB_DATA)
    cached_copy(hub_cache, [{"question": "1+1=", "answer": "2"}])
    assert source_fingerprint(HUB_DATA) == "hub:someone/SomeData@abc123"
    assert [p.answer for p in load(HUB_DATA)] == ["2"]


def test_a_bad_row_of_a_cached_hub_dataset_is_told_without_a_download(hub_cache):
    rows = [{"question": "1+1=", "answer": "2"}, {"question": "2+1=", "answer": None}]
    cached_copy(hub_cache, rows)
    with pytest.raises(
        UnusableData, match=r"someone/SomeData: row 2: 'answer' must be text or a number, got null"
    ):
        check_rows(HUB_DATA)
    kept = check_rows(HUB_DATA.model_copy(update={"drop_invalid": True}))
    assert [p.answer for p in kept.problems] == ["2"]
    assert "1 of 2 rows are dropped" in kept.dropped()


def test_a_hub_dataset_whose_commit_is_not_cached_is_not_downloaded_to_check_it(hub_cache, monkeypatch):
    cached_copy(hub_cache, [{"question": "1+1=", "answer": None}])
    monkeypatch.setattr("harness.data.hub.hub_fingerprint", lambda spec: f"hub:{spec.dataset}@newer")
    assert check_rows(HUB_DATA) is None


def test_checking_imports_no_torch():
    code = (
        "import sys; from harness.data.sources import *; from harness.spec.data import *\n"
        "for s in (SumsSource(source='sums'), ChampSource(source='champ'),\n"
        "          ReasoningGymSource(source='reasoning_gym', family='chain_sum')):\n"
        "    check_source(s), source_fingerprint(s)\n"
        "assert not {'torch', 'triton', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
