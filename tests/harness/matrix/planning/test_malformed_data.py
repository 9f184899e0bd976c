"""Malformed data files through lint and plan: told in a few lines, or read; never a failure of the harness."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import random

import pytest

from harness import ablate, lint, plan

GRID = """\
name: g
question: q?
base:
  model: tiny
  data: {{size: 20, sources: [{{source: file, path: {path}{fields}}}]}}
  reward: {{functions: [{{name: accuracy}}]}}
  training: {{steps: 2}}
evaluate:
  benchmarks: [{{name: held, source: {{source: {bench}}}}}]
"""
CELLS = (
    *(
        "4",
        "",
        " ",
        "nan",
        "\\boxed{4}",
        "so\n#### 4",
        "a, b",
        '"',
        "x\u2028y",
        "\ufeff",
        "\x00",
        "é",
        "'",
        "-0",
        "1e5",
    ),
    *(None, True, 7, 2**70, 0.1, float("nan"), float("inf"), -0.0, [1], {"a": 1}, "word " * 400, "9" * 5000),
)
NAMES = ("question", "answer", "problem", "solution", "Answer", "level", "", " answer")


def malformed(rng):
    """Content and suffix of a file that is not as it should be."""
    columns = [
        rng.choice(["question", "problem", "prompt"]),
        rng.choice(["answer", "solution", "final_answer"]),
    ]
    if rng.random() < 0.3:
        columns.append(rng.choice(NAMES))
    rows = []
    for number in range(rng.choice([0, 1, 2, 8])):
        row = {column: rng.choice(CELLS) if rng.random() < 0.4 else f"{number}+1" for column in columns}
        if rng.random() < 0.1:
            del row[rng.choice(list(row))]
        rows.append(row)
    suffix = rng.choice([".jsonl", ".json", ".csv"])
    if suffix == ".csv":
        quote = (lambda cell: json.dumps(str(cell))) if rng.random() < 0.5 else str
        lines = [",".join(columns), *(",".join(quote(cell) for cell in row.values()) for row in rows)]
    elif rng.random() < 0.3:
        lines = [json.dumps(rows, indent=rng.choice([None, 1]), ensure_ascii=rng.random() < 0.5)]
    else:
        lines = [json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows]
    data = bytearray(rng.choice(["\n", "\r\n", "\r", "\n\n"]).join(lines).encode())
    for _ in range(rng.choice([0, 0, 1, 5])):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    content = bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.15 else data)
    if rng.random() < 0.15:
        packed = gzip.compress(content)
        return packed[: rng.choice([len(packed), len(packed) // 2])], suffix + rng.choice([".gz", ""])
    return content, suffix


def told(command, arguments):
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = command.main(arguments)
    return code, out.getvalue(), error.getvalue()


def check(folder, seed):
    rng = random.Random(seed)
    content, suffix = malformed(rng)
    path, grid = folder / f"rows{seed}{suffix}", folder / f"grid{seed}.yaml"
    path.write_bytes(content)
    fields = rng.choice(["", "", ", drop_invalid: true", ", answer_pattern: boxed", ", answer: answer"])
    bench = rng.choice(["sums, terms: [2], digits: [1]", f"file, path: {path}{fields}"])
    grid.write_text(GRID.format(path=path, fields=fields, bench=bench))
    codes = []
    for command, arguments in (
        (lint, [str(grid)]),
        (plan, ["--grid", str(grid), "--out", str(folder / "out")]),
    ):
        code, _, error = told(command, arguments)
        assert code in (0, 1, 2), (seed, error)
        assert len(error.splitlines()) <= 3, (seed, error)
        assert code != 2 or str(grid) in error, (seed, error)
        codes.append(code)
    # What the plan accepts, the linter can read.
    assert codes[1] != 0 or codes[0] != 2, (seed, codes)


def planned(tmp_path, rows, fields="", command=plan, waive=""):
    path, grid = tmp_path / "rows.jsonl", tmp_path / "grid.yaml"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bench = "sums, terms: [2], digits: [1]"
    grid.write_text(GRID.format(path=path, fields=fields, bench=bench) + waive)
    dry = ["--dry-run"] if command is ablate else []
    code, out, error = told(command, ["--grid", str(grid), "--out", str(tmp_path / "out"), *dry])
    assert not (tmp_path / "out").exists()
    return code, out, error


SOLVED = [{"question": f"{i} boxes?", "answer": f"7*{i}=<<7*{i}={7 * i}>>\n#### {7 * i}"} for i in range(8)]


@pytest.mark.parametrize("command", [plan, ablate])
def test_what_no_answer_can_equal_is_refused_before_anything_runs(tmp_path, command):
    code, _, error = planned(tmp_path, SOLVED, command=command)
    assert code == 2
    assert (
        "grid.yaml:5: base.data.sources[0]: 8 of 8 references in column 'answer' are whole solutions" in error
    )
    assert "set `answer_pattern: gsm8k`" in error
    assert planned(tmp_path, SOLVED, ", answer_pattern: gsm8k", command)[0] == 0


def test_the_plan_says_what_is_waived_and_what_is_dropped(tmp_path):
    waive = "lint: {waive: {gold-solution: the reward reads the solutions itself}}\n"
    code, out, _ = planned(tmp_path, SOLVED, waive=waive)
    assert code == 0
    assert "8 of 8 references in column 'answer' are whole solutions" in " ".join(out.split())
    rows = [{"question": "1+1=", "answer": 2}, {"question": "2+2="}]
    code, _, error = planned(tmp_path, rows)
    assert code == 2
    assert "rows.jsonl:2: has no 'answer'\n  mend what is wrong there, or drop" in error
    code, out, _ = planned(tmp_path, rows, ", drop_invalid: true")
    assert code == 0
    assert "1 of 2 rows are dropped: 1 × has no 'answer' (line 2)" in " ".join(out.split())


@pytest.mark.parametrize("seeds", [range(6), range(6, 12)])
def test_malformed_files_are_told(tmp_path, seeds):
    for seed in seeds:
        check(tmp_path, seed)


@pytest.mark.slow
def test_many_malformed_files_are_told(tmp_path):
    for seed in range(12, 200):
        check(tmp_path, seed)
