"""Files of pytest-benchmark as another job left them: few of them, few rounds, broken ones, odd names."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from harness.regress import main
from harness.regression.benchmark_files import compare_files
from harness.regression.gate import Settings


def write(folder, *files, name="t", change=None):
    """A file of one benchmark for each list of seconds."""
    folder.mkdir(exist_ok=True)
    for number, seconds in enumerate(files):
        stats = {
            "median": float(np.median(seconds)),
            "iqr": 0.0,
            "stddev": float(np.std(seconds)),
            "rounds": len(seconds),
            "data": list(seconds),
        }
        data = {
            "machine_info": {"cpu": {"brand_raw": "A CPU", "count": 2}, "node": "n"},
            "benchmarks": [{"fullname": name, "stats": stats}],
        }
        if change:
            change(data)
        (folder / f"{number:04d}.json").write_text(json.dumps(data))
    return folder


def drawn(rng, files, factor=1.0, job_sd=0.0, rounds=40):
    return [factor * 1e-3 * np.exp(rng.normal(0, job_sd) + rng.normal(0, 0.01, rounds)) for _ in range(files)]


def compared(baseline, candidate):
    (finding,), _ = compare_files(baseline, candidate, Settings())
    return finding


@pytest.mark.parametrize("files", [2, 3, 5, 6])
def test_jobs_of_the_same_code_are_hardly_ever_worse(tmp_path, files):
    rng = np.random.default_rng(files)
    found = []
    for number in range(60):
        sides = [write(tmp_path / f"{number}{side}", *drawn(rng, files, job_sd=0.03)) for side in "ab"]
        found.append(compared(*sides).comparison.decision)
    assert "worse" not in found
    assert found.count("fine") > 40


@pytest.mark.parametrize("files", [1, 2, 5, 6])
def test_jobs_of_slower_code_are_worse(tmp_path, files):
    rng = np.random.default_rng(0)
    baseline, candidate = drawn(rng, files), drawn(rng, files, 1.2)
    finding = compared(write(tmp_path / "a", *baseline), write(tmp_path / "b", *candidate))
    assert finding.comparison.decision == "worse"
    assert finding.comparison.ratio == pytest.approx(1.2, rel=0.02)
    assert finding.comparison.level >= 0.95


def test_one_round_decides_nothing(tmp_path):
    def bare(data):
        del data["benchmarks"][0]["stats"]["data"]

    for change in (None, bare):
        for rounds, decision in ((1, "ambiguous"), (2, "worse"), (5, "worse"), (6, "worse")):
            sides = [
                write(tmp_path / name, [seconds] * rounds, change=change)
                for name, seconds in (("a", 1.0), ("b", 1.5))
            ]
            finding = compared(*sides)
            assert finding.comparison.decision == decision
            assert (finding.comparison.level < 0.95) == ("too few rounds" in finding.note)


def _stats(**values):
    return lambda data: data["benchmarks"][0]["stats"].update(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_stats(data=[0.0] * 9), "t: seconds must be > 0"),
        (_stats(data=[], median=0.0), "t: seconds must be > 0"),
        (_stats(data=[1.0, float("nan")]), "t: seconds must be > 0"),
        (_stats(data=[], iqr=None), "NoneType"),
        (lambda data: data["benchmarks"][0].pop("fullname"), "fullname"),
        (lambda data: data["benchmarks"].append({"fullname": "x"}), "stats"),
        (lambda data: data["benchmarks"].append(data["benchmarks"][0]), "t: given twice"),
        (lambda data: data["machine_info"].update(cpu="Intel"), "no attribute"),
        (lambda data: data["benchmarks"].clear(), "no benchmark"),
    ],
)
def test_a_broken_file_is_wrong_input(tmp_path, capsys, change, words):
    good = write(tmp_path / "a", [1.0] * 9)
    bad = write(tmp_path / "b", [1.0] * 9, change=change)
    assert main(["--baseline", str(good), "--candidate", str(bad), "--quiet"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "0000.json: is no file of pytest-benchmark" in said[0]
    assert words in said[0]


def test_any_name_is_written(tmp_path, capfd):
    side = write(tmp_path / "a", [1.0] * 9, name="t\ufffe\x00\ud800[a|b]")
    out = tmp_path / "out"
    assert main(["--baseline", str(side), "--candidate", str(side), "--quiet", "--out", str(out)]) == 0
    assert "t���[a\\|b]" in capfd.readouterr().out
    assert ET.parse(out / "junit.xml").getroot().find(".//testcase").get("name") == "t���[a|b]"


def test_an_older_answer_does_not_stay_beside_none(tmp_path, monkeypatch):
    side, out = write(tmp_path / "a", [1.0] * 9), tmp_path / "out"
    arguments = ["--baseline", str(side), "--candidate", str(side), "--quiet", "--out", str(out)]
    assert main(arguments) == 0
    assert sorted(p.name for p in out.iterdir()) == ["junit.xml", "regress.json", "regress.md"]
    assert main([*arguments, "--blocks", "0"]) == 2
    assert [p.name for p in out.iterdir()] == ["junit.xml"]
    monkeypatch.setattr("harness.regression.benchmark_files.compare_files", lambda *_: 1 / 0)
    assert main(arguments) == 4
    assert not list(out.iterdir())
