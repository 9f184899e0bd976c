"""Two folders held against each other: planted losses are found, chance and identity are not blamed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from harness.regression import accuracy
from harness.regression.errors import CandidateFailed, MissingBaseline, OtherDevice
from harness.regression.gate import Settings
from harness.store.errors import StoreError

QUESTIONS, SAMPLES = 200, 4


def study(
    shift=0.0, *, seed=0, seeds=(0, 1, 2, 3), noise=True, device="cpu-a", speed=100.0, status="finished"
):
    """Runs of one axis with two levels; question difficulty and the level's effect are the same in every study."""
    difficulty = np.random.default_rng(9).uniform(0.2, 0.8, QUESTIONS)
    rng = np.random.default_rng(seed)
    runs, questions, steps = [], [], []
    for level, gain in (("a", 0.0), ("b", 0.1)):
        for s in seeds:
            run = f"{level}{s}-{seed}"
            runs.append(
                {
                    "run": run,
                    "kind": "train",
                    "label": run,
                    "cap": level,
                    "seed": s,
                    "status": status,
                    "device": device,
                }
            )
            p = np.clip(difficulty + gain + shift + (0.01 * rng.normal() if noise else 0.0), 0, 1)
            correct = rng.binomial(SAMPLES, p) if noise else np.round(SAMPLES * p)
            frame = pd.DataFrame({"question_id": np.arange(QUESTIONS), "correct": correct})
            questions.append(frame.assign(run=run, step=5, benchmark="sums", samples=SAMPLES))
            questions.append(frame.assign(run=run, step=0, benchmark="sums", samples=SAMPLES, correct=0))
            for step in range(5):
                wobble = speed * (1 + 0.01 * rng.normal())
                steps.append(
                    {
                        "run": run,
                        "step": step,
                        "timing.tokens_per_second": wobble,
                        "memory.update.resident_gib": 1.0 + step,
                    }
                )
    table = pd.concat(questions, ignore_index=True)
    return SimpleNamespace(
        axes=["cap", "steps"],
        steps_axes=["steps"],
        runs=pd.DataFrame(runs),
        steps=pd.DataFrame(steps),
        questions=lambda: table,
        damaged=(),
    )


@pytest.fixture
def folders(monkeypatch):
    """Studies by name, as if they lay in folders."""
    known = {}

    def load(path):
        if path.name not in known:
            raise StoreError("is no result folder", path)
        return known[path.name]

    monkeypatch.setattr(accuracy, "load_study", load)
    return known


def compare(checks=("training", "memory", "accuracy")):
    found, device = accuracy.compare_folders(Path("base"), Path("cand"), checks, 0.02, Settings())
    return {f.kind: f for f in found}, device


def test_a_planted_loss_is_a_regression(folders):
    folders |= {"base": study(), "cand": study(-0.08, seed=1)}
    found, device = compare()
    assert device == "cpu-a"
    assert found["accuracy"].comparison.decision == "worse"
    assert found["accuracy"].comparison.ratio == pytest.approx(-0.08, abs=0.02)
    assert found["accuracy"].comparison.pairs == 8
    assert "hurts" in found["accuracy"].note
    assert found["training"].comparison.decision == found["memory"].comparison.decision == "fine"


def test_the_effect_is_the_mean_difference_of_matched_runs():
    first, second = study(), study(-0.03, seed=4)
    judgement, same, steps = accuracy.judge_code(first, second, 0.02)
    means = []
    for s in (first, second):
        q = s.questions()
        means.append((q[q["step"] == 5]["correct"] / SAMPLES).mean())
    assert judgement.effect == pytest.approx(means[1] - means[0])
    assert not same
    assert judgement.df >= 3
    assert steps == [5]


def test_a_gain_is_fine_and_chance_is_not_worse(folders):
    folders |= {"base": study(), "cand": study(0.08, seed=2)}
    assert compare()[0]["accuracy"].comparison.decision == "fine"
    decisions = []
    for seed in range(20):
        folders["cand"] = study(seed=seed + 10)
        decisions.append(compare(["accuracy"])[0]["accuracy"].comparison.decision)
    assert decisions.count("worse") <= 1


def test_the_same_answers_pass_even_with_one_pair(folders):
    folders |= {"base": study(noise=False, seeds=(0,)), "cand": study(noise=False, seeds=(0,))}
    found, _ = compare(["accuracy"])
    assert found["accuracy"].comparison.decision == "fine"
    assert "the same share of right answers" in found["accuracy"].note


def test_runs_of_other_lengths_are_compared_where_both_were_evaluated(folders):
    """The longer run's gain by its later steps is not held against the shorter."""
    longer = study()
    more = longer.questions().query("step == 5").assign(step=40, correct=SAMPLES)
    table = pd.concat([longer.questions(), more], ignore_index=True)
    longer.questions = lambda: table
    folders |= {"base": longer, "cand": study(seed=1)}
    found = compare(["accuracy"])[0]["accuracy"]
    assert abs(found.comparison.ratio) < 0.03
    assert found.note.endswith("; at step 5")
    table = table[table["step"] == 40]
    with pytest.raises(
        MissingBaseline, match="no step was evaluated in both folders: 40 in the baseline, 0, 5"
    ):
        compare(["accuracy"])


def test_slower_training_and_more_memory_are_told(folders):
    folders |= {"base": study(), "cand": study(seed=3, speed=80.0)}
    folders["cand"].steps["memory.update.resident_gib"] *= 1.2
    found, _ = compare(["training", "memory"])
    assert found["training"].comparison.decision == "worse"
    assert found["training"].comparison.ratio == pytest.approx(1.25, rel=0.02)
    assert found["memory"].comparison.decision == "worse"
    assert found["memory"].comparison.ratio == pytest.approx(1.2)


def test_few_runs_decide_of_speed_and_memory_what_they_can(folders):
    """Of two pairs, Student's interval is 6.4 times as wide as that of many."""
    for seeds, speed, decision in (((0,), 100.0, "ambiguous"), ((0, 1), 50.0, "worse")):
        folders |= {"base": study(seeds=seeds), "cand": study(seed=3, seeds=seeds, speed=speed)}
        found, _ = compare(["training", "memory"])
        assert found["training"].comparison.decision == decision
        assert found["training"].comparison.level == 0.95
        assert found["memory"].comparison.decision == "fine"


def test_one_run_decides_nothing_of_speed(folders):
    for name, seed in (("base", 0), ("cand", 3)):
        folders[name] = study(seed=seed)
        folders[name].runs = folders[name].runs.iloc[:1]
    found, _ = compare(["training"])
    assert found["training"].comparison.decision == "ambiguous"
    assert "too few matched runs for 95 %" in found["training"].note


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda f: f.pop("base"), MissingBaseline, "is no result folder"),
        (lambda f: f.pop("cand"), CandidateFailed, "is no result folder"),
        (lambda f: f.update(cand=study(device="cpu-b")), OtherDevice, "on cpu-a, the candidate on cpu-b"),
        (lambda f: f.update(cand=study(status="failed")), CandidateFailed, "8 of 8 runs are not finished"),
        (lambda f: f.update(cand=study(seeds=(7, 8))), MissingBaseline, "has its like in the candidate"),
    ],
)
def test_no_answer_says_why(folders, change, error, words):
    folders |= {"base": study(), "cand": study(seed=1)}
    change(folders)
    with pytest.raises(error, match=words):
        compare()
