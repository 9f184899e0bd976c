import csv
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pandas as pd
import pytest

from harness.report import main
from harness.reporting import build
from harness.reporting.analysis.analysis import analyse
from harness.store.schema import load
from harness.store.study import load_study

from ..examples import rewrite

SMALL = {"benchmarks": {"easy": 60, "hard": 40}, "steps": (4, 8), "samples": 2}
EFFECTS = {("length_cap", "32"): 0.12, ("reward", "cosine"): -0.12}
HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)> | `*_ \\boxed{7}"


@pytest.fixture(scope="module")
def planted(study_at, tmp_path_factory):
    """A finished study with one helping, one hurting and one idle axis, hostile completions, and its report."""
    out = study_at(
        tmp_path_factory.mktemp("study") / "planted", effects=EFFECTS, text=HOSTILE, failed=(4,), seeds=(0, 1)
    )
    build(out, echo=False)
    return out


def _read(out, name):
    with (out / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_accuracy_table(planted):
    rows = _read(planted, "accuracy")
    head = list(rows[0])
    axes = ["data", "length_cap", "reward", "steps"]
    fixed = ["seed", "step", "benchmark", "questions", "samples", "accuracy", "ci_low", "ci_high", "run"]
    assert head[: len(axes) + len(fixed)] == [*axes, *fixed]
    base = [r for r in rows if r["step"] == "0"]
    assert [r["benchmark"] for r in base] == ["easy", "medium", "hard"]
    assert all(r[c] == "" for r in base for c in [*axes, "seed", "gain"])
    assert len(rows) == 3 + 16 * 3 * 3
    records = {
        (e["run"], e["step"], e["benchmark"]): e for e in load_study(planted).evaluations.to_dict("records")
    }
    missing = [r for r in rows if r["accuracy"] == ""]
    assert len(missing) == 9, "the failed run's cells are there, empty"
    for row in rows:
        if row not in missing:
            record = records[row["run"], int(row["step"]), row["benchmark"]]
            assert float(row["accuracy"]) == pytest.approx(record["accuracy"], abs=1e-6)
            assert float(row["ci_low"]) < float(row["accuracy"]) < float(row["ci_high"])
            assert int(row["questions"]) == 200


def test_verdicts_find_what_was_planted(planted):
    rows = _read(planted, "verdicts")
    assert list(rows[0])[:13] == [
        "metric",
        "benchmark",
        "axis",
        "level",
        "baseline",
        "effect",
        "ci_low",
        "ci_high",
        "p_adjusted",
        "verdict",
        "detectable_effect",
        "runs",
        "df",
    ]
    found = {
        (r["axis"], r["level"]): r for r in rows if r["metric"] == "accuracy" and r["benchmark"] == "all"
    }
    assert found["length_cap", "32"]["verdict"] == "works"
    assert found["reward", "cosine"]["verdict"] == "hurts"
    assert found["data", "mixed"]["verdict"] in ("no meaningful effect", "inconclusive")
    assert found["steps", "40"]["verdict"] == "works"
    assert found["steps", "40"]["df"] == "14", "paired within the 15 runs that finished"
    assert found["data", "mixed"]["df"] == "10", "15 runs, 3 axes, 2 seeds"
    for (axis, level), planted_effect in EFFECTS.items():
        row = found[axis, level]
        assert float(row["ci_low"]) < planted_effect < float(row["ci_high"])
    speed = {(r["metric"], r["axis"]): r for r in rows if r["benchmark"] == ""}
    assert speed["step_seconds", "length_cap"]["verdict"] == "hurts"
    assert float(speed["step_seconds", "length_cap"]["effect"]) == pytest.approx(1.52 / 1.40 - 1, abs=0.02)
    assert speed["step_seconds", "reward"]["verdict"] == "no meaningful effect"
    assert float(speed["training_cost_usd", "steps"]["effect"]) > 0.9


def test_cost_adds_up(planted):
    rows = _read(planted, "cost")
    *runs, total = rows
    parts = ("training_usd", "evaluation_usd", "other_usd", "failed_usd", "idle_usd")
    for row in runs:
        assert sum(float(row[p]) for p in parts) == pytest.approx(float(row["cost_usd"]), rel=1e-4)
        assert float(row["cost_usd"]) == pytest.approx(float(row["device_seconds"]) * 0.05 / 3600, rel=1e-4)
    assert float(total["cost_usd"]) == pytest.approx(sum(float(r["cost_usd"]) for r in runs), rel=1e-4)
    failed = next(r for r in runs if r["status"] == "failed")
    assert float(failed["evaluation_usd"]) == 0


def test_throughput_and_memory(planted):
    study = load_study(planted)
    row = _read(planted, "throughput")[0]
    steps = study.steps[study.steps["run"] == row["run"]]
    rate = steps["tokens.completion"].sum() / steps["timing.seconds.rollout"].sum()
    assert float(row["rollout_tokens_per_second"]) == pytest.approx(rate, rel=1e-5)
    assert row["mfu"] == ""
    assert float(row["step_seconds"]) == pytest.approx(steps["timing.total_seconds"].mean(), rel=1e-5)
    memory = [r for r in _read(planted, "memory") if r["run"] == row["run"]]
    assert [r["phase"] for r in memory] == ["rollout", "logprob", "update", "evaluation"]
    assert all(r["allocated_gib"] == "" and float(r["resident_gib"]) > 0 for r in memory)
    text = (planted / "tables" / "throughput.md").read_text()
    assert "MFU" in text.split("Not measured in these runs:")[1]


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]
        assert not any(k.startswith("on") for k, _ in attrs)


def test_page_is_one_offline_file_that_shows_and_does_not_execute(planted):
    page = (planted / "report.html").read_text(encoding="utf-8")
    parsed = _Page()
    parsed.feed(page)
    assert "script" not in parsed.tags
    assert "img" not in parsed.tags
    assert all(link.startswith(("#", "data:")) for link in parsed.links)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "loss is &lt;b&gt;NaN&lt;/b&gt;" in page
    assert not re.findall(r"https?://(?!www\.w3\.org/)", page)
    assert page.index("Works") < page.index("Effects and verdicts")
    assert "#0bad" not in page, "every stand-in colour became a CSS variable"
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_markdown_and_figures(planted):
    text = (planted / "report.md").read_text(encoding="utf-8")
    assert "<b>" not in text
    assert "length_cap = 32 (against 16)" in text
    figures = re.findall(r"\(figures/([^)]+)\)", text)
    assert {"effects.svg", "pareto.svg", "time.svg", "memory.svg", "curves-1.svg"} <= set(figures)
    for name in figures:
        root = ET.parse(planted / "figures" / name).getroot()
        assert root.tag.endswith("svg")


@pytest.mark.usefixtures("without_figures")
def test_equal_experiments_give_equal_bytes(study_at, tmp_path):
    texts = []
    for name in ("a", "b"):
        out = study_at(tmp_path / name / "study", **SMALL)
        build(out, echo=False)
        texts.append((out / "tables" / "accuracy.csv").read_bytes())
    assert texts[0] == texts[1]


def test_a_null_study_stays_quiet(study_at, tmp_path):
    for entropy in range(3):
        out = study_at(tmp_path / str(entropy), **SMALL, gain=0.0, entropy=entropy)
        primary = analyse(load_study(out)).primary()
        assert all(j.verdict in ("inconclusive", "no meaningful effect") for j in primary)


@pytest.mark.usefixtures("without_figures")
def test_one_run_says_what_it_would_take(study_at, tmp_path, capsys):
    out = study_at(tmp_path / "one", **{**SMALL, "axes": {}})
    build(out)
    text = " ".join(capsys.readouterr().out.split())
    assert "1 run leaves 0 degrees of freedom, and no verdict is given below 3" in text
    assert {r["verdict"] for r in _read(out, "verdicts") if r["metric"] == "accuracy"} == {"inconclusive"}


def test_before_anything_ran(study_at, tmp_path, capsys):
    out = study_at(tmp_path / "planned", **SMALL)
    for folder in (out / "runs").iterdir():
        for file in sorted(folder.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
    build(out)
    text = " ".join(capsys.readouterr().out.split())
    assert "9 of 9 runs are not finished (9 pending)" in text
    assert "no checkpoint has been evaluated yet" in text
    assert (out / "report.html").exists()


def test_interactions_that_were_declared(study_at, tmp_path):
    out = study_at(tmp_path / "interactions", **SMALL)
    file = out / "grid.resolved.json"
    verdict = load("output", file)["verdict"]
    rewrite(
        "output",
        file,
        {"verdict": {**verdict, "interactions": [["data", "reward"], ["length_cap", "steps"]]}},
    )
    analysis = analyse(load_study(out))
    found = {(j.axis, j.level): j for j in analysis.primary()}
    assert found["data×reward", "mixed×cosine"].df == 3
    assert found["length_cap×steps", "32×8"].df == 4
    accuracy = pd.DataFrame(
        [(r, s, v.estimate) for (r, s, b), v in analysis.accuracy.items() if b == "all"],
        columns=["run", "step", "y"],
    )
    cells = analysis.study.cells.merge(accuracy, on=["run", "step"])
    means = cells.groupby(["length_cap", "steps"])["y"].mean()
    expected = means["32", "8"] - means["32", "4"] - means["16", "8"] + means["16", "4"]
    assert found["length_cap×steps", "32×8"].effect == pytest.approx(expected)


@pytest.mark.usefixtures("without_figures")
def test_command(planted, tmp_path, capsys):
    shutil.copytree(planted, tmp_path / "planted")
    assert main([str(tmp_path / "planted"), "--quiet"]) == 1, "one run failed"
    assert main([str(tmp_path / "nowhere")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) <= 2
    assert "nowhere" in said[0]


def test_samples_that_cannot_be_read_cost_their_own_run(study_at, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("harness.reporting.report.draw", lambda *_: [])
    out = study_at(tmp_path / "study", **SMALL)
    build(out, echo=False)
    calm = _read(out, "accuracy")
    damaged = sorted(out.glob("runs/*/evaluations/*.parquet"))[0]
    damaged.write_bytes(b"PAR1xx")
    run = damaged.parts[-3]
    assert main([str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{damaged.name}: was changed since it was written: its checksum differs" in said
    assert f"`python -m harness.ablate --grid GRID --out {out}` makes again what was damaged" in said
    there = [row for row in _read(out, "accuracy") if row["run"] != run]
    assert there == [row for row in calm if row["run"] != run]
    assert not any(row["accuracy"] for row in _read(out, "accuracy") if row["run"] == run)


def test_the_harness_failing_is_no_failed_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("harness.reporting.report.write_report", lambda _: 1 / 0)
    assert main([str(tmp_path)]) == 4
    said = capsys.readouterr().err.strip().splitlines()
    assert "the harness failed: ZeroDivisionError" in said[0]
    assert len(said) == 2


def test_reporting_and_statistics_load_no_torch():
    code = (
        "import sys, harness.reporting.report, harness.reporting.figures.learning_curves, harness.stats.verdicts\n"
        "print([m for m in ('torch', 'triton', 'transformers', 'matplotlib', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.usefixtures("without_figures")
def test_one_run_is_told_with_its_interval_and_without_a_verdict(study_at, tmp_path):
    out = study_at(tmp_path / "study", **SMALL, axes={"length_cap": ("16",)}, seeds=(0,))
    build(out, echo=False)
    (row,) = [r for r in _read(out, "verdicts") if (r["family"], r["benchmark"]) == ("training", "all")]
    assert row["verdict"] == "inconclusive"
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "The one run ends " in text
    assert "what another seed would give it cannot say" in text
    assert "Whether training helps" not in text
