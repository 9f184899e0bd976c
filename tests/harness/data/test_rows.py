"""Rows of files of every kind: read as they are written, or refused with file and row, or dropped and counted."""

from __future__ import annotations

import gzip
import json
import re
from decimal import Decimal

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from harness.data.sources import UnusableData, check_rows, load_source, read_source
from harness.spec.data import FileSource, HubSource

GOOD = '{"question": "1+1=", "answer": 2}\n'


def load(path, **fields):
    spec = FileSource(source="file", path=str(path), **fields)
    return load_source(spec, split="test", count=None, seed=0)


def pairs(path, **fields):
    return [(problem.question, problem.answer) for problem in load(path, **fields)]


def save(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def parquet(path, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


ONE = [("1+1=", "2")]
TWO = [*ONE, ("2+2=", "4")]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("lines.jsonl", GOOD + '\n\r\n{"question": "2+2=", "answer": "4"}\r\n', TWO),
        ("old-mac.jsonl", GOOD.strip() + '\r{"question": "2+2=", "answer": "4"}\r', TWO),
        ("bom.jsonl", "\ufeff" + GOOD, ONE),
        ("bom.csv", "\ufeffquestion,answer\r\n1+1=,2\r\n\r\n2+2=,4\r\n", TWO),
        ("blank-first.csv", "\n\nquestion,answer\n1+1=,2\n", ONE),
        ("quoted.csv", 'question,answer\n"a, ""b""\nc",4\n', [('a, "b"\nc', "4")]),
        ("array.json", json.dumps([{"question": "1+1=", "answer": 2}], indent=2), ONE),
        ("array.jsonl", f"[{GOOD}]", ONE),
        ("lines.json", GOOD, ONE),
        ("lines.jsonl.gz", gzip.compress(GOOD.encode(), mtime=0), ONE),
        ("packed.jsonl", gzip.compress(GOOD.encode(), mtime=0), ONE),
        ("table.csv.gz", gzip.compress(b"question,answer\n1+1=,2\n", mtime=0), ONE),
        ("CAPITALS.JSONL", GOOD, ONE),
        ("separators.jsonl", '{"question": "a\u2028b\u0085c", "answer": "2"}\n', [("a\u2028b\u0085c", "2")]),
        ("separators.csv", "question,answer\na\u2028b\u0085c,2\n", [("a\u2028b\u0085c", "2")]),
        ("others.csv", f"note,question,answer\n{'x' * 200_000},1+1=,2\n", ONE),
        ("third.jsonl", '{"problem": "1+1=", "solution": "2"}\n', ONE),
        ("prompt.jsonl", '{"prompt": "1+1=", "final_answer": "2", "solution": "It is 2."}\n', ONE),
        ("capitals.csv", "Question,Answer\n1+1=,2\n", ONE),
        (
            "exact.jsonl",
            '{"question": "a", "answer": 0.10000000000000000001}\n{"question": "b", "answer": 1234567890123456789}',
            [("a", "0.10000000000000000001"), ("b", "1234567890123456789")],
        ),
    ],
)
def test_what_can_be_read_is_read_as_it_is_written(tmp_path, name, content, expected):
    assert pairs(save(tmp_path / name, content)) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", GOOD + '{"question": "q", "answer": null}', ":2: 'answer' must be text or a number, got nul"),
        ("a.jsonl", GOOD + '{"question": "q"}', ":2: has no 'answer'"),
        ("a.jsonl", GOOD + '{"question": "q", "answer": [2]}', ":2: 'answer' must be text or a number, got a list"),
        ("a.jsonl", GOOD + '{"question": "q", "answer": {"a": 2}}', ":2: 'answer' must be text or a number, got an "),
        ("a.jsonl", GOOD + '{"question": "q", "answer": true}', ":2: 'answer' must be text or a number, got true"),
        ("a.jsonl", GOOD + '{"question": "q", "answer": NaN}', ":2: 'answer' must be a finite number, got nan"),
        ("a.jsonl", GOOD + '{"question": "q", "answer": "NaN"}', ":2: 'answer' must be text or a number, got NaN"),
        ("a.jsonl", GOOD + '{"question": "q", "answer": 1e9999}', ":2: 'answer' is a number of more than"),
        ("a.jsonl", GOOD + '{"question": "q", "answer": ' + "9" * 5000 + "}", ":2: 'answer' is a number of"),
        ("a.jsonl", GOOD + '{"question": "q", "answer": " "}', ":2: 'answer' is empty"),
        ("a.jsonl", GOOD + '{"question": "", "answer": "1"}', ":2: 'question' is empty"),
        ("a.jsonl", GOOD + '{"question": "q", "answer": "1", "answer": "2"}', ":2: holds the key 'answer' twice"),
        ("a.jsonl", GOOD + "{oops", ":2: not valid JSON"),
        ("a.jsonl", GOOD + "[1]", ":2: must be a JSON object, got a list"),
        ("a.jsonl", "[1, 2]\n" + GOOD, ": row 1: must be a JSON object, got a list"),
        ("a.jsonl", GOOD.encode() + b'{"question": "\xff", "answer": 1}', ":2: holds a byte that is not UTF-8, 0xff"),
        ("a.json", '[{"question": "q", "answer": 1}, {"question": "r"}]', ": row 2: has no 'answer'"),
        ("a.json", '[{"question": "q", "answer": 1},\n{"question": "r"', ":2: not valid JSON"),
        ("a.json", b'[{"question": "q",\n"answer": "\xff"}]', ":2: holds a byte that is not UTF-8"),
        ("a.json", '{"data":\n[{"question": "q", "answer": 1}]}', ": holds one JSON object, with the keys 'data'"),
        ("a.jsonl", "", ": holds no rows"),
        ("a.jsonl", "\n\n", ": holds no rows"),
        ("a.json", "[]", ": holds no rows"),
        ("a.jsonl", "{}\n", ":1: holds no columns"),
        ("a.csv", "question,answer\n", ": holds no rows"),
        ("a.csv", "question,answer\n1+1=,2\nq\n", ":3: has no 'answer'"),
        ("a.csv", "question,answer\n1+1=,2\nq,\n", ":3: 'answer' is empty"),
        ("a.csv", "question,answer\n1+1=,2\nq,1,2\n", ":3: more cells than columns"),
        ("a.csv", "question,answer\n1+1=,2\nq,nan\n", ":3: 'answer' must be text or a number, got NaN"),
        ("a.csv", "question,answer,answer\nq,1,2\n", ":1: two columns are called 'answer'"),
        ("a.csv", f"question,answer\n1+1=,2\n\n{'x' * 131_073},2\n", ":4: 'question' holds more than 131"),
        ("a.csv", 'question,answer\n1+1=,2\n"q,1\nr,2\n', ":3: not valid CSV"),
        ("a.csv", 'question,answer\n"q"x,1\n', ":2: not valid CSV"),
        ("a.csv", b"question,answer\n1+1=,2\n\xe9t\xe9,2\n", ":3: 'question' holds a byte that is not UTF-8"),
        ("a.csv", "question;answer\n1+1=;2\n", "commas must part the columns, not semicolons"),
        ("a.csv", "q,a\n1+1=,2\n", "its columns: 'q', 'a'"),
        ("a.csv", "question,answer\n1+1=,2\n".encode("utf-16"), ": is UTF-16\n  save it as UTF-8"),
        ("a.csv.gz", gzip.compress(b"question,answer\n1+1=,2\n", mtime=0)[:-9], ": cannot be read: "),
        ("a.jsonl", '{"question": "q", "problem": "p", "answer": 1}', "'question' and 'problem' may both be"),
        ("a.jsonl", GOOD + '{"question": "q", "answer": "\\ud800"}', ":2: 'answer' holds half a surrogate pair"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_file_and_row(tmp_path, name, content, message):
    path = save(tmp_path / name, content)
    with pytest.raises(UnusableData, match=re.escape(message)) as error:
        load(path)
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) <= 3


def test_rows_are_dropped_and_counted_where_the_source_says_so(tmp_path):
    rows = [GOOD, '{"question": "q"}\n', "\n", "{oops\n", '{"question": "r", "answer": null}\n', GOOD]
    path = save(tmp_path / "a.jsonl", "".join(rows))
    with pytest.raises(UnusableData, match=r"a\.jsonl:2: has no 'answer'; 3 of 5 rows .* also lines 4, 5"):
        load(path)
    spec = FileSource(source="file", path=str(path), drop_invalid=True)
    loaded = read_source(spec, split="test", count=None, seed=0)
    assert [(p.id, p.row) for p in loaded.problems] == [("a:0", 1)]
    assert [(i.id, i.row) for i in loaded.invalid] == [("a:1", 2), ("a:2", 4), ("a:3", 5)]
    assert [(repeat.id, twin) for repeat, twin, _ in loaded.repeats] == [("a:4", "a:0")]
    assert re.search(r"3 of 5 rows are dropped: .*\(lines 2, 4, 5\)", check_rows(spec).dropped())


def test_a_file_without_a_usable_row_is_refused_though_rows_are_dropped(tmp_path):
    path = save(tmp_path / "a.jsonl", '{"question": "q", "answer": null}\n' * 30)
    with pytest.raises(
        UnusableData, match=r"a.jsonl:1: 'answer' .* got null; none of the 30 rows can be used"
    ):
        load(path, drop_invalid=True)


def test_parquet_numbers_are_exact(tmp_path):
    """A single float stands for its shortest decimal; a decimal and an integer for all their digits."""
    kinds = {
        "int64": (pyarrow.array([7, 2**62]), ["7", str(2**62)]),
        "decimal": (pyarrow.array([Decimal("2.50"), Decimal("-0.001")]), ["2.500", "-0.001"]),
        "double": (pyarrow.array([0.1, 1e-7]), ["0.1", "0.0000001"]),
        "float": (pyarrow.array([0.1, 16777216.0], pyarrow.float32()), ["0.1", "16777216.0"]),
        "half": (pyarrow.array(np.array([0.1, 2048], np.float16)), ["0.1", "2048.0"]),
        "dictionary": (pyarrow.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
    }
    for name, (answers, expected) in kinds.items():
        path = parquet(tmp_path / f"{name}.parquet", question=["q", "r"], answer=answers)
        assert [problem.answer for problem in load(path)] == expected, name


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            pyarrow.array([{"value": 1}, {"value": 2}]),
            "row 1: 'answer' must be text or a number, got an object",
        ),
        (pyarrow.array([[1], [2]]), "row 1: 'answer' must be text or a number, got a list"),
        (pyarrow.array([1.0, float("nan")]), "row 2: 'answer' must be a finite number, got nan"),
        (pyarrow.array([True, False]), "row 1: 'answer' must be text or a number, got true"),
        (pyarrow.array([b"1", b"2"]), "row 1: 'answer' must be text or a number, got bytes"),
        (pyarrow.array(["1", None]), "row 2: 'answer' must be text or a number, got null"),
        (
            pyarrow.array([b"1", b"\xff"]).view(pyarrow.string()),
            "row 2: 'answer' holds a byte that is not UTF-8",
        ),
        (pyarrow.array([1, 2], pyarrow.date32()), "row 1: 'answer' must be text or a number, got a date"),
    ],
)
def test_parquet_cells_that_are_no_answers(tmp_path, answers, message):
    path = parquet(tmp_path / "a.parquet", question=["q", "r"], answer=answers)
    with pytest.raises(UnusableData, match=re.escape(message)):
        load(path)


GSM8K = [
    f'{{"question": "{i} boxes", "answer": "There are 7*{i}=<<7*{i}>>.\\n#### {7 * i}"}}' for i in range(3)
]
MATH = [f'{{"problem": "{i} boxes", "solution": "The answer is $\\\\boxed{{{7 * i}}}$."}}' for i in range(3)]


@pytest.mark.parametrize(
    ("lines", "pattern"),
    [(GSM8K, "gsm8k"), (GSM8K, r"#### (-?[\d,.]+)"), (MATH, "boxed"), (MATH, r"boxed\{([^}]*)\}")],
)
def test_references_are_found_in_solutions(tmp_path, lines, pattern):
    path = save(tmp_path / "a.jsonl", "\n".join(lines))
    assert [problem.answer for problem in load(path, answer_pattern=pattern)] == ["0", "7", "14"]


def test_a_row_in_which_the_pattern_finds_nothing_cannot_be_used(tmp_path):
    path = save(tmp_path / "a.jsonl", "\n".join([*MATH, '{"problem": "none", "solution": "so \\\\boxed{}"}']))
    with pytest.raises(
        UnusableData, match=re.escape("a.jsonl:4: 'solution' holds no closed, filled \\boxed{}")
    ):
        load(path, answer_pattern="boxed")
    assert len(load(path, answer_pattern="boxed", drop_invalid=True)) == 3


@pytest.mark.parametrize("pattern", ["box", "####", "(a)(b)", "(", "gsm8K"])
def test_patterns_that_are_none_are_refused(pattern):
    with pytest.raises(ValueError, match="answer_pattern"):
        FileSource(source="file", path="a.jsonl", answer_pattern=pattern)


def hub(monkeypatch, rows, dataset="someone/some", **fields):
    made = datasets.Dataset.from_list(rows)
    monkeypatch.setattr("harness.data.hub.hub_fingerprint", lambda spec: "hub:x")
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: made)
    spec = HubSource(source="hub", dataset=dataset, **fields)
    return load_source(spec, split="test", count=None, seed=0)


def test_hub_datasets_follow_the_same_rules(monkeypatch):
    rows = [{"question": "q", "answer": "1"}, {"question": "r", "answer": None}]
    assert [p.answer for p in hub(monkeypatch, rows[:1])] == ["1"]
    with pytest.raises(UnusableData, match=r"someone/some: row 2: 'answer' must be .* got null"):
        hub(monkeypatch, rows)
    assert [p.row for p in hub(monkeypatch, rows, drop_invalid=True)] == [1]
    with pytest.raises(
        UnusableData, match=r"no column 'final' for `answer`; its columns: 'question', 'answer'"
    ):
        hub(monkeypatch, rows, answer="final")
    assert [p.answer for p in hub(monkeypatch, [json.loads(line) for line in GSM8K], "openai/gsm8k")] == [
        *("0", "7", "14")
    ]


def test_known_datasets_bring_their_columns_and_a_grid_overrides_them():
    gsm8k = HubSource(source="hub", dataset="openai/gsm8k")
    assert (gsm8k.question, gsm8k.answer, gsm8k.answer_pattern, gsm8k.config) == (
        *("question", "answer", "gsm8k", "main"),
    )
    assert HubSource(source="hub", dataset="openai/gsm8k", config="socratic").config == "socratic"
    assert HubSource(source="hub", dataset="openai/gsm8k", answer_pattern=None).answer_pattern is None
    assert HubSource(source="hub", dataset="openai/gsm8k", answer="final").answer_pattern is None
    math = HubSource(source="hub", dataset="DigitalLearningGmbH/MATH-lighteval")
    assert (math.question, math.answer, math.answer_pattern) == ("problem", "solution", "boxed")
    assert HubSource.model_validate(math.model_dump()) == math


def test_other_columns_are_kept_where_they_are_asked_for(tmp_path):
    rows = [{"question": "q", "answer": "so\n#### 1", "level": 3, "tags": ["a"], "rate": float("nan")}]
    path = save(tmp_path / "a.jsonl", json.dumps(rows[0]))
    spec = FileSource(source="file", path=str(path), answer_pattern="gsm8k")
    assert load_source(spec, split="test", count=None, seed=0)[0].columns == {}
    (problem,) = load_source(spec, split="test", count=None, seed=0, extra=True)
    assert problem.columns == {"answer": "so\n#### 1", "level": 3, "tags": ["a"]}
