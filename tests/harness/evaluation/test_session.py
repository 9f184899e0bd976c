"""`harness.evaluate` from the command line: continued, truncated, re-scored, shared, exported."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from harness import evaluate
from harness.data import hub, sources
from harness.evaluation.benchmarks import REGISTRY, benchmark
from harness.evaluation.evaluate import Evaluator
from harness.evaluation.exports import export
from harness.evaluation.tables import evaluations_in
from harness.reporting.sources.external_json import read_json_results
from harness.spec.errors import SpecError
from harness.store.folders import RunFolder

MODEL = ["--model", "tiny", "--part-rows", "16"]
OLD = Path(__file__).parents[1] / "store" / "assets" / "schema-1"
SAMPLED = [*MODEL, "--benchmarks", "sums:2x2@12", "gym:chain_sum@6", "--samples", "4", "--temperature", "1"]


def run(*arguments):
    assert evaluate.main([str(a) for a in arguments]) == 0


def record_of(out, name, cap):
    (found,) = [
        r for _, r in evaluations_in(out) if r.benchmark == name and r.settings.max_completion_tokens == cap
    ]
    return found


def samples_of(out, name, cap):
    record = record_of(out, name, cap)
    (path,) = out.rglob(f"*.{name}.{record.evaluation_id}.parquet")
    return pd.read_parquet(path)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    run(*SAMPLED, "--max-tokens", 48, "--caps", 12, "--out", folder, "--export", folder / "export")
    return folder


def comparable(record):
    """What does not depend on how a cap was served."""
    times = ("timing", "memory", "created_at", "truncated_from", "repeats", "provenance", "samples_digest")
    return {k: v for k, v in vars(record).items() if k not in times}


COLUMNS = ["question_id", "sample", "seed", "text", "answer", "correct", "parsable", "truncated", "tokens"]


@pytest.mark.parametrize("name", ["sums-2x2", "gym-chain_sum"])
def test_a_cap_by_truncation_is_the_cap_by_sampling(out, tmp_path, name):
    """At temperature 1: every draw belongs to the request and the position."""
    run(*SAMPLED, "--max-tokens", 12, "--out", tmp_path)
    assert record_of(tmp_path, name, 12).truncated_from is None
    assert record_of(out, name, 12).truncated_from.max_completion_tokens == 48
    assert comparable(record_of(out, name, 12)) == comparable(record_of(tmp_path, name, 12))
    first, second = samples_of(out, name, 12), samples_of(tmp_path, name, 12)
    assert first[COLUMNS].equals(second[COLUMNS])
    assert [list(a) for a in first["token_ids"]] == [list(b) for b in second["token_ids"]]
    assert first["truncated"].mean() > 0


@pytest.mark.parametrize("cap", [64, 32])
def test_512_tokens_cut_short_are_a_short_evaluation_under_greedy_decoding(cap, tmp_path):
    """Sums whose working goes beyond 32 tokens; `tiny` never rambles on to 64."""
    questions = tmp_path / "q.jsonl"
    terms = [[10 + 7 * i % 83 for i in range(n)] for n in (2, 6, 10, 16)]
    rows = [{"question": "+".join(map(str, t)) + "=", "answer": str(sum(t))} for t in terms]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    greedy = [*MODEL, "--benchmarks", questions, "--temperature", "0"]
    run(*greedy, "--max-tokens", 512, "--caps", cap, "--out", tmp_path / "long")
    run(*greedy, "--max-tokens", cap, "--out", tmp_path / "short")
    assert samples_of(tmp_path / "long", "q", 512)["tokens"].max() > 32
    first, second = (samples_of(tmp_path / where, "q", cap) for where in ("long", "short"))
    assert first["truncated"].any() == (cap == 32)
    assert first[COLUMNS].equals(second[COLUMNS])
    long, short = (record_of(tmp_path / where, "q", cap) for where in ("long", "short"))
    assert comparable(long) == comparable(short)


def test_a_smaller_cap_is_served_by_what_is_on_file(out, tmp_path, monkeypatch):
    shutil.copytree(out, tmp_path / "copy")
    monkeypatch.setattr(Evaluator, "complete", None)
    run(*SAMPLED, "--max-tokens", 20, "--out", tmp_path / "copy")
    assert record_of(tmp_path / "copy", "sums-2x2", 20).truncated_from.max_completion_tokens == 48


def test_given_again_it_loads_no_model(out, monkeypatch):
    monkeypatch.setattr("harness.models.loading.load_model", None)
    before = (out / "tables" / "evaluations.csv").read_bytes()
    run(*SAMPLED, "--max-tokens", 48, "--caps", 12, "--out", out)
    assert (out / "tables" / "evaluations.csv").read_bytes() == before


def test_scoring_again_from_parquet_gives_the_same_tables(out, monkeypatch, capsys):
    monkeypatch.setattr("harness.models.loading.load_model", None)
    before = {p: p.read_bytes() for p in [*out.rglob("*.csv"), *out.rglob("*.md"), *out.rglob("*.json")]}
    run("--rescore", out)
    assert "every verdict is as it was" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in before} == before


def test_scoring_again_sees_another_reference(out, tmp_path, capsys):
    """The figures come from the completions on file: with the references changed they change too."""
    shutil.copytree(out, tmp_path / "copy")
    for folder, record in evaluations_in(tmp_path / "copy"):
        if record.benchmark == "sums-2x2":
            frame = folder.samples(record.step, record.benchmark, record.evaluation_id, None)
            folder.save_evaluation(record, frame.assign(gold="-1"))
    run("--rescore", tmp_path / "copy")
    assert "verdicts changed" in capsys.readouterr().out
    assert record_of(tmp_path / "copy", "sums-2x2", 48).accuracy == 0


def test_a_damaged_evaluation_is_set_aside_and_made_again(out, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    (path,) = copy.rglob(f"*.sums-2x2.{record_of(copy, 'sums-2x2', 48).evaluation_id}.parquet")
    content, before = bytearray(path.read_bytes()), record_of(copy, "sums-2x2", 48)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert evaluate.main(["--rescore", str(copy)]) == 2
    run(*SAMPLED, "--max-tokens", "48", "--out", copy)
    assert comparable(record_of(copy, "sums-2x2", 48)) == comparable(before)
    assert samples_of(copy, "sums-2x2", 48)[COLUMNS].equals(samples_of(out, "sums-2x2", 48)[COLUMNS])
    assert path.with_name(f"{path.name}.damaged-1").read_bytes() == content


def test_an_interrupted_evaluation_continues_with_the_next_part(out, tmp_path, monkeypatch):
    """Killed while the third part is sampled: the first two are not sampled again, and the result is the same."""
    real, asked = Evaluator.complete, []

    def dying(self, problems, prompts, chosen):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append([problems[i].id for i in chosen])
        return real(self, problems, prompts, chosen)

    def noting(self, problems, prompts, chosen):
        asked.append([problems[i].id for i in chosen])
        return real(self, problems, prompts, chosen)

    arguments = [*SAMPLED, "--max-tokens", "48", "--out", str(tmp_path)]
    monkeypatch.setattr(Evaluator, "complete", dying)
    assert evaluate.main(arguments) == 130
    assert len(list(tmp_path.rglob("part-*.parquet"))) == 2
    monkeypatch.setattr(Evaluator, "complete", noting)
    assert evaluate.main(arguments) == 0
    everyone = [i for part in asked for i in part]
    assert len(everyone) == len(set(everyone)) == 18
    assert not list(tmp_path.rglob("part-*.parquet"))
    for name in ("sums-2x2", "gym-chain_sum"):
        assert comparable(record_of(tmp_path, name, 48)) == comparable(record_of(out, name, 48))
        assert samples_of(tmp_path, name, 48)[COLUMNS].equals(samples_of(out, name, 48)[COLUMNS])


@pytest.mark.parametrize(("first", "then"), [("8", "16"), ("16", "8")])
def test_continued_in_parts_of_another_size_every_question_is_asked(first, then, tmp_path, monkeypatch):
    real, done = Evaluator.complete, []

    def dying(self, *arguments):
        if done:
            raise KeyboardInterrupt
        done.append(True)
        return real(self, *arguments)

    arguments = ["--model", "tiny", "--benchmarks", "sums:2x2@12", "--samples", "2", "--max-tokens", "16"]
    monkeypatch.setattr(Evaluator, "complete", dying)
    assert evaluate.main([*arguments, "--out", str(tmp_path / "cut"), "--part-rows", first]) == 130
    monkeypatch.setattr(Evaluator, "complete", real)
    for where in ("cut", "whole"):
        run(*arguments, "--out", tmp_path / where, "--part-rows", then)
    cut, whole = (samples_of(tmp_path / where, "sums-2x2", 16) for where in ("cut", "whole"))
    assert cut[COLUMNS].equals(whole[COLUMNS])
    assert len(cut) == 24


def test_settings_and_prompt_stand_in_every_row(out):
    table = pd.read_csv(out / "tables" / "evaluations.csv")
    assert len(table) == 4
    assert set(table["template"]) == {"{question}"}
    assert set(table["temperature"]) == {1.0}
    row = table[(table["benchmark"] == "sums-2x2") & (table["max_completion_tokens"] == 48)].iloc[0]
    record = record_of(out, "sums-2x2", 48)
    assert row["majority_at_4"] == pytest.approx(record.majority_at_k["4"], rel=1e-5)
    assert [row["pass_at_4_ci_low"], row["pass_at_4_ci_high"]] == pytest.approx(
        record.intervals["pass_at_k.4"], rel=1e-4
    )


def test_exports_hold_the_same_figures(out):
    (theirs,) = (out / "export" / "lm_eval").rglob("results_*.json")
    (light,) = (out / "export" / "lighteval").rglob("results_*.json")
    results, other = json.loads(theirs.read_text()), json.loads(light.read_text())
    assert set(results["results"]) == {"sums-2x2_48", "sums-2x2_12", "gym-chain_sum_48", "gym-chain_sum_12"}
    record = record_of(out, "sums-2x2", 48)
    row = results["results"]["sums-2x2_48"]
    assert row["exact_match,none"] == record.accuracy
    assert row["pass@4,none"] == record.pass_at_k["4"]
    assert row["exact_match_stderr,none"] > 0
    assert results["n-samples"]["sums-2x2_48"] == {"original": 12, "effective": 12}
    assert other["results"]["sums-2x2_48|0"]["pass@k:k=4&n=4"] == record.pass_at_k["4"]
    mean = sum(r.accuracy for _, r in evaluations_in(out)) / 4
    assert other["results"]["all"]["avg@n:n=4"] == pytest.approx(mean)
    (samples,) = (out / "export").rglob("samples_sums-2x2_48_*.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    assert sum(line["exact_match"] for line in lines) / 12 == pytest.approx(record.accuracy)
    assert all(len(line["resps"][0]) == 4 for line in lines)


def test_exports_are_read_back_as_they_were(out):
    """Every question with its samples from lm-eval's form, every accuracy from lighteval's."""
    found, _ = read_json_results([out / "export" / "lm_eval"])
    totals, _ = read_json_results([out / "export" / "lighteval"])
    for _, record in evaluations_in(out):
        name, cap = record.benchmark, record.settings.max_completion_tokens
        known = samples_of(out, name, cap).groupby("question_id")["correct"].agg(["size", "sum"])
        own = found[found["benchmark"] == f"{name}_{cap}"].set_index("question").sort_index()
        assert own["samples"].to_dict() == known["size"].to_dict()
        assert own["correct"].to_dict() == pytest.approx(known["sum"].to_dict())
        (row,) = totals[totals["benchmark"] == f"{name}_{cap}"].to_dict("records")
        assert (row["questions"], row["samples_per_question"]) == (record.questions, record.samples)
        assert row["accuracy_percent"] == pytest.approx(100 * record.accuracy)
    assert set(found["run"]) == set(totals["run"]) == {"tiny"}


def test_checkpoints_of_one_run_are_exported_apart(out, tmp_path):
    run_folder, record = evaluations_in(out)[0]
    samples = samples_of(out, record.benchmark, record.settings.max_completion_tokens)
    run_folder = RunFolder(tmp_path / "run")
    for step, correct in ((1, False), (2, True)):
        run_folder.save_evaluation(
            replace(record, step=step, accuracy=float(correct)), samples.assign(correct=correct)
        )
    export([(run_folder, r) for r in run_folder.evaluations()], tmp_path / "export")
    (results,) = (tmp_path / "export").rglob("lm_eval/*/results_*.json")
    found = json.loads(results.read_text())["results"]
    label = f"{record.benchmark}_step"
    assert {task: row["exact_match,none"] for task, row in found.items()} == {
        f"{label}-1": 0,
        f"{label}-2": 1,
    }
    for step, correct in ((1, 0), (2, 1)):
        (path,) = (tmp_path / "export").rglob(f"samples_{label}-{step}_*.jsonl")
        assert all(json.loads(line)["exact_match"] == correct for line in path.read_text().splitlines())
    for form in ("lm_eval", "lighteval"):
        rows, _ = read_json_results([tmp_path / "export" / form])
        assert set(rows["benchmark"]) == {record.benchmark}
        right = "correct" if "correct" in rows else "accuracy_percent"
        assert (rows.groupby("step")[right].mean() > 0).to_dict() == {1: False, 2: True}


def test_the_base_run_of_a_matrix_is_found(out):
    """The folder is the one that a grid with the same model and prompt gives its base run."""
    from harness.models.catalog import resolve_model
    from harness.spec.identity import base_identity
    from harness.spec.recipe import ModelSpec, Recipe

    recipe = Recipe.model_validate(
        {
            "model": "tiny",
            "data": {"sources": [{"source": "champ"}]},
            "reward": {"functions": [{"name": "accuracy"}, {"name": "boxed"}]},
            "optimizer": {"learning_rate": 0.1},
        }
    )
    digest = base_identity(recipe, model_fingerprint=resolve_model(ModelSpec(name="tiny")).fingerprint).digest
    assert [p.name for p in (out / "runs").iterdir()] == [digest]


@pytest.mark.parametrize("name", [n for n, (s, _) in REGISTRY.items() if s.source == "hub"])
def test_hub_benchmarks_load_by_their_columns(name, monkeypatch):
    """With the hub's answer replaced by rows in its own columns: what comes out are questions with answers."""
    import datasets

    source, count = REGISTRY[name]
    answers = [f"so\n#### {i}" if source.answer_pattern == "gsm8k" else str(i) for i in (1, 2, 3)]
    asked = {}

    def load(dataset, config, *, split, revision):
        asked.update(dataset=dataset, config=config, split=split)
        return datasets.Dataset.from_dict(
            {source.question: [f"q{i}" for i in range(3)], source.answer: answers, "extra": [0, 0, 0]}
        )

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub, "check_hub", lambda spec: None)
    problems = sources.load_source(benchmark(name).source, split="test", count=2, seed=0)
    assert [(p.question, p.answer) for p in problems] == [("q0", "1"), ("q1", "2")]
    assert asked == {"dataset": source.dataset, "config": source.config, "split": source.split}
    assert count in (30, 40, 272, 500, 675, 1319)


@pytest.mark.parametrize(("cap", "hint"), [(1000, "a cap of at most 9"), (64, "leave the question out")])
def test_a_prompt_beyond_the_context_is_refused(cap, hint, tmp_path, capsys):
    question = "+".join(["1"] * (520 if cap == 64 else 10)) + "="
    (tmp_path / "long.jsonl").write_text(json.dumps({"question": question, "answer": "0"}) + "\n")
    arguments = [
        *MODEL,
        "--benchmarks",
        str(tmp_path / "long.jsonl"),
        "--samples",
        "1",
        "--out",
        str(tmp_path),
    ]
    assert evaluate.main([*arguments, "--max-tokens", str(cap)]) == 2
    error = capsys.readouterr().err.splitlines()[-2:]
    assert error[0].startswith("error: question 'long:0': its prompt of ")
    assert error[1].startswith(f"  {hint}")


def test_names_of_benchmarks(tmp_path):
    assert benchmark("champ@7").questions == 7
    assert benchmark("champ", questions=5).questions == 5
    assert benchmark("sums:3x2").source.terms == (3,)
    assert benchmark("gym:gcd").questions == 100
    file = tmp_path / "my file.jsonl"
    file.write_text('{"problem": "1+1", "answer": 2}\n')
    assert benchmark(str(file)).name == "my-file"
    assert benchmark(f"aime24={file}").name == "aime24"
    assert benchmark(f"aime24={file}").source.question == "problem"
    with pytest.raises(SpecError, match=r"benchmark 'my sums=.*pattern.*got 'my sums'"):
        benchmark(f"my sums={file}")
    equal = tmp_path / "a=b" / "_c=d.jsonl"
    equal.parent.mkdir()
    equal.write_text(file.read_text())
    assert benchmark(f"x={equal}").name == "x"
    for named in (f"x={equal}", str(equal)):
        assert benchmark(named).source.path == str(equal)
    assert benchmark(str(equal)).name == "c-d"


def test_benchmarks_of_the_command_line_complete_a_file(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("samples: 3\n")
    run(*MODEL, "--config", file, "--benchmarks", "sums:2x1@2", "--max-tokens", "16", "--out", tmp_path)
    assert record_of(tmp_path, "sums-2x1", 16).samples == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmarks", "champ"], r"--model: missing"),
        (["--model", "tiny"], r"--benchmarks: missing"),
        (["--model", "tiny", "--benchmarks", "math50"], r"no benchmark 'math50'\n  did you mean \"math500\"\?"),
        (["--model", "tiny", "--benchmarks", "champ@0"], r"asks for 0 questions"),
        (["--model", "tiny", "--benchmarks", "none.jsonl"], r"none\.jsonl: no such file"),
        (["--model", "tiny", "--benchmarks", "gym:gdc"], r"no family 'gdc'"),
        (["--model", "tyni", "--benchmarks", "champ"], r"model 'tyni'"),
        (["--model", "tiny", "--benchmarks", "champ", "--max-tokens", "4000"], r"--max-tokens: 4000 leaves no room"),
        (["--model", "tiny", "--benchmarks", "champ", "--max-tokens", "64", "--caps", "65"], r"--caps: 65 is beyond"),
        (["--model", "tiny", "--benchmarks", "champ", "--top-p", "2"], r"top_p: .*got 2\.0"),
        (["--model", "tiny", "--benchmarks", "champ", "--temperature", "0", "--samples", "4"], r"must be 1 at temp"),
        (["--model", "tiny", "--benchmarks", "champ", "champ"], r"benchmark names must be distinct"),
        (["--model", "tiny", "--benchmarks", "sums:2x1@300"], r"asks for 300 questions, its source has \d+"),
        (["--rescore", "nowhere"], r"nowhere holds no evaluations"),
        (["--rescore", str(OLD)], r"the evaluation of easy at step 2 has no settings\n  .*evaluate again"),
        (["--model", "tiny", "--benchmarks", "sums:0x2"], r"benchmark 'sums:0x2': .*got 0"),
    ],
)  # fmt: skip
def test_wrong_input_ends_in_two_lines(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert evaluate.main(arguments) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert len(error.strip().splitlines()) <= 3
    assert not list(tmp_path.rglob("runs"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "1+1=", "answer": "so\n#### 2"},
            "benchmark 'own': 1 of 1 references in column 'answer' are",
        ),
        ({"question": "1+1=", "answer": None}, "own.jsonl:1: 'answer' must be text or a number, got null"),
    ],
)
def test_a_file_that_cannot_be_judged_is_refused_before_a_model_is_loaded(row, message, tmp_path, capsys):
    (tmp_path / "own.jsonl").write_text(json.dumps(row) + "\n")
    arguments = [
        "--model",
        "tiny",
        "--benchmarks",
        str(tmp_path / "own.jsonl"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert evaluate.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
