"""The paragraph on the best cell of the grid: in words, in JSON, and where nothing can be told."""

import json

import numpy as np
import pytest

from harness.reporting import build
from harness.reporting.analysis.analysis import analyse
from harness.reporting.text.conclusions import best_cell_text
from harness.stats.bestof import expected_normal_maximum
from harness.store.study import load_study

SMALL = {"benchmarks": {"easy": 60, "hard": 40}, "steps": (4, 8), "samples": 2}
TWO = {"length_cap": ("16", "32"), "reward": ("accuracy", "cosine")}
PLANTED = {("length_cap", "32"): 0.15, ("reward", "cosine"): 0.1}


@pytest.fixture(scope="module")
def seeded(study_at, tmp_path_factory):
    """Four cells with three seeds, two lengths; one of the four is the best by far."""
    out = study_at(
        tmp_path_factory.mktemp("best") / "study",
        **{**SMALL, "benchmarks": {"easy": 150, "hard": 150}},
        axes=TWO,
        seeds=(0, 1, 2),
        effects=PLANTED,
    )
    build(out, echo=False)
    return out


def test_a_planted_best_cell(seeded):
    analysis = analyse(load_study(seeded))
    best = analysis.best
    assert (best.levels["length_cap"], best.levels["reward"], best.levels["steps"]) == ("32", "cosine", "8")
    assert (best.runs, best.luck.checkpoints, best.luck_of, best.reason) == (3, 8, "runs", "")
    assert best.p_value < 0.05
    assert best.baseline_p_value < 0.05
    assert best.baseline_lead == pytest.approx(0.25, abs=0.05)
    assert best.luck.best > best.luck.upper
    scores = _scores(analysis)
    own = scores.pop(("32", "cosine", 8))
    others = [v for (_, _, step), values in scores.items() if step == 8 for v in values]
    assert best.luck.best == pytest.approx(np.mean(own))
    assert best.lead == pytest.approx(np.mean(own) - np.mean(others))
    assert best.corrected.left_out == "runs"
    assert best.corrected.accuracy == pytest.approx(np.mean(own)), "whoever is left out, the others choose it"


def test_words_and_json(seeded):
    said = json.loads((seeded / "report.json").read_text(encoding="utf-8"))["best_cell"]
    assert said["p_value"] < 0.05
    assert said["luck"]["checkpoints"] == 8
    assert said["text"].startswith("length_cap = 32, reward = cosine, steps = 8 scores ")
    assert "9,999 permutations of runs within seeds): above what chance gives" in said["text"]
    assert "Against the baseline cell: +2" in said["text"]
    for name in ("report.html", "report.md"):
        page = (seeded / name).read_text(encoding="utf-8")
        assert page.count("Best cell of the grid") == 1
        assert "after the search for the best" in page


def test_one_run_per_cell_says_that_it_cannot_tell(study_at, tmp_path):
    out = study_at(tmp_path / "one", **SMALL, axes=TWO, effects=PLANTED)
    analysis = analyse(load_study(out))
    best = analysis.best
    assert best.p_value is None
    assert best.baseline_p_value is None
    assert best.luck == analysis.best_of_checks[-1].result, (
        "one definition of luck where runs are not repeated"
    )
    assert (best.luck_of, best.corrected.left_out) == ("answers", "questions")
    text = best_cell_text(analysis)
    assert "cannot be told: one run per cell leaves nothing to tell a cell from the luck of its run" in text
    assert ", p = " not in text


def test_two_runs_of_two_cells_are_too_few(study_at, tmp_path):
    out = study_at(tmp_path / "few", **SMALL, axes={"reward": ("accuracy", "cosine")}, seeds=(0, 1))
    best = analyse(load_study(out)).best
    assert best.p_value is None
    assert best.reason.endswith("below 0.5")
    assert best.lead > 0


def test_unequal_seeds(study_at, tmp_path):
    """A run that failed: the others of its seed still count, and luck knows that cells have unequally many runs."""
    out = study_at(tmp_path / "unequal", **SMALL, axes=TWO, seeds=(0, 1, 2), failed=(2,), effects=PLANTED)
    analysis = analyse(load_study(out))
    best = analysis.best
    assert best.p_value is not None
    scores = _scores(analysis)
    assert sorted({len(v) for v in scores.values()}) == [2, 3]
    assert best.luck.mean == pytest.approx(np.mean([np.mean(v) for v in scores.values()]))
    spread = (best.luck.expected - best.luck.mean) / expected_normal_maximum(8)
    of_run = spread**2 / np.mean([1 / len(v) for v in scores.values()])
    assert of_run >= analysis.best_of_checks[-1].variance * (1 - 1e-9)
    assert of_run < 0.04**2, "runs of the toy differ by a point, its answers by some three"


def _scores(analysis):
    """Mean accuracy of the runs of every cell."""
    found = {}
    for c in analysis.study.cells.to_dict("records"):
        if (interval := analysis.accuracy.get((c["run"], c["step"], "all"))) is not None:
            found.setdefault((c["length_cap"], c["reward"], c["step"]), []).append(interval.estimate)
    return found


def test_no_choice_no_paragraph(study_at, tmp_path):
    analysis = analyse(load_study(study_at(tmp_path / "alone", **SMALL, axes={})))
    assert analysis.best is None
    assert best_cell_text(analysis) == ""
