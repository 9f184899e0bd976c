"""Comparison of folders, the front, events, lint findings, what moved, exports."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from harness.report import main
from harness.reporting.analysis.analysis import analyse
from harness.reporting.analysis.pareto import on_front, pareto_points
from harness.reporting.analysis.training_events import step_events
from harness.reporting.figures.questions import moved
from harness.reporting.report import write_comparison
from harness.reporting.sources.comparison import merged_study, questions_of_parts
from harness.reporting.sources.lint_findings import findings
from harness.reporting.text.conclusions import conclude
from harness.reporting.text.exports import latex_cell
from harness.spec.errors import SpecError
from harness.store.contents import write_contents
from harness.store.schema import append_record, write_record
from harness.store.study import load_study

from ..examples import OWN

SMALL = {"benchmarks": {"easy": 60, "hard": 40}, "steps": (4, 8), "samples": 2}


@pytest.fixture(scope="module")
def pair(study_at, tmp_path_factory):
    """Two folders of the same grid; in the second everything is 15 points easier."""
    root = tmp_path_factory.mktemp("pair")
    first = study_at(root / "before", **SMALL, gain=0.0)
    second = study_at(root / "after", **SMALL, gain=0.0, effects={(a, v): 0.05 for a, v in LEVELS})
    return first, second


LEVELS = [
    ("data", "easy"),
    ("data", "mixed"),
    ("length_cap", "16"),
    ("length_cap", "32"),
    ("reward", "accuracy"),
    ("reward", "cosine"),
]


def test_folders_become_an_axis(pair, tmp_path):
    study = merged_study(pair, tmp_path / "out")
    assert len(study.cells) == 32
    rows = {
        (r.judgement.axis, r.judgement.level): r.judgement
        for r in analyse(study).rows
        if r.family == "primary"
    }
    folder = rows["folder", "after"]
    assert folder.baseline == "before"
    assert folder.verdict == "works"
    assert folder.ci_low < 0.15 < folder.ci_high
    own = [analyse(load_study(p)).accuracy for p in pair]
    means = [np.mean([v.estimate for (_, s, b), v in a.items() if b == "all" and s > 0]) for a in own]
    assert folder.effect == pytest.approx(means[1] - means[0])
    assert rows["data", "mixed"].runs == 16
    with pytest.raises(SpecError, match="given twice"):
        merged_study([pair[0], pair[0]], tmp_path)


@pytest.mark.usefixtures("without_figures")
def test_folders_of_one_name_are_told_apart_by_their_paths(pair, tmp_path):
    folders = [tmp_path / name for name in ("main/runs/quick", "dev/runs/quick", "runs/quick")]
    for folder in folders:
        shutil.copytree(pair[0], folder)
    write_comparison(folders, tmp_path / "out")
    study = merged_study(folders, tmp_path / "out")
    assert study.grid["axes"]["folder"] == ["main/runs/quick", "dev/runs/quick", "runs/quick"]
    assert len(study.cells) == 3 * 16
    run = study.runs["run"].iloc[-1]
    assert study.folder(run).path.is_relative_to(folders[2])


def test_folders_are_compared_on_the_benchmarks_that_both_have(pair, study_at, tmp_path):
    other = study_at(tmp_path / "other", **{**SMALL, "benchmarks": {"easy": 60, "new": 40}})
    found = analyse(merged_study([pair[0], other], tmp_path / "out"))
    assert found.left_out == ("hard", "new")
    assert {"folder", "data", "length_cap", "reward", "steps"} == {j.axis for j in found.primary()}
    assert {j.questions for j in found.primary()} == {60}
    assert "leave out hard, new" in conclude(found).incomplete
    later = study_at(tmp_path / "later", **{**SMALL, "steps": (5, 15)})
    nothing = conclude(analyse(merged_study([pair[0], later], tmp_path / "out")))
    assert "no training length is common to all runs" in nothing.nothing[0]


def test_questions_are_matched_by_identity(pair, tmp_path):
    """The same questions in another order are the same questions."""
    shuffled = tmp_path / "shuffled"
    shutil.copytree(pair[0], shuffled)
    study = merged_study([pair[0], shuffled], tmp_path / "out")
    turned = study.parts["shuffled"].questions()
    turned["question_index"] = turned["question_index"].max() - turned["question_index"]
    again = merged_study([pair[0], shuffled], tmp_path / "out")
    parts = {**again.parts, "shuffled": replace(again.parts["shuffled"], known_questions=turned.iloc[::-1])}
    long = questions_of_parts(parts)
    wide = long.pivot_table(index=["step", "benchmark", "question_id"], columns="run", values="correct")
    for run in study.parts["before"].runs["run"]:
        assert (wide[f"before/{run}"].dropna() == wide[f"shuffled/{run}"].dropna()).all()
    assert long.groupby(["benchmark", "question_id"])["question_index"].nunique().max() == 1


@pytest.mark.usefixtures("without_figures")
def test_command_writes_a_comparison(pair, tmp_path, capsys):
    out = tmp_path / "compared"
    write_comparison(pair, out)
    data = json.loads((out / "report.json").read_text())
    assert data["answer"]["works"][0].startswith("folder = after (against before)")
    assert data["name"] == "before against after"
    assert main([str(pair[0]), "--out", str(out)]) == 2
    assert "several folders" in capsys.readouterr().err


def test_front_of_three_figures():
    scores = np.array([[0.5, 0.6, 0.55, 0.7, 0.7]])
    money, memory = np.array([1.0, 2.0, 2.0, 4.0, 4.1]), np.array([1.0, 2.0, 1.0, 2.0, 2.0])
    # The fifth costs 2.5 % more than the fourth for the same accuracy; the third saves memory.
    assert on_front(scores, [money, memory])[0].tolist() == [True, True, True, True, False]
    assert on_front(scores, [money])[0].tolist() == [True, True, False, True, False]


def test_share_of_redraws(pair):
    found = pareto_points(analyse(load_study(pair[0])))
    assert len(found) == 16
    assert all(0 <= p.share <= 1 for p in found)
    assert sum(p.share for p in found) > 0.9
    assert any(p.on_front for p in found)


def test_events_of_steps_and_lint_of_the_grid(pair, tmp_path):
    out = tmp_path / "events"
    shutil.copytree(pair[0], out)
    file = sorted(out.glob("runs/*/attempt-001/steps.jsonl"))[1]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines[3:6]:
        line["events"] = [
            {
                "detector": "language_drift",
                "figure": 0.4,
                "threshold": 0.3,
                "policy": "continue",
                "message": f"{line['step']} <i>drift</i>",
            }
        ]
        line["completion"]["truncated_share"] = 1.0
    for line in lines:
        line["completion"]["truncated_share"] = 0.9
    file.unlink()
    for line in lines:
        append_record({k: v for k, v in line.items() if k not in OWN}, file)
    write_contents(file.parents[1])
    finding = {"severity": "warning", "rule": "no-effect", "message": "reward.weight: <u>nothing</u> changes"}
    write_record("output", {"findings": [finding]}, out / "lint.json")
    study = load_study(out)
    found = {e["kind"]: e for e in step_events(study)}
    assert found["language_drift"]["step"] == 4
    assert found["language_drift"]["message"] == "4 <i>drift</i> (and at 2 more steps up to 6)"
    assert "90.0 %" in found["truncation"]["message"]
    assert findings(study) == [finding]
    assert main([str(out), "--quiet"]) == 0
    page = (out / "report.html").read_text()
    assert "4 &lt;i&gt;drift&lt;/i&gt;" in page
    assert "&lt;u&gt;nothing&lt;/u&gt; changes" in page
    assert "<i>drift" not in page
    assert "language_drift" in (out / "report.md").read_text()


def test_questions_that_moved(pair):
    analysis = analyse(load_study(pair[1]))
    for part in moved(analysis):
        assert part.columns[0] == "untrained"
        change = part.share[:, 1:].mean(axis=1) - part.share[:, 0]
        assert (np.diff(change) <= 1e-9).all(), "the most improved on top"
        assert part.better <= part.total
    assert [p.benchmark for p in moved(analysis)] == ["easy", "hard"]


def test_latex_is_escaped():
    assert latex_cell("50 % of a_b & c^2 {x} \\d $1 #2 ~ − ×") == (
        r"50 \% of a\_b \& c\textasciicircum{}2 \{x\} \textbackslash{}d \$1 \#2 \textasciitilde{} $-$ $\times$"
    )
