"""Whom verdicts on results of others are about: families, evaluation seeds, shared baselines, numbers of seeds."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

from harness.report import main
from harness.reporting.analysis.analysis import analyse
from harness.reporting.sources.external import external_study
from harness.reporting.sources.inference import Inference
from harness.reporting.text.conclusions import conclude
from harness.spec.errors import SpecError


def _analysis(tmp_path, frame, **inference):
    file = tmp_path / "rows.csv"
    frame.to_csv(file, index=False)
    return analyse(external_study([file], tmp_path / "out", inference=Inference(**inference)))


def _judged(analysis):
    return {(j.axis, j.level): j for j in analysis.primary()}


def _forks(seeds=(0, 1), data=("a", "b"), lengths=("10", "20", "30"), questions=40, spread=0.5):
    """Runs of three lengths that fork from one trunk for each dataset and seed: they deviate together."""
    rng = np.random.default_rng(3)
    ease = rng.normal(0, 1, questions)
    rows = []
    for trunk, (level, seed) in enumerate(itertools.product(data, seeds)):
        deviation = rng.normal(0, spread)
        for length in lengths:
            right = rng.binomial(4, 1 / (1 + np.exp(-(ease + deviation + 0.05 * int(length)))))
            rows += [
                {"run": f"t{trunk}-{length}", "seed": seed, "family": f"t{trunk}", "axis.data": level,
                 "axis.length": length, "benchmark": "sums", "question": q, "samples": 4, "correct": int(right[q])}
                for q in range(questions)
            ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_trunk_and_its_forks_count_once(tmp_path):
    frame = _forks(seeds=(0, 1, 2))
    judged = _judged(_analysis(tmp_path, frame))
    assert (judged["data", "b"].runs, judged["data", "b"].df) == (6, 4), "six families, not 18 runs"
    assert (judged["length", "20"].runs, judged["length", "20"].df) == (6, 5), (
        "differences within six families"
    )
    share = frame.assign(share=frame["correct"] / 4)
    means = share.groupby(["axis.data"])["share"].mean()
    assert judged["data", "b"].effect == pytest.approx(means["b"] - means["a"])
    lengths = share.groupby(["axis.length"])["share"].mean()
    assert judged["length", "30"].effect == pytest.approx(lengths["30"] - lengths["10"])
    alone = _judged(_analysis(tmp_path, frame.drop(columns="family")))
    assert (alone["data", "b"].runs, alone["data", "b"].df) == (18, 18 - 1 - 1 - 2)
    assert judged["length", "30"].standard_error < alone["length", "30"].standard_error
    assert judged["data", "b"].standard_error > 1.3 * alone["data", "b"].standard_error
    notes = dict(_analysis(tmp_path, frame).study.notes)["Whom this is about"]
    assert "18 runs are of 6 families, and count as so many between families" in notes


def test_a_family_belongs_to_a_run(tmp_path):
    frame = _forks()
    frame.loc[3, "family"] = "another"
    with pytest.raises(SpecError, match="several values of `family`"):
        _analysis(tmp_path, frame)


def _evaluations(count=10, questions=30, effect=0.9):
    """One base model and one trained one, each evaluated ten times on the same questions."""
    rng = np.random.default_rng(5)
    ease = rng.normal(0, 2.5, questions)
    rows = []
    for level, shift in (("base", 0.0), ("trained", effect)):
        for seed in range(count):
            right = rng.binomial(1, 1 / (1 + np.exp(-(ease + shift))))
            rows += [
                {"seed": seed, "axis.model": level, "benchmark": "aime", "question": q, "samples": 1,
                 "correct": int(right[q])}
                for q in range(questions)
            ]  # fmt: skip
    return pd.DataFrame(rows)


def test_evaluation_seeds_are_no_training_runs(tmp_path):
    frame = _evaluations()
    recipe = _analysis(tmp_path, frame)
    assert _judged(recipe)["model", "trained"].runs == 20
    assert "name that column eval_seed" in str(recipe.study.notes)
    named = _judged(_analysis(tmp_path, frame.rename(columns={"seed": "eval_seed"})))["model", "trained"]
    assert (named.runs, named.df, named.verdict) == (2, 0, "inconclusive"), "one training run of each recipe"
    checkpoint = _analysis(tmp_path, frame, unit="checkpoint")
    judged = _judged(checkpoint)["model", "trained"]
    assert (judged.runs, judged.df, judged.unit) == (2, 29, "checkpoint")
    shares = frame.groupby(["axis.model", "question"])["correct"].mean()
    differences = shares["trained"] - shares["base"]
    assert judged.effect == pytest.approx(differences.mean())
    assert judged.standard_error == pytest.approx(differences.sem())
    assert "about the 2 checkpoints in the file" in str(checkpoint.study.notes)


def test_repeated_evaluations_measure_the_noise_of_totals(tmp_path):
    """Questions differ, so that p(1 − p)/n is far more than evaluations of one checkpoint differ by."""
    frame = _evaluations(questions=200)
    totals = (
        frame.groupby(["seed", "axis.model", "benchmark"])["correct"]
        .mean()
        .mul(100)
        .rename("accuracy_percent")
    )
    totals = totals.reset_index().assign(questions=200, samples_per_question=1)
    judged = _judged(_analysis(tmp_path, totals, unit="checkpoint"))["model", "trained"]
    by_model = totals.groupby("axis.model")["accuracy_percent"]
    pooled = np.sqrt((by_model.var() / 1e4).mean() * 2 / 10)
    assert judged.standard_error == pytest.approx(pooled, rel=0.1)
    assert judged.df == 18
    p = totals["accuracy_percent"].mean() / 100
    assert judged.standard_error < 0.8 * np.sqrt(2 * p * (1 - p) / 2000)


def test_no_answer_depends_on_how_seeds_are_numbered(tmp_path):
    """A base model with one run and seed 0 beside five seeds of a recipe: all five count, by any name."""
    rng = np.random.default_rng(6)
    ease = rng.normal(0, 1, 60)
    rows = []
    for level, seeds in (("base", 1), ("trained", 5), ("other", 4)):
        for seed in range(seeds):
            right = rng.binomial(4, 1 / (1 + np.exp(-(ease + (level == "trained") + rng.normal(0, 0.2)))))
            rows += [
                {"seed": seed, "axis.model": level, "benchmark": "sums", "question": q, "samples": 4,
                 "correct": int(right[q])}
                for q in range(60)
            ]  # fmt: skip
    frame = pd.DataFrame(rows)
    shares = frame.assign(share=frame["correct"] / 4).groupby(["axis.model", "seed"])["share"].mean()
    expected = shares["trained"].mean() - shares["base"].mean()
    found = []
    for _ in range(4):
        analysis = _analysis(tmp_path, frame)
        judged = _judged(analysis)
        assert judged["model", "trained"].effect == pytest.approx(expected)
        found.append(
            [
                (j.effect, j.standard_error, j.ci_low, j.p_adjusted, j.verdict, j.df, j.detectable_effect)
                for j in (judged["model", "trained"], judged["model", "other"])
            ]
        )
        numbers = {
            level: dict(zip(sorted(set(own)), rng.permutation(20).tolist()))
            for level, own in frame.groupby("axis.model")["seed"]
        }
        frame["seed"] = [numbers[level][seed] for level, seed in zip(frame["axis.model"], frame["seed"])]
    for other in found[1:]:
        for one, two in zip(found[0], other):
            assert one[4:6] == two[4:6]
            assert [v for v in one if not isinstance(v, str)] == pytest.approx(
                [v for v in two if not isinstance(v, str)], rel=1e-6
            )


def test_a_base_that_was_measured_once_counts_once(tmp_path):
    """Eight runs against one evaluation of the untrained model, written beside each: its error does not shrink."""
    rng = np.random.default_rng(7)
    rows = []
    for run in range(8):
        for step, accuracy in ((0, 40.0), (100, round(45 + rng.normal(0, 0.5), 1))):
            rows.append({"run": f"r{run}", "seed": run, "step": step, "benchmark": "math", "questions": 200,
                         "samples_per_question": 1, "accuracy_percent": accuracy})  # fmt: skip
    judged = _judged(_analysis(tmp_path, pd.DataFrame(rows)))["step", "100"]
    assert judged.standard_error > np.sqrt(0.4 * 0.6 / 200)
    assert judged.verdict == "inconclusive"
    rows[0]["accuracy_percent"] = 40.5
    apart = _judged(_analysis(tmp_path, pd.DataFrame(rows)))["step", "100"]
    assert apart.standard_error < 0.6 * judged.standard_error, "eight evaluations of their own"


def test_topics_are_what_is_counted(tmp_path):
    frame = _evaluations(count=4, questions=70)
    frame["cluster"] = frame["question"] % 7
    judged = _judged(_analysis(tmp_path, frame, unit="checkpoint"))["model", "trained"]
    assert (judged.questions, judged.df) == (70, 6)
    shares = frame.groupby(["axis.model", "cluster", "question"])["correct"].mean()
    topics = (shares["trained"] - shares["base"]).groupby("cluster").mean()
    assert judged.standard_error == pytest.approx(topics.sem())


def test_a_run_that_lacks_a_benchmark_is_named(tmp_path):
    rows = [
        {"run": f"{level}{seed}", "seed": seed, "axis.model": level, "benchmark": benchmark, "questions": 100,
         "samples_per_question": 1, "accuracy_percent": 50.0 + seed}
        for level, seed, benchmark in itertools.product("ab", range(4), ("aime", "math"))
        if (level, seed, benchmark) != ("b", 2, "math")
    ]  # fmt: skip
    analysis = _analysis(tmp_path, pd.DataFrame(rows))
    assert analysis.runs_left_out == ("b2",)
    assert _judged(analysis)["model", "b"].runs == 7
    assert conclude(analysis).incomplete == (
        "Verdicts leave out 1 run that was not measured on every benchmark and length: b2."
    )


def test_the_command_says_whom_it_is_about(tmp_path, capsys):
    _evaluations().to_csv(tmp_path / "rows.csv", index=False)
    arguments = ["--external", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--unit", "checkpoint"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "not about what their recipes would give under other training seeds" in text
    assert "They are about questions like these" in text
    assert json.loads((tmp_path / "out" / "report.json").read_text())
    assert main([str(tmp_path / "out"), "--unit", "recipe"]) == 2
    assert "--unit and --shared-seeds go with --external" in capsys.readouterr().err
