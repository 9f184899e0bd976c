"""Results of others: every accepted form gives the same verdicts, every mistake is told in three lines at most."""

import csv
import itertools
import json

import numpy as np
import pandas as pd
import pytest

from harness.report import main
from harness.reporting.analysis.analysis import analyse
from harness.reporting.sources.external import external_study
from harness.reporting.sources.inference import Inference
from harness.reporting.tables.training_length import WITHIN_CHANCE, best_table
from harness.reporting.text.conclusions import best_of_sentence, conclude
from harness.spec.errors import SpecError


def _long(seeds=(0, 1), steps=(10, 20), questions=80, effect=1.2):
    rng = np.random.default_rng(4)
    ease = rng.normal(0, 1.5, questions)
    rows = []
    for number, (reward, data, seed) in enumerate(itertools.product(("accuracy", "cosine"), "ab", seeds)):
        for step in steps:
            p = 1 / (1 + np.exp(-(ease + rng.normal(0, 0.05) + effect * (reward == "cosine"))))
            right = rng.binomial(4, p)
            rows += [
                {"run": f"r{number}", "seed": seed, "axis.reward": reward, "axis.data": data, "step": step,
                 "benchmark": "sums", "question": f"q{q}", "samples": 4, "correct": int(right[q])}
                for q in range(questions)
            ]  # fmt: skip
    return pd.DataFrame(rows)


def _verdicts(analysis):
    return {
        (r.benchmark, r.judgement.axis, r.judgement.level): r.judgement
        for r in analysis.rows
        if r.metric == "accuracy" and r.family != "trajectory"
    }


def test_csv_and_parquet_give_the_planted_verdict(tmp_path):
    frame = _long()
    frame.to_csv(tmp_path / "long.csv", index=False)
    frame.to_parquet(tmp_path / "long.parquet")
    found = [
        _verdicts(analyse(external_study([tmp_path / f"long.{kind}"], tmp_path / "out")))
        for kind in ("csv", "parquet")
    ]
    assert found[0] == found[1]
    reward = found[0]["all", "reward", "cosine"]
    assert reward.verdict == "works"
    assert reward.df == 8 - 1 - 2, "runs less mean and two axes: that seeds are shared was not said"
    shared = Inference(shared_seeds=True)
    paired = external_study([tmp_path / "long.csv"], tmp_path / "out", inference=shared)
    assert _verdicts(analyse(paired))["all", "reward", "cosine"].df == 8 - 1 - 2 - 1, "and a second seed"
    assert found[0]["all", "data", "b"].verdict != "works"
    assert found[0]["all", "step", "20"].df == 7
    mean = frame.assign(share=frame["correct"] / 4).groupby("axis.reward")["share"].mean()
    assert reward.effect == pytest.approx(mean["cosine"] - mean["accuracy"])


def test_seeds_of_their_own_are_no_blocks(tmp_path):
    frame = _long(seeds=(0,))
    frame["seed"] = frame["run"].map({r: i for i, r in enumerate(frame["run"].unique())})
    frame.to_csv(tmp_path / "long.csv", index=False)
    found = _verdicts(analyse(external_study([tmp_path / "long.csv"], tmp_path / "out")))
    assert found["all", "reward", "cosine"].df == 1, (
        "four runs, two axes: blocks of one run would leave nothing"
    )
    frame.drop(columns="seed").to_csv(tmp_path / "without.csv", index=False)
    same = _verdicts(analyse(external_study([tmp_path / "without.csv"], tmp_path / "out")))
    assert same["all", "reward", "cosine"].effect == found["all", "reward", "cosine"].effect


def test_seeds_needed_of_a_training_length_are_those_of_paired_differences(tmp_path):
    frame = _long(seeds=(0, 1))
    frame[(frame["axis.reward"] == "cosine") & (frame["axis.data"] == "a")].to_csv(tmp_path / "cell.csv")
    found = _verdicts(analyse(external_study([tmp_path / "cell.csv"], tmp_path / "out")))
    length = found["all", "step", "20"]
    assert (length.runs, length.df, length.verdict) == (2, 1, "inconclusive")
    assert 4 <= length.seeds_needed < 100


def test_step_0_is_no_trained_checkpoint(tmp_path):
    """The runs are alike once trained: the untrained model among them would make the best look better than chance."""
    rng = np.random.default_rng(1)
    rows = [
        {"run": f"r{seed}", "seed": seed, "step": step, "benchmark": b, "question": f"q{q}", "samples": 1,
         "correct": int(rng.random() < (0.5 if step else 0.02))}
        for seed, step, b, q in itertools.product(range(3), (0, 10, 20), ("a", "b"), range(30))
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    totals = frame.groupby(["run", "seed", "step", "benchmark"], as_index=False)["correct"].mean()
    totals["accuracy_percent"] = 100 * totals.pop("correct")
    totals = totals.assign(questions=30, samples_per_question=1)
    for name, table in (("long", frame), ("totals", totals)):
        checks = []
        for least in (0, 1):
            table[table["step"] >= least].to_csv(tmp_path / f"{name}.csv", index=False)
            checks.append(
                analyse(external_study([tmp_path / f"{name}.csv"], tmp_path / "out")).best_of_checks
            )
        assert [g.result for g in checks[0]] == [g.result for g in checks[1]], name
        assert [g.benchmark for g in checks[0]] == ["a", "b", "all"]
        assert {g.result.checkpoints for g in checks[0]} == {6}


def test_text_and_table_agree_on_a_best_that_was_published_rounded(tmp_path):
    """20 of 30, published as 66.7, is the bound itself and not above it."""
    best = [
        {"run": "r", "seed": 0, "step": step, "benchmark": "aime", "questions": 30, "samples_per_question": 1,
         "accuracy_percent": 66.7 if step == 40 else 40.0}
        for step in range(10, 90, 10)
    ]  # fmt: skip
    pd.DataFrame(best).to_csv(tmp_path / "best.csv", index=False)
    found = analyse(external_study([tmp_path / "best.csv"], tmp_path / "out"))
    figures = found.best_of_checks[0].result
    assert figures.p_value > 0.05
    assert figures.best > figures.upper
    assert best_table(found).frame["reading"].tolist() == [WITHIN_CHANCE]
    assert best_of_sentence(found.best_of_checks[0]).endswith(WITHIN_CHANCE)


def test_what_is_not_measured_everywhere_is_left_out_and_named(tmp_path):
    frame = _long()
    cosine = frame["axis.reward"] == "cosine"

    def told(changed):
        changed.to_csv(tmp_path / "some.csv", index=False)
        found = analyse(external_study([tmp_path / "some.csv"], tmp_path / "out"))
        return found, conclude(found)

    more = pd.concat([frame, frame[cosine].assign(benchmark="products")])
    found, words = told(more)
    assert found.left_out == ("products",)
    assert _verdicts(found)["all", "reward", "cosine"].effect == pytest.approx(
        _verdicts(told(frame)[0])["all", "reward", "cosine"].effect
    )
    assert "leave out products" in words.incomplete
    assert told(frame)[1].incomplete == ""

    short = frame[~((frame["run"] == "r7") & ~frame["question"].isin(["q0", "q1", "q2"]))]
    found, words = told(short)
    assert "3 of 80 questions" in words.incomplete
    assert any("8 runs on the 3 of 80 questions that all of them have leave 2" in s for s in words.unknown)

    apart = frame.assign(question=frame["question"].where(~cosine, "other " + frame["question"]))
    assert "no measured question in common" in told(apart)[1].nothing[0]
    nothing = frame[~cosine & (frame["axis.data"] == "a") & (frame["step"] == 10)]
    assert "no axis with two measured levels" in told(nothing)[1].nothing[0]


def test_benchmark_rows_rest_on_runs(tmp_path):
    frame = _long(seeds=(0, 1, 2))
    totals = frame.assign(percent=100 * frame["correct"] / 4).groupby(
        ["run", "seed", "axis.reward", "axis.data", "step", "benchmark"], as_index=False
    )["percent"].mean()  # fmt: skip
    totals = totals.rename(columns={"percent": "accuracy_percent"}).assign(
        questions=80, samples_per_question=4
    )
    totals.to_csv(tmp_path / "totals.csv", index=False)
    frame.to_csv(tmp_path / "long.csv", index=False)
    rough, fine = (
        _verdicts(analyse(external_study([tmp_path / f"{n}.csv"], tmp_path / "out"), )) for n in ("totals", "long")
    )  # fmt: skip
    for key in (("all", "reward", "cosine"), ("all", "step", "20")):
        assert rough[key].effect == pytest.approx(fine[key].effect)
        assert rough[key].df == fine[key].df
    assert rough["all", "reward", "cosine"].verdict == "works"


def test_lm_eval_and_lighteval_json(tmp_path):
    for model, accuracy in (("a", 0.5), ("b", 0.6)):
        folder = tmp_path / "lighteval" / model
        folder.mkdir(parents=True)
        data = {
            "config_general": {"model_name": f"org/{model}-checkpoint-100"},
            "results": {"lighteval|aime24|0": {"extractive_match": accuracy, "extractive_match_stderr": 0.1},
                        "all": {"extractive_match": accuracy}},
            "config_tasks": {"lighteval|aime24": {"effective_num_docs": 30, "original_num_docs": 30}},
        }  # fmt: skip
        (folder / "results_2025-01-01.json").write_text(json.dumps(data))
    study = external_study([tmp_path / "lighteval"], tmp_path / "out")
    assert study.evaluations[["benchmark", "questions", "accuracy", "step"]].to_dict("records") == [
        {"benchmark": "aime24", "questions": 30, "accuracy": 0.5, "step": 100},
        {"benchmark": "aime24", "questions": 30, "accuracy": 0.6, "step": 100},
    ]
    assert study.grid["axes"] == {"model": ["org/a", "org/b"]}

    folder = tmp_path / "lm-eval"
    folder.mkdir()
    data = {
        "results": {"gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 0.5,
                              "exact_match_stderr,strict-match": 0.2}},
        "config": {"model_args": "pretrained=org/c,dtype=bfloat16"},
        "n-samples": {"gsm8k": {"original": 4, "effective": 4}},
    }  # fmt: skip
    (folder / "results_1.json").write_text(json.dumps(data))
    study = external_study([folder / "results_1.json"], tmp_path / "out")
    assert (study.evaluations["questions"].iloc[0], study.evaluations["accuracy"].iloc[0]) == (4, 0.5)
    lines = [
        {
            "doc_id": i,
            "filter": f,
            "metrics": ["exact_match"],
            "exact_match": float(i % 2 if f == "strict-match" else 1),
        }
        for f in ("strict-match", "flexible-extract")
        for i in range(4)
    ]
    (folder / "samples_gsm8k_1.jsonl").write_text("\n".join(map(json.dumps, lines)))
    study = external_study([folder], tmp_path / "out")
    assert study.questions()["correct"].tolist() == [0, 1, 0, 1], "the first filter, question by question"
    assert study.grid["axes"] == {}


def _row(**changed):
    row = {"run": "r", "seed": 0, "step": 1, "benchmark": "b", "question": "q", "samples": 4, "correct": 2}
    return {**row, **changed}


def _percent(percent, **changed):
    row = {"run": "r", "seed": 0, "benchmark": "b", "questions": 30, "samples_per_question": 1}
    return {**row, "accuracy_percent": percent, **changed}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([_row(correct=5)], "`correct` must be between 0 and samples, got 5"),
        ([_row(samples="many")], "`samples` must be a number, got 'many'"),
        ([_row(), _row()], "given twice"),
        ([_row(step=1.5)], "`step` must be a whole number"),
        ([{k: v for k, v in _row().items() if k != "samples"}], "column `samples` is missing"),
        ([_row(), _row(run="s")], "equal levels and seed"),
        ([_row(**{"axis.a": 1}), _row(question="p", **{"axis.a": 2})], "several values of `a`"),
        ([], "cannot be read"),
        ([_row(benchmark="")], "`benchmark` is blank"),
        ([_row(question=None)], "`question` is blank"),
        ([_row(benchmark="all")], "no benchmark can be called all"),
        *(
            (
                [_row(run=run, **{f"axis.{name}": run}) for run in "ab"],
                f"`{name}` cannot be an axis: it is a column of the tables",
            )
            for name in ("accuracy", "ci_low", "kind", "label", "status")
        ),
        (
            [_percent(0.467), _percent(0.0, run="s", seed=1)],
            "`accuracy_percent` is at most 0.467: a fraction?",
        ),
    ],
)
def test_mistakes_in_the_file(tmp_path, capsys, rows, said):
    file = tmp_path / "long.csv"
    pd.DataFrame(rows).to_csv(file, index=False)
    assert main(["--external", str(file), "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[0]
    assert len(lines) <= 3
    assert not (tmp_path / "out").exists()


def test_levels_are_what_the_file_says(tmp_path):
    levels = ["None", "NA", "1e-6", "048", "48", "0.50", ""]
    rows = [_row(run=f"r{i}", **{"axis.x": level}) for i, level in enumerate(levels)]
    pd.DataFrame(rows).to_csv(tmp_path / "long.csv", index=False)
    study = external_study([tmp_path / "long.csv"], tmp_path / "out", baselines={"x": "1e-6"})
    assert study.grid["axes"] == {"x": [*levels[:-1], "–"]}
    assert study.questions()["correct"].tolist() == [2] * len(levels)


def test_a_constant_column_may_be_called_anything(tmp_path):
    rows = [_row(run=run, device="A40", status="done", reward=run) for run in "ab"]
    pd.DataFrame(rows).drop(columns="seed").to_csv(tmp_path / "long.csv", index=False)
    study = external_study([tmp_path / "long.csv"], tmp_path / "out")
    assert study.grid["axes"] == {"reward": ["a", "b"]}
    assert study.runs["status"].tolist() == ["finished", "finished"]


def test_right_and_wrong_as_truth_values(tmp_path):
    frame = pd.DataFrame([_row(question=q, samples=1, correct=q < 3) for q in range(4)])
    frame.to_csv(tmp_path / "long.csv", index=False)
    frame.to_parquet(tmp_path / "long.parquet")
    for kind in ("csv", "parquet"):
        study = external_study([tmp_path / f"long.{kind}"], tmp_path / "out")
        assert study.evaluations["accuracy"].tolist() == [0.75]


def test_a_parquet_file_may_have_its_runs_as_index(tmp_path):
    _long().to_parquet(tmp_path / "plain.parquet")
    _long().set_index("run").to_parquet(tmp_path / "index.parquet")
    plain, index = (external_study([tmp_path / f"{n}.parquet"], tmp_path / "out") for n in ("plain", "index"))
    pd.testing.assert_frame_equal(plain.questions(), index.questions())


def test_means_over_tasks_are_no_tasks(tmp_path):
    algebra, geometry = {"exact_match,none": 0.25}, {"exact_match,none": 0.75}
    lm_eval = {
        "results": {"math": {"exact_match,none": 0.5}, "math_algebra": algebra, "math_geometry": geometry},
        "group_subtasks": {"math": ["math_algebra", "math_geometry"], "math_algebra": []},
        "config": {"model_args": "pretrained=org/a"},
        "n-samples": {"math_algebra": {"effective": 100}, "math_geometry": {"effective": 200}},
    }
    lighteval = {
        "config_general": {"model_name": "org/a"},
        "results": {
            "lighteval|math:algebra|4": {"extractive_match": 0.25},
            "lighteval|math:geometry|4": {"extractive_match": 0.75},
            "lighteval|math:_average|4": {"extractive_match": 0.5},
            "all": {"extractive_match": 0.5},
        },
        "config_tasks": {
            "lighteval|math:algebra": {"effective_num_docs": 100},
            "lighteval|math:geometry": {"effective_num_docs": 200},
        },
    }
    for data in (lm_eval, lighteval):
        (tmp_path / "results.json").write_text(json.dumps(data))
        found = external_study([tmp_path / "results.json"], tmp_path / "out").evaluations
        assert found["questions"].tolist() == [100, 200]
        assert found["accuracy"].tolist() == [0.25, 0.75]


def test_questions_are_counted_of_the_task_itself(tmp_path):
    data = {
        "config_general": {"model_name": "org/a"},
        "results": {"lighteval|math|0": {"extractive_match": 0.5}},
        "config_tasks": {
            "lighteval|math_500|0": {"effective_num_docs": 500},
            "lighteval|math|0|0": {"effective_num_docs": 5000},
        },
    }
    (tmp_path / "results.json").write_text(json.dumps(data))
    study = external_study([tmp_path / "results.json"], tmp_path / "out")
    assert study.evaluations["questions"].tolist() == [5000]


def test_names_are_drawn_as_they_are(tmp_path):
    """No mathematics between dollars, and no level without a legend for its first character."""
    for levels in (("$\\frac$", "cost $5"), ("_base", "_other")):
        frame = _long(questions=6)
        frame["axis.reward"] = frame["axis.reward"].map(dict(zip(("accuracy", "cosine"), levels)))
        frame.to_csv(tmp_path / "long.csv", index=False)
        assert main(["--external", str(tmp_path / "long.csv"), "--out", str(tmp_path), "--quiet"]) == 0
        (drawn,) = [
            text
            for path in (tmp_path / "figures").glob("curves*.svg")
            if levels[0] in (text := path.read_text())
        ]
        assert levels[1] in drawn


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"claims": ["x"]}, "claim 1: must be an object, got 'x'"),
        ({"claims": [{"kind": ["best"]}]}, "claim 1: `kind` must be one of"),
        ({"claims": [], "tables": None}, "`tables` must be an object, got None"),
        ({"claims": [], "questions": {"b": "x"}}, "`questions.b` must be a whole number > 0, got 'x'"),
        ({"claims": [], "tables": {"accuracy": "empty.csv"}}, "empty.csv: cannot be read: No columns"),
        ({"claims": [], "tables": {"cost": "table.csv"}}, "table.csv: column `cost_usd` is missing"),
        (
            {
                "claims": [{"text": "t", "kind": "difference", "benchmark": "b", "better": "p", "than": "q"}],
                "tables": {"accuracy": "table.csv"},
            },
            "claim of 'b': needs its `questions`",
        ),
    ],
)
def test_mistakes_in_claims(tmp_path, capsys, claims, said):
    pd.DataFrame([_row()]).to_csv(tmp_path / "long.csv", index=False)
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "table.csv").write_text("model,b\np,50\nq,40\n")
    (tmp_path / "claims.json").write_text(json.dumps(claims))
    arguments = ["--external", str(tmp_path / "long.csv"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--claims", str(tmp_path / "claims.json")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[0]
    assert len(lines) <= 3


def test_mistakes_in_the_command(tmp_path, capsys):
    file = tmp_path / "long.csv"
    pd.DataFrame([_row(**{"axis.a": 1}), _row(run="s", **{"axis.a": 2})]).to_csv(file, index=False)
    out = ["--out", str(tmp_path / "out")]
    for arguments, said in (
        (["--external", str(file)], "needs --out"),
        (["--external", str(file), *out, "--delta", "2"], "--delta must be"),
        (["--external", str(file), *out, "--baseline", "b=1"], "no axis `b`"),
        (["--external", str(file), *out, "--baseline", "a=3"], "no such level (1, 2)"),
        (["--external", str(file), *out, "--baseline", "a"], "must be AXIS=LEVEL"),
        (["--external", str(tmp_path / "no.csv"), *out], "no such file"),
        (["--external", str(file), *out, "--claims", str(tmp_path / "no.json")], "cannot be read"),
        ([], "give result folders"),
        ([str(tmp_path), "--delta", "0.1"], "go with --external"),
    ):
        assert main(arguments) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert said in lines[0], lines
        assert len(lines) <= 3
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(SpecError, match="no result of lm-eval"):
        external_study([tmp_path / "x.json"], tmp_path / "out")


def test_report_of_external_results(tmp_path):
    _long(steps=(10, 20, 30)).to_csv(tmp_path / "long.csv", index=False)
    out = tmp_path / "out"
    arguments = [
        "--external",
        str(tmp_path / "long.csv"),
        "--out",
        str(out),
        "--baseline",
        "reward=cosine",
        "--quiet",
    ]
    assert main(arguments) == 0
    with (out / "tables" / "verdicts.csv").open() as file:
        rows = {
            (r["family"], r["axis"], r["level"]): r for r in csv.DictReader(file) if r["benchmark"] == "all"
        }
    assert rows["primary", "reward", "accuracy"]["verdict"] == "hurts"
    assert {p.name for p in out.iterdir()} == {"figures", "report.html", "report.json", "report.md", "tables"}
    assert not (out / "tables" / "cost.csv").exists(), "what was not measured is not printed"
    data = json.loads((out / "report.json").read_text())
    assert data["answer"]["hurts"][0].startswith("reward = accuracy (against cosine)")
    assert "$0" not in (out / "report.html").read_text()
    assert r"\begin{tabular}" in (out / "tables" / "verdicts.tex").read_text()
