"""Adding seeds to a study that was judged is a look, which its folder records and its verdicts pay for."""

import dataclasses
import shutil

import pytest

from harness.reporting.analysis.analysis import analyse
from harness.reporting.report import write_report
from harness.reporting.text.conclusions import conclude
from harness.spec.hardware import VerdictSpec
from harness.stats.looks import Looks
from harness.store.folders import Store
from harness.store.study import load_study

pytestmark = pytest.mark.usefixtures("without_figures")
# What is looked at does not depend on the size of the study.
SMALL = {"benchmarks": {"easy": 24}, "steps": (2, 4), "samples": 2}


def test_a_report_on_the_same_data_is_no_other_look(study_at, tmp_path):
    out = study_at(tmp_path / "out", seeds=(0, 1), **SMALL)
    assert Store(out).looks() == ()
    for _ in range(2):
        write_report(out)
    (look,) = Store(out).looks()
    assert (look.seeds, look.level) == (2, 0.05)
    assert analyse(load_study(out)).settings.alpha == 0.05
    assert conclude(analyse(load_study(out))).incomplete == ""


def test_more_seeds_are_a_second_look_at_a_smaller_error_rate(study_at, tmp_path):
    first, second = (
        study_at(tmp_path / f"s{len(seeds)}", seeds=seeds, **SMALL) for seeds in ((0, 1), (0, 1, 2, 3))
    )
    write_report(first)
    shutil.copy(Store(first).looks_file, Store(second).looks_file)
    analysis = analyse(load_study(second))
    level = Looks(alpha=0.05, information=(1, 2)).level
    assert analysis.settings.alpha == pytest.approx(level)
    assert 0.005 < level < 0.02
    assert "This is look 2 at this study" in conclude(analysis).incomplete
    write_report(second)
    assert [look.seeds for look in Store(second).looks()] == [2, 4]
    assert Store(second).looks()[1].level == pytest.approx(level)


def test_declared_looks_spend_little_early(study_at, tmp_path):
    study = load_study(study_at(tmp_path / "out", seeds=(0, 1), **SMALL))
    study.grid["verdict"]["looks"] = [2, 4]
    early = analyse(study)
    assert early.looks.level == pytest.approx(Looks(alpha=0.05, information=(2,), declared=(2, 4)).level)
    assert early.looks.level < 0.01
    assert early.looks.level + early.looks.left == pytest.approx(0.05)


def test_an_unfinished_matrix_is_no_look(study_at, tmp_path):
    out = study_at(tmp_path / "out", seeds=(0, 1), **SMALL)
    study = load_study(out)
    runs = study.runs.assign(status=["pending", *study.runs["status"][1:]])
    from harness.reporting.analysis.looks import looks_of, new_look

    primary = analyse(study).primary()
    assert new_look(study, looks_of(study), primary) is not None
    assert new_look(dataclasses.replace(study, runs=runs), looks_of(study), primary) is None


def test_looks_increase():
    assert VerdictSpec(looks=(2, 4)).looks == (2, 4)
    with pytest.raises(ValueError, match="increasing numbers of seeds"):
        VerdictSpec(looks=(4, 2))
