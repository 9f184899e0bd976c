"""The commands' contract: help at once, exit codes, and bad input in one or two lines with nothing written."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import ablate, plan

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "ablations" / "quickstart.yaml"
COMMANDS = sorted(
    p.stem for p in (ROOT / "harness").glob("*.py") if p.stem != "__init__" and "def main" in p.read_text()
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_quick(command):
    """Under half a second of processor time: the wall clock of a busy machine says nothing."""
    seconds = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-m", f"harness.{command}", "--help"], cwd=ROOT, capture_output=True, text=True
        )
        after = os.times()
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"usage: python -m harness.{command}")
        seconds.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    assert min(seconds) < 0.5


def edited(tmp_path, old, new):
    text = QUICKSTART.read_text()
    assert old in text, old
    file = tmp_path / "grid.yaml"
    file.write_text(text.replace(old, new, 1))
    return file, 1 + text[: text.index(old)].count("\n") + (len(old) - len(old.lstrip("\n")))


BAD = {
    "unknown key": ("\nverdict:", "\nverdikt:", r"verdikt: unknown key.*\n  did you mean \"verdict\"\?"),
    "wrong type": ("prompts_per_step: 32", "prompts_per_step: many", r"must be a whole number, got 'many'"),
    "empty axis": ("steps: {training.steps: [10, 25, 50]}", "steps: {}", r"axes\.steps: has no levels"),
    "no such model": ("model: tiny ", "model: tyni ", r"base\.model\.name: .*'tyni'"),
    "no such model folder": ("model: tiny ", "model: ./models/none ", r"base\.model\.name: .*none"),
    "no such data": (
        "- {source: sums, terms: [2, 3, 4], digits: [1, 2]}",
        "- {source: file, path: nowhere.jsonl}",
        r"base\.data\.sources\[0\]: .*nowhere\.jsonl",
    ),
    "no such engine": (
        "    temperature: 1.0",
        "    engine: vlm",
        r"base\.rollout\.engine: 'vlm' is not one of transformers, vllm.*\n  did you mean \"vllm\"\?",
    ),
    "more questions than there are": (
        "questions: 150, source: {source: sums, terms: [2], digits: [2]}",
        "questions: 15000, source: {source: sums, terms: [2], digits: [1]}",
        r"evaluate\.benchmarks\[0\]\.source: .*asks for 15000 questions, its source has \d+",
    ),
    "no such benchmark data": (
        "source: {source: sums, terms: [3], digits: [2]}",
        "source: {source: file, path: nowhere.parquet}",
        r"evaluate\.benchmarks\[1\]\.source: .*nowhere\.parquet",
    ),
    "cap beyond the context": (
        "length_cap: {rollout.max_completion_tokens: [48, 20]}",
        "length_cap: {rollout.max_completion_tokens: [48, 200000]}",
        r"axes\.length_cap\.200000: rollout\.max_completion_tokens: .*beyond the \d+ of tiny\n  lower ",
    ),
    "evaluation beyond the context": (
        "max_completion_tokens: 64 ",
        "max_completion_tokens: 640000 ",
        r"evaluate\.max_completion_tokens: .*beyond the \d+ of tiny\n  lower ",
    ),
    "duplicate values": ("[10, 25, 50]", "[10, 25, 25]", r"level '25' stands twice"),
    "duplicate names": ("    mixed: {}\n", "    easy: {}\n", r"duplicate key"),
    "unknown reward": (
        "- {name: cosine, weight: 1.0}",
        "- {name: cosinus, weight: 1.0}",
        r"axes\.reward\.cosine: reward\.functions\[0\]: .*cosinus",
    ),
}


def lines_of(error):
    assert "Traceback" not in error
    return error.strip().splitlines()


@pytest.mark.parametrize("case", BAD)
def test_bad_grids_end_in_two_lines(case, tmp_path, capsys):
    old, new, message = BAD[case]
    file, line = edited(tmp_path, old, new)
    if case == "duplicate names":
        line += 1  # the second of the two is the one too many
    out = tmp_path / "out"
    for main in (ablate.main, plan.main):
        assert main(["--grid", str(file), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert 1 <= len(lines_of(error)) <= 2, error
        assert f"{file}:{line}: " in error
        assert re.search(message, error), error
    assert not out.exists()


@pytest.mark.parametrize(
    ("new", "installed", "message"),
    [
        ("    engine: vllm", False, r"rollout\.engine: vllm is not installed here\n  install it"),
        (
            "    engine: vllm\n    temperature: 2.5",
            True,
            r"rollout\.temperature: vLLM samples at 2 at most",
        ),
    ],
)
def test_what_vllm_cannot_do_is_told_before_anything_runs(
    new, installed, message, tmp_path, monkeypatch, capsys
):
    found = importlib.util.find_spec
    there = found("json") if installed else None
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: there if name == "vllm" else found(name, *a)
    )
    file, _ = edited(tmp_path, "    temperature: 1.0", new)
    assert ablate.main(["--grid", str(file), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert len(lines_of(error)) == 2, error
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_default_output_and_its_foreign_content(tmp_path, monkeypatch, capsys):
    """Without --out the folder follows from the grid's name, so an error about it points there."""
    monkeypatch.chdir(tmp_path)
    foreign = tmp_path / "results" / "runs" / "quickstart"
    foreign.mkdir(parents=True)
    (foreign / "thesis.tex").write_text("precious")
    assert ablate.main(["--grid", str(QUICKSTART)]) == 2
    error = capsys.readouterr().err
    assert f"{QUICKSTART}:2: name: output folder results/runs/quickstart: holds something else" in error
    assert [p.name for p in foreign.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda out: out.write_text("a file"), "is not a folder"),
        (lambda out: (out.mkdir(), (out / "x").touch()), "holds something else than results"),
        (
            lambda out: (
                out.mkdir(),
                (out / "grid.resolved.json").write_text('{"schema": 1, "name": "other"}'),
            ),
            "holds the results of grid 'other', not 'quickstart'",
        ),
        (
            lambda out: (out.mkdir(), (out / "grid.resolved.json").write_text('{"schema": 99}')),
            "has schema 99",
        ),
    ],
)
def test_an_output_folder_that_will_not_do(tmp_path, capsys, make, message):
    out = tmp_path / "out"
    make(out)
    before = [p.name for p in tmp_path.rglob("*")]
    assert ablate.main(["--grid", str(QUICKSTART), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(lines_of(error)) <= 2
    assert [p.name for p in tmp_path.rglob("*")] == before


def test_a_folder_below_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert ablate.main(["--grid", str(QUICKSTART), "--out", str(tmp_path / "file" / "out")]) == 2
    assert f"{tmp_path / 'file'} is not a folder" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path, capsys):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    assert ablate.main(["--grid", str(QUICKSTART), "--out", str(locked / "out")]) == 2
    assert f"cannot write in {locked}" in capsys.readouterr().err


def test_a_file_system_that_takes_no_folder(capsys):
    """/proc passes every permission check of root, and still makes no folder."""
    assert ablate.main(["--grid", str(QUICKSTART), "--out", "/proc/harness-out"]) == 2
    assert len(lines_of(capsys.readouterr().err)) <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers: must be > 0, got 0"),
        (["--budget-usd", "-1"], "--budget-usd: must be > 0, got -1"),
    ],
)
def test_bad_options(tmp_path, capsys, arguments, message):
    assert ablate.main(["--grid", str(QUICKSTART), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, capsys):
    assert ablate.main(["--grid", str(QUICKSTART), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    text = capsys.readouterr().out
    for part in (
        "24 cells from 8 runs",
        "checkpoints of 8 runs",
        "estimate:",
        "assumes:",
        "detectable effect",
    ):
        assert part in text
    assert not (tmp_path / "out").exists()


def test_plan_takes_seconds_and_no_torch(tmp_path):
    start = time.monotonic()
    code = (
        "import sys; from harness import plan; "
        f"code = plan.main(['--grid', {str(QUICKSTART)!r}, '--out', {str(tmp_path / 'out')!r}]); "
        "loaded = {'torch', 'triton', 'transformers'} & set(sys.modules); print(loaded); "
        "sys.exit(code or bool(loaded))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
    assert time.monotonic() - start < 60


def test_a_failure_of_the_harness_itself(tmp_path, capsys, monkeypatch):
    """Exit code 4, the traceback in a file, not on the screen."""

    def broken(*_, **__):
        raise RuntimeError("disk on fire\nsecond line")

    monkeypatch.setattr("harness.matrix.execution.run_matrix.make_plan", broken)
    (tmp_path / "out").mkdir()
    assert ablate.main(["--grid", str(QUICKSTART), "--out", str(tmp_path / "out")]) == 4
    error = capsys.readouterr().err
    assert lines_of(error) == [
        "error: the harness failed: RuntimeError: disk on fire",
        f"  see {tmp_path / 'out' / 'error.log'}",
    ]
    assert "second line" in (tmp_path / "out" / "error.log").read_text()
