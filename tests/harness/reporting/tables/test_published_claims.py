"""The published Open-RS numbers through our statistics: what they support and what they do not."""

import csv
import json
from pathlib import Path

import pytest

from harness.report import main

ROOT = Path(__file__).resolve().parents[4]
PUBLISHED = ROOT / "ablations" / "open_rs" / "published"
COMMITTED = ROOT / "results" / "studies" / "open-rs-published"


@pytest.fixture(scope="module")
def replayed(tmp_path_factory):
    out = tmp_path_factory.mktemp("published") / "open-rs-published"
    checkpoints, claims = str(PUBLISHED / "checkpoints.csv"), str(PUBLISHED / "claims.json")
    assert main(["--external", checkpoints, "--claims", claims, "--out", str(out), "--quiet"]) == 0
    return out


def _read(out, name):
    with (out / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_small_benchmarks_say_nothing(replayed):
    rows = [r for r in _read(replayed, "verdicts") if r["benchmark"] in ("aime24", "amc23")]
    assert len(rows) > 10
    assert {r["verdict"] for r in rows} == {"inconclusive"}
    told = [r["detectable_effect"] for r in rows]
    assert all(not v or float(v) > 0.1 for v in told), (
        "what could have been found is told, if it is possible at all"
    )
    assert sum(map(bool, told)) > len(told) / 2


def test_three_runs_give_no_verdict_between_experiments_or_lengths(replayed):
    rows = [r for r in _read(replayed, "verdicts") if r["family"] != "trajectory"]
    assert all(int(r["df"]) < 3 and r["verdict"] == "inconclusive" for r in rows)


def test_late_degradation_on_math500(replayed):
    rows = {(r["benchmark"], r["scope"]): r for r in _read(replayed, "trajectories")}
    first = rows["math500", "experiment=1"]
    assert first["degrades"] == "yes"
    assert (first["peak_step"], first["change_step"]) == ("100", "100")
    assert float(first["decline"]) == pytest.approx(-0.045)
    assert float(first["p_adjusted"]) < 0.05
    assert rows["math500", "experiment=2"]["change_step"] == "150"
    assert all(r["degrades"] != "yes" for (b, _), r in rows.items() if b in ("aime24", "amc23"))
    row = next(
        r for r in _read(replayed, "verdicts") if r["family"] == "trajectory" and r["baseline"] == "experiment=1: 100"
        and r["benchmark"] == "math500"
    )  # fmt: skip
    assert row["verdict"] == "declines"


def test_headlines_are_what_luck_gives(replayed):
    rows = {r["benchmark"]: r for r in _read(replayed, "best")}
    for benchmark, best, expected in (("aime24", 0.467, 0.46), ("amc23", 0.80, 0.81)):
        row = rows[benchmark]
        assert row["checkpoints"] == "21"
        assert float(row["best_accuracy"]) == pytest.approx(best)
        assert float(row["expected_best"]) == pytest.approx(expected, abs=0.01)
        assert row["reading"] == "within what chance gives"
    page = (replayed / "report.html").read_text(encoding="utf-8")
    assert "the best of 21 checkpoints scores 46.7 %" in page
    assert page.index("within what chance gives") < page.index("Effects and verdicts"), "told in the opening"


def test_claims(replayed):
    readings = {r["claim"]: r["reading"] for r in _read(replayed, "claims")}
    assert readings["AIME24 reaches 46.7 % (Open-RS3, step 50)"] == "within what chance gives"
    assert readings["AMC23 reaches 80 % (Open-RS2, step 50)"] == "within what chance gives"
    assert readings["Experiment 1 degrades late in training: MATH-500"] == "supported"
    assert readings["Experiment 1 degrades late in training: AIME24"] == "can't tell"
    assert readings["Experiment 1 degrades late in training: AMC23"] == "can't tell"
    chosen = next(v for k, v in readings.items() if k.startswith("Open-RS3 raises the average"))
    assert chosen == "can't tell", "the best of 21 checkpoints against a baseline"
    assert sum(v == "supported" for v in readings.values()) == 4


def test_the_committed_report_is_this_one(replayed):
    for name in ("verdicts", "trajectories", "best", "claims"):
        assert _read(replayed, name) == _read(COMMITTED, name)
    data = json.loads((COMMITTED / "report.json").read_text(encoding="utf-8"))
    assert data["answer"]["works"] == []
