"""Result files of lm-eval and lighteval as people have them: what is read, and what is said of the rest."""

import bz2
import codecs
import gzip
import itertools
import json
import lzma
import math
import random

import pandas as pd
import pytest

from harness.report import main
from harness.reporting.sources.choices import Choices, parse_run
from harness.reporting.sources.external import external_study
from harness.reporting.sources.external_json import read_json_results
from harness.reporting.sources.metric_names import parse_metric
from harness.spec.errors import SpecError


def lm_eval(results, *, args="pretrained=me/m", questions=100, **more):
    counted = {task: {"original": questions, "effective": questions} for task in results}
    return {"results": results, "n-samples": counted, "config": {"model": "hf", "model_args": args}, **more}


def lighteval(results, *, model="me/m", questions=100, **general):
    counted = {task: {"original_num_docs": questions, "effective_num_docs": questions} for task in results}
    return {"config_general": {"model_name": model, **general}, "results": results, "config_tasks": counted}


def sample(doc_id, value, chosen="none", metric="exact_match", **more):
    return {"doc_id": doc_id, "filter": chosen, "metrics": [metric], metric: value, **more}


@pytest.fixture
def written(tmp_path):
    numbers = itertools.count()

    def write(data, name=None):
        path = tmp_path / (name or f"results_{next(numbers)}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
        return path

    return write


def lines(samples):
    return "\n".join(json.dumps(s, ensure_ascii=False) for s in samples) + "\n"


def read(*paths, **chosen):
    """Rows by totals as dictionaries, and all notes in one text by their title."""
    frame, notes = read_json_results(paths, Choices(**chosen) if chosen else None)
    return frame, {title: "\n".join(sentences) for title, sentences in notes.parts()}


def percent(frame):
    if "question" in frame:
        share = frame.assign(share=100 * frame["correct"] / frame["samples"])
        return share.groupby(["run", "benchmark"], sort=False)["share"].mean().to_dict()
    return {(r["run"], r["benchmark"]): r["accuracy_percent"] for r in frame.to_dict("records")}


METRICS = {
    "acc": ("acc", None, 1),
    "acc,none": ("acc", None, 1),
    "acc_norm,none": ("acc_norm", None, 1),
    "exact_match,strict-match": ("exact_match", "strict-match", 1),
    "prompt_level_strict_acc,none": ("prompt_level_strict_acc", None, 1),
    "math_verify,none": ("math_verify", None, 1),
    "qem": ("qem", None, 1),
    "extractive_match": ("extractive_match", None, 1),
    "pass@1,create_test": ("pass@1", "create_test", 1),
    "pass_at_1,none": ("pass_at_1", None, 1),
    "pass@k:k=1&n=4": ("pass@k:k=1&n=4", None, 4),
    "pass@k:k=4&n=16": ("pass@k:k=4&n=16", None, 4),
    "avg@n:n=4": ("avg@n:n=4", None, 4),
    "pass@k_with_k&n": ("pass@k_with_k&n", None, 1),
    "avg@n_with_n": ("avg@n_with_n", None, 1),
    "math_pass@1:4_samples": ("math_pass@1:4_samples", None, 4),
    "gpqa_pass@1:8_samples": ("gpqa_pass@1:8_samples", None, 8),
    "codegen_pass@1:16": ("codegen_pass@1:16", None, 16),
    "maj@8": ("maj@8", None, 1),
    "maj@n:n=4": ("maj@n:n=4", None, 1),
    "maj@k": ("maj@k", None, 1),
    "loglikelihood_acc_norm_nospace": ("loglikelihood_acc_norm_nospace", None, 1),
}


@pytest.mark.parametrize("key", METRICS)
def test_accuracies_are_known_by_name(key):
    metric = parse_metric(key)
    assert (metric.name, metric.filter, metric.samples) == METRICS[key]
    assert metric.rank is not None


@pytest.mark.parametrize(
    "key", ["f1,none", "bleu", "word_perplexity,none", "G-Pass@16:48_samples", "brier_score", "mc2", "rouge1"]
)
def test_what_is_no_accuracy_by_name(key):
    assert parse_metric(key).rank is None


def test_two_filters_are_a_choice_that_is_said(written):
    task = {"exact_match,strict-match": 0.0, "exact_match,flexible-extract": 0.63}
    path = written(lm_eval({"gsm8k": task}))
    frame, notes = read(path)
    assert percent(frame) == {("me/m", "gsm8k"): 0}
    assert notes["Metric of each benchmark"] == (
        "gsm8k: exact_match,strict-match; also there: exact_match,flexible-extract "
        "(--filter flexible-extract reads it)"
    )
    for given in ({"filters": ["flexible-extract"]}, {"filters": ["gsm8k=flexible-extract"]},
                  {"metrics": ["exact_match,flexible-extract"]}):  # fmt: skip
        frame, notes = read(path, **given)
        assert percent(frame) == {("me/m", "gsm8k"): 63}
        assert notes["Metric of each benchmark"].startswith("gsm8k: exact_match,flexible-extract; also there")


def test_a_filter_holds_for_the_tasks_that_have_it(written):
    flexible = {"exact_match,strict-match": 0.1, "exact_match,flexible-extract": 0.6}
    path = written(lm_eval({"gsm8k": flexible, "arc": {"acc,none": 0.5}}))
    frame, _ = read(path, filters=["flexible-extract"])
    assert percent(frame) == {("me/m", "gsm8k"): 60, ("me/m", "arc"): 50}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"filters": ["flexible"]}, "--filter flexible: no such filter"),
        ({"filters": ["gsm8k=flexible"]}, "--filter gsm8k=flexible: no such filter"),
        ({"filters": ["arc=strict-match"]}, "no task `arc`"),
        ({"metrics": ["bleu"]}, "--metric bleu: no such metric"),
    ],
)
def test_a_choice_that_no_file_offers_is_refused(written, given, said):
    path = written(lm_eval({"gsm8k": {"exact_match,strict-match": 0.5}}))
    with pytest.raises(SpecError, match=said.replace("(", r"\(")) as error:
        read(path, **given)
    assert "strict-match" in str(error.value), "what there is, is said"


@pytest.mark.parametrize("task", ["math_500", "lighteval|math_500|0"])
def test_a_task_is_named_as_in_its_file_or_as_in_the_report(written, task):
    path = written(lighteval({"lighteval|math_500|0": {"pass@k:k=1&n=4": 0.5, "maj@n:n=4": 0.625}}))
    assert percent(read(path, metrics=[f"{task}=maj@n:n=4"])[0]) == {("me/m", "math_500"): 62.5}


def test_a_metric_may_hold_an_equals_sign(written):
    task = {"pass@k:k=1&n=4": 0.5, "pass@k:k=4&n=4": 0.75, "maj@n:n=4": 0.625}
    path = written(lighteval({"lighteval|math_500|0": task}))
    assert percent(read(path)[0]) == {("me/m", "math_500"): 50}
    assert percent(read(path, metrics=["pass@k:k=4&n=4"])[0]) == {("me/m", "math_500"): 75}
    assert percent(read(path, metrics=["math_500=maj@n:n=4"])[0]) == {("me/m", "math_500"): 62.5}


def test_every_task_is_read_by_a_metric_that_is_named(written):
    results = {
        "lighteval|math_500|0": {"math_pass@1:1_samples": 0.61, "math_pass@1:4_samples": 0.6235},
        "lighteval|gpqa:diamond|0": {"gpqa_pass@1:1_samples": 0.33, "gpqa_pass@1:1_samples_stderr": 0.03},
        "all": {"math_pass@1:1_samples": 0.61},
    }
    frame, notes = read(written(lighteval(results)))
    assert frame[["benchmark", "samples_per_question", "accuracy_percent"]].to_dict("records") == [
        {"benchmark": "math_500", "samples_per_question": 4, "accuracy_percent": pytest.approx(62.35)},
        {"benchmark": "gpqa:diamond", "samples_per_question": 1, "accuracy_percent": 33},
    ]
    assert "math_pass@1:4_samples" in notes["Metric of each benchmark"]
    assert "gpqa_pass@1:1_samples" in notes["Metric of each benchmark"]


def test_files_are_compared_by_a_metric_that_all_of_them_have(written):
    both = written(lm_eval({"hellaswag": {"acc,none": 0.5, "acc_norm,none": 0.7}}, args="pretrained=a"))
    one = written(lm_eval({"hellaswag": {"acc_norm": 0.6}}, args="pretrained=b"))
    assert percent(read(both, one)[0]) == {("a", "hellaswag"): pytest.approx(70), ("b", "hellaswag"): 60}


def test_a_benchmark_of_another_metric_is_left_out_by_name(written):
    first = written(
        lm_eval({"gsm8k": {"exact_match,strict-match": 0.5}, "arc": {"acc,none": 0.5}}, args="pretrained=a")
    )
    second = written(
        lm_eval({"gsm8k": {"exact_match,none": 0.6}, "arc": {"acc,none": 0.6}}, args="pretrained=b")
    )
    frame, notes = read(first, second)
    assert set(percent(frame)) == {("a", "gsm8k"), ("a", "arc"), ("b", "arc")}
    assert f"gsm8k in {second}: it is not measured by exact_match,strict-match" in notes["Left out"]


def test_what_is_no_accuracy_is_named_and_can_be_asked_for(written):
    path = written(
        lm_eval(
            {"squad": {"f1,none": 0.8}, "arc": {"acc,none": 0.5, "acc_stderr,none": "N/A", "bleu,none": 3}}
        )
    )
    frame, notes = read(path)
    assert percent(frame) == {("me/m", "arc"): 50}
    assert f"squad in {path}: f1: not known as an accuracy (--metric NAME reads it)" in notes["Left out"]
    assert "not read, as they are not known as accuracies: bleu" in notes["Metric of each benchmark"]
    assert percent(read(path, metrics=["f1"])[0]) == {("me/m", "squad"): 80, ("me/m", "arc"): 50}


def test_lower_is_better_is_no_accuracy(written):
    path = written(
        lm_eval({"t": {"acc,none": 0.5}, "u": {"acc,none": 0.1}}, higher_is_better={"u": {"acc": False}})
    )
    frame, notes = read(path)
    assert percent(frame) == {("me/m", "t"): 50}
    assert "u: acc,none is better when lower" in notes["Left out"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # 63 can only be a percentage; then 0.5 of 4 questions can only be a fraction, and 0.5 of 1000 is uncertain.
        ({"a": (63.0, 100), "b": (0.5, 4)}, {"a": 63, "b": 50}),
        ({"a": (63.0, 100), "b": (0.5, 1000)}, {"a": 63}),
        ({"a": (63.0, 100), "b": (0.0, 1000)}, {"a": 63, "b": 0}),
        ({"a": (0.63, 100), "b": (1.0, 100)}, {"a": 63, "b": 100}),
        ({"a": (0.63, 100), "b": (-1, 100)}, {"a": 63}),
        ({"a": (0.63, 100), "b": (101, 100)}, {"a": 63}),
    ],
)
def test_fractions_and_percentages_are_told_apart_where_certain(written, values, expected):
    data = lm_eval({task: {"acc,none": value} for task, (value, _) in values.items()})
    data["n-samples"] = {task: {"effective": n} for task, (_, n) in values.items()}
    frame, notes = read(written(data))
    assert percent(frame) == {("me/m", task): pytest.approx(v) for task, v in expected.items()}
    assert all(task in notes["Left out"] for task in values if task not in expected)


MODELS = {
    "pretrained=me/base": ("me/base", 1),
    "pretrained=me/base,dtype=bfloat16,trust_remote_code=True,parallelize=False": ("me/base", 1),
    "pretrained=me/base,peft=out/a": ("me/base+out/a", 1),
    "pretrained=me/base,peft=out/checkpoint-200": ("me/base+out", 200),
    "pretrained=me/base,delta=d": ("me/base+d", 1),
    "pretrained=me/base,lora_local_path=/l/checkpoint-7": ("me/base+/l", 7),
    "pretrained=me/base,revision=main": ("me/base", 1),
    "pretrained=me/base,revision=v2": ("me/base@v2", 1),
    "pretrained=me/pythia,revision=step3000": ("me/pythia", 3000),
    "pretrained=me/base,load_in_4bit=True": ("me/base (load_in_4bit)", 1),
    "pretrained=me/base,load_in_4bit=False": ("me/base", 1),
    "pretrained=me/base-checkpoint-0050": ("me/base", 50),
    "pretrained=/data/a,b/m,dtype=auto": ("/data/a,b/m", 1),
    "model=gpt,base_url=http://localhost/v1?a=b": ("gpt", 1),
    "{'pretrained': 'me/base', 'peft': 'out/a'}": ("me/base+out/a", 1),
}  # fmt: skip


@pytest.mark.parametrize("args", MODELS)
def test_who_a_model_is(written, args):
    frame, _ = read(written(lm_eval({"t": {"acc,none": 0.5}}, args=args)))
    assert (frame["run"][0], frame["step"][0]) == MODELS[args]
    assert frame["axis.model"][0] == MODELS[args][0]


def test_a_model_without_a_step_is_no_checkpoint_of_its_run(written):
    final = written(lm_eval({"t": {"acc,none": 0.6}}, args="pretrained=me/m"))
    early = written(lm_eval({"t": {"acc,none": 0.5}}, args="pretrained=me/m,revision=step100"))
    frame, notes = read(final, early)
    assert frame[["run", "axis.model", "step"]].values.tolist() == [
        ["me/m (no step)", "me/m (no step)", 1], ["me/m", "me/m", 100],
    ]  # fmt: skip
    assert f"--run {final}=me/m,step=N" in notes["Beware"]
    frame, _ = read(final, early, runs=[parse_run(f"{final}=me/m,step=300")])
    assert frame[["run", "step"]].values.tolist() == [["me/m", 300], ["me/m", 100]]


def test_model_arguments_may_be_a_mapping(written):
    given = {
        "pretrained": "me/base",
        "peft": "out/checkpoint-30",
        "max_model_len": 4096,
        "peft_revision": None,
    }
    frame, _ = read(written(lm_eval({"t": {"acc,none": 0.5}}, args=given)))
    assert (frame["run"][0], frame["step"][0]) == ("me/base+out", 30)


def test_an_adapter_and_its_base_are_two_models_the_base_first(written):
    adapter = written(lm_eval({"gsm8k": {"acc,none": 0.41}}, args="pretrained=me/base,peft=out/a"))
    base = written(lm_eval({"math500": {"acc,none": 0.3}}, args="pretrained=me/base"))
    frame, notes = read(adapter, base)
    assert percent(frame) == {("me/base", "math500"): 30, ("me/base+out/a", "gsm8k"): 41}
    assert frame["run"].tolist() == ["me/base", "me/base+out/a"]
    assert f"{adapter} (lm-eval): me/base+out/a" in notes["Files read"]


def test_lighteval_models(written):
    cases = [
        ({"model_name": "me/m", "model_config": {"revision": "v3"}}, "me/m@v3"),
        (
            {"model_name": "me/m", "model_config": {"base_model": "me/base", "adapter_weights": True}},
            "me/base+me/m",
        ),
        ({"model_name": "", "model_config": {"model_name": "me/inner"}}, "me/inner"),
        ({"model_name": "me/m-step-20", "model_config": None}, "me/m"),
    ]
    for general, run in cases:
        data = lighteval({"aime24|0": {"extractive_match": 0.5}}) | {"config_general": general}
        assert read(written(data))[0]["run"][0] == run


def test_one_name_at_two_commits_is_two_models(written):
    paths = [
        written(lighteval({f"t{i}|0": {"extractive_match": 0.5}}, model_sha=sha))
        for i, sha in enumerate(("aaaaaaaaaa", "bbbbbbbbbb"))
    ]
    assert set(read(*paths)[0]["run"]) == {"me/m@aaaaaaa", "me/m@bbbbbbb"}


def test_a_file_without_a_model_is_named_after_its_folder_or_refused(written):
    data = lm_eval({"t": {"acc,none": 0.5}}, args="")
    alone = written(data, "me__m/results_1.json")
    assert read(alone)[0]["run"].tolist() == ["me__m"]
    second = written(lm_eval({"u": {"acc,none": 0.5}}, args=""), "me__m/results_2.json")
    with pytest.raises(SpecError, match="names no model") as error:
        read(alone, second)
    assert f"--run {alone}=NAME" in str(error.value)


def test_repeated_runs_can_be_told_apart(written, tmp_path):
    first, second = (
        written(
            lighteval({"custom|aime24|0": {"extractive_match": v}}, questions=30),
            f"results_2025-03-1{i}.json",
        )
        for i, v in enumerate((0.3, 0.4))
    )
    with pytest.raises(SpecError, match="aime24 of me/m is given twice") as error:
        read(first, second)
    assert len(str(error.value).splitlines()) <= 3
    for said in (f"--run {second}=me/m,seed=1", f"--run {second}=me/m,eval_seed=1", "[,step=100]"):
        assert said in str(error.value)
    frame, notes = read(
        first, second, runs=[parse_run(f"{p}=me/m,seed={i}") for i, p in enumerate((first, second))]
    )
    assert frame["seed"].tolist() == [0, 1]
    assert frame["run"].nunique() == 2
    assert set(frame["axis.model"]) == {"me/m"}
    assert notes["Files read"].splitlines()[1] == f"{second} (lighteval): me/m, seed 1"
    frame, _ = read(
        first, second, runs=[parse_run(f"{p.name}=,step={i + 6}") for i, p in enumerate((first, second))]
    )
    assert frame["step"].tolist() == [6, 7]
    levels = [parse_run(f"{first}=a,reward=cosine"), parse_run(f"{second}=b,axis.reward=accuracy")]
    frame, _ = read(first, second, runs=levels)
    assert frame["axis.reward"].tolist() == ["cosine", "accuracy"]
    assert "axis.model" not in frame
    with pytest.raises(SpecError, match="no level of `reward`"):
        read(first, second, runs=levels[:1])


def test_evaluations_of_one_checkpoint_are_pooled(written):
    for totals in (True, False):
        paths = []
        for i, right in enumerate(([0, 1], [1, 1])):
            paths.append(
                written(lm_eval({"t": {"acc,none": sum(right) / 2}}, questions=2), f"{i}/results_1.json")
            )
            if not totals:
                written(
                    lines([sample(q, v, metric="acc") for q, v in enumerate(right)]), f"{i}/samples_t_1.jsonl"
                )
        frame, _ = read(*paths, runs=[parse_run(f"{paths[1]}=me/m,eval_seed=1")])
        if totals:
            assert frame[["questions", "samples_per_question", "accuracy_percent"]].values.tolist() == [
                [2, 2, 75]
            ]
        else:
            assert frame[["question", "samples", "correct"]].values.tolist() == [["0", 2, 1], ["1", 2, 2]]
    more = written(lm_eval({"t": {"acc,none": 0.5}}, questions=3))
    other = written(lm_eval({"t": {"acc,none": 0.5}}, questions=2))
    with pytest.raises(SpecError, match="different numbers of questions"):
        read(other, more, runs=[parse_run(f"{more}=me/m,eval_seed=1")])


def test_a_folder_may_be_said_to_be_a_run(written, tmp_path):
    for seed in (0, 1):
        for task in ("arc", "boolq"):
            written(lm_eval({task: {"acc,none": 0.5}}), f"s{seed}/results_{task}.json")
    runs = [parse_run(f"{tmp_path}/s{seed}=mine,seed={seed}") for seed in (0, 1)]
    frame, _ = read(tmp_path, runs=runs)
    assert frame.groupby("run")["benchmark"].apply(list).tolist() == [["arc", "boolq"]] * 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nothing.json=a", "no such file among the results"),
        ("results.json=a", "several files are called so"),
    ],
)
def test_a_run_must_mean_one_file(written, tmp_path, given, said):
    for folder in "ab":
        written(lm_eval({"t": {"acc,none": 0.5}}, args=f"pretrained={folder}"), f"{folder}/results.json")
    with pytest.raises(SpecError, match=said):
        read(tmp_path, runs=[parse_run(given)])


@pytest.mark.parametrize(
    "given", ["a.json", "=a", "a.json=", "a.json=b,seed", "a.json=b,seed=x", "a=b,step=1,step=2"]
)
def test_mistakes_in_a_run(given):
    with pytest.raises(SpecError, match="--run"):
        parse_run(given)


def test_samples_of_a_task_whose_name_has_a_dash(written, tmp_path):
    written(
        lm_eval({"gsm8k-cot": {"exact_match,none": 0.5}}, questions=2),
        "results_2024-09-16T08-01-00.000000.json",
    )
    written(lines([sample(0, 0.0), sample(1, 1.0)]), "samples_gsm8k_cot_2024-09-16T08-01-00.000000.jsonl")
    frame, _ = read(tmp_path)
    assert frame[["question", "correct"]].to_dict("list") == {"question": ["0", "1"], "correct": [0, 1]}


def test_samples_that_may_be_of_two_tasks_are_not_used(written, tmp_path):
    written(
        lm_eval({"a-b": {"exact_match,none": 0.5}, "a.b": {"exact_match,none": 0.5}}, questions=2),
        "results_1.json",
    )
    written(lines([sample(0, 0.0), sample(1, 1.0)]), "samples_a_b_1.jsonl")
    frame, notes = read(tmp_path)
    assert "question" not in frame
    assert "samples_a_b_1.jsonl may be of a-b or of a.b" in notes["Left out"]


def test_line_separators_inside_a_string_end_no_line(written, tmp_path):
    odd = ["plain", "a\u2028b", "a\u2029b", "a\u0085b", "a\x0bb\x0cc\x1cd"]
    written(lm_eval({"t": {"exact_match,none": 0.4}}, questions=5), "results_1.json")
    text = lines(sample(i, float(i % 2), doc={"question": q}) for i, q in enumerate(odd))
    written(text.replace("\n", "\r\n"), "samples_t_1.jsonl")
    frame, notes = read(tmp_path)
    assert frame["correct"].tolist() == [0, 1, 0, 1, 0]
    assert "Left out" not in notes


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_marked_and_packed_files(tmp_path, pack, mark):
    suffix = {gzip.compress: ".gz", bz2.compress: ".bz2", lzma.compress: ".xz"}.get(pack, "")
    text = json.dumps(lm_eval({"t": {"exact_match,none": 0.5}}, questions=2), indent=1).replace("\n", "\r\n")
    (tmp_path / f"results_1.json{suffix}").write_bytes(pack(mark + text.encode()))
    (tmp_path / f"samples_t_1.jsonl{suffix}").write_bytes(
        pack(mark + lines([sample(0, 0), sample(1, 1)]).encode())
    )
    frame, _ = read(tmp_path)
    assert frame["correct"].tolist() == [0, 1]


def test_utf16(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(lm_eval({"t": {"acc": 0.5}})), encoding="utf-16")
    assert percent(read(tmp_path)[0]) == {("me/m", "t"): 50}


def test_nan_infinity_and_missing_errors(written):
    others = {"u": math.nan, "v": math.inf, "w": None, "x": "0.5"}
    tasks = {"t": {"acc,none": 0.5, "acc_stderr,none": math.nan}} | {
        k: {"acc,none": v} for k, v in others.items()
    }
    text = json.dumps(lm_eval(tasks))
    assert "NaN" in text
    frame, notes = read(written(text))
    assert percent(frame) == {("me/m", "t"): 50}
    for said in (
        "u: acc,none is nan",
        "v: acc,none is inf",
        "w: acc,none is None",
        "x: acc,none is '0.5', no number",
    ):
        assert said in notes["Left out"]


def test_samples_of_another_date_are_not_used_and_named(written, tmp_path):
    for date, model in (("2024-01-01T00-00-00.1", "a"), ("2024-02-02T00-00-00.1", "b")):
        written(
            lm_eval({"t": {"exact_match,none": 0.5}}, args=f"pretrained={model}", questions=2),
            f"results_{date}.json",
        )
    written(lines([sample(0, 0.0), sample(1, 1.0)]), "samples_t_2024-01-01T00-00-00.1.jsonl")
    frame, notes = read(tmp_path)
    assert frame["questions"].tolist() == [2, 2]
    assert "samples_t_2024-01-01T00-00-00.1.jsonl is of another date" in notes["Left out"]
    assert "compared by totals, t too: there are no samples of t in" in notes["Beware"]


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ([sample(0, 0.0)], "they are 1, the result is of 2 questions"),
        ([sample(0, 0.0), sample(0, 1.0)], "names a question twice"),
        ([sample(0, 0.0), sample(1, None)], "has no exact_match of question 1"),
        ([sample(0, 0.0, "other"), sample(1, 1.0, "other")], "holds no samples of exact_match"),
        ([sample(0, -1), sample(1, 2)], "is no share of right answers"),
    ],
)
def test_samples_of_no_use_are_named_and_totals_used(written, tmp_path, samples, said):
    written(lm_eval({"t": {"exact_match,none": 0.5}}, questions=2), "results_1.json")
    written(lines(samples), "samples_t_1.jsonl")
    frame, notes = read(tmp_path)
    assert percent(frame) == {("me/m", "t"): 50}
    assert said in notes["Left out"]


def test_a_torn_line_is_told_with_its_place(written, tmp_path):
    written(lm_eval({"t": {"exact_match,none": 0.5}}, questions=2), "results_1.json")
    written(lines([sample(0, 0.0), sample(1, 1.0)])[:-30], "samples_t_1.jsonl")
    _, notes = read(tmp_path)
    assert f"{tmp_path / 'samples_t_1.jsonl'}:2: is not JSON" in notes["Left out"]


def test_samples_that_contradict_their_result_are_told(written, tmp_path):
    written(lm_eval({"t": {"exact_match,none": 0.75}}, questions=2), "results_1.json")
    written(lines([sample(0, 0.0), sample(1, 1.0)]), "samples_t_1.jsonl")
    _, notes = read(tmp_path)
    assert "its samples give 50.00 %, its result 75.00 %; the samples are read" in notes["Beware"]


def test_questions_are_paired_by_their_text_where_numbers_differ(written, tmp_path):
    for model, order in (("a", "pqr"), ("b", "rqp")):
        written(
            lm_eval({"t": {"exact_match,none": 1 / 3}}, args=f"pretrained={model}", questions=3),
            f"{model}/results_1.json",
        )
        rows = [sample(i, float(q == "p"), doc_hash=q) for i, q in enumerate(order)]
        written(lines(rows), f"{model}/samples_t_1.jsonl")
    frame, notes = read(tmp_path)
    assert frame.loc[frame["correct"] == 1, "question"].tolist() == ["p", "p"]
    assert "t: 2 questions have one number and several texts" in notes["Beware"]


def test_several_samples_a_question(written, tmp_path):
    answers = [["1", "2", "3", "4"]]
    written(lm_eval({"t": {"exact_match,none": 0.5}}, questions=2), "results_1.json")
    rows = [sample(0, 0.25, filtered_resps=answers), sample(1, 0.75, filtered_resps=answers)]
    written(lines(rows), "samples_t_1.jsonl")
    frame, _ = read(tmp_path)
    assert frame[["samples", "correct"]].to_dict("list") == {"samples": [4, 4], "correct": [1, 3]}
    rows = [
        sample(0, 0.0, filtered_resps=[[-1.2, False], [-3.0, True]]),
        sample(1, 1.0, filtered_resps=[[-1.2, True]]),
    ]
    written(lines(rows), "samples_t_1.jsonl")
    assert read(tmp_path)[0]["samples"].tolist() == [1, 1], "log-likelihoods of choices are no samples"


def test_groups_and_their_subtasks_are_counted_once(written):
    rows = {"mmlu": 0.5, "mmlu_stem": 0.4, "mmlu_stem_math": 0.25, "mmlu_stem_bio": 0.75}
    data = lm_eval({task: {"acc,none": v, "alias": task} for task, v in rows.items()})
    data["groups"] = {task: {"acc,none": rows[task]} for task in ("mmlu", "mmlu_stem")}
    nested = data | {
        "group_subtasks": {
            "mmlu": ["mmlu_stem"],
            "mmlu_stem": ["mmlu_stem_math", "mmlu_stem_bio"],
            "mmlu_stem_math": [],
        }
    }
    for form in (nested, data):  # The second as before group_subtasks was written.
        frame, notes = read(written(form))
        assert percent(frame) == {("me/m", "mmlu_stem_math"): 25, ("me/m", "mmlu_stem_bio"): 75}
        assert "mmlu" in notes["Left out"]
        assert "mean of 2 subtasks, read one by one" in notes["Left out"]


def test_a_group_whose_subtasks_are_not_there_is_read(written):
    data = lm_eval(
        {"mmlu": {"acc,none": 0.5}},
        group_subtasks={"mmlu": ["mmlu_stem"]},
        groups={"mmlu": {"acc,none": 0.5}},
    )
    assert percent(read(written(data))[0]) == {("me/m", "mmlu"): 50}


def test_a_limit_and_questions_that_differ_are_told(written):
    first = written(
        lm_eval({"t": {"acc,none": 0.5}}, args="pretrained=a")
        | {"n-samples": {"t": {"original": 1319, "effective": 100}}}
    )
    second = written(lm_eval({"t": {"acc,none": 0.5}}, args="pretrained=b", questions=1319))
    frame, notes = read(first, second)
    assert frame["questions"].tolist() == [100, 1319]
    assert "100 of 1319 questions were asked" in notes["Beware"]
    assert "t has 100, 1319 questions in different files" in notes["Beware"]


def test_versions_and_examples_in_the_prompt(written):
    results = {"t": {"acc,none": 0.5}, "u": {"acc,none": 0.5}}
    first = written(
        lm_eval(results, args="pretrained=a", **{"n-shot": {"t": 0, "u": 5}, "versions": {"t": 1, "u": 2}})
    )
    second = written(
        lm_eval(results, args="pretrained=b", **{"n-shot": {"t": 5, "u": 5}, "versions": {"t": 1, "u": 3}})
    )
    frame, notes = read(first, second)
    assert set(frame["benchmark"]) == {"t (0-shot)", "t (5-shot)", "u"}
    assert "t was asked with 0 and 5 examples" in notes["Beware"]
    assert "u is of version 2 and 3" in notes["Beware"]


def test_questions_follow_from_the_standard_error(written):
    p, n = 831 / 1319, 1319
    error = math.sqrt(p * (1 - p) / (n - 1))
    old = {"results": {"t": {"acc": p, "acc_stderr": error}, "u": {"acc": 0.63, "acc_stderr": 0.0133}},
           "config": {"model_args": "pretrained=a"}}  # fmt: skip
    frame, notes = read(written(old))
    assert frame["questions"].tolist() == [1319]
    assert "number of questions is not recorded" in notes["Left out"], "a rounded error says nothing certain"


def test_lighteval_counts_that_are_unknown(written):
    data = lighteval({"lighteval|t|0": {"acc": 0.5}}, max_samples=40)
    data["config_tasks"] = {"lighteval|t": {"original_num_docs": 1000, "effective_num_docs": -1}}
    assert read(written(data))[0]["questions"].tolist() == [40]


def test_details_of_lighteval(tmp_path, written):
    stamp = "2025-03-14T23-12-53.542208"
    data = lighteval({"lighteval|aime24|0": {"pass@k:k=1&n=4": 0.5}}, questions=2)
    written(data, f"results/me/m/results_{stamp}.json")
    folder = tmp_path / "details" / "me" / "m" / stamp
    folder.mkdir(parents=True)
    rows = pd.DataFrame({"metric": [{"pass@k:k=1&n=4": 0.25}, {"pass@k:k=1&n=4": 0.75}], "doc": ["x", "y"]})
    rows.to_parquet(folder / f"details_lighteval|aime24|0_{stamp}.parquet")
    frame, _ = read(tmp_path / "results")
    assert frame[["question", "samples", "correct"]].to_dict("list") == {
        "question": ["0", "1"], "samples": [4, 4], "correct": [1, 3],
    }  # fmt: skip


def test_hidden_folders_are_passed_over(written, tmp_path):
    written(lm_eval({"t": {"acc,none": 0.5}}), "results_1.json")
    written(lm_eval({"t": {"acc,none": 0.5}}), ".ipynb_checkpoints/results_1-checkpoint.json")
    assert len(read(tmp_path)[0]) == 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "is empty"),
        ('{"results": {', "is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ({"metrics": 1}, "it has no `results`; it has metrics"),
        ([1], "no JSON object"),
        ({"results": {}}, "`results` is empty"),
        ({"results": None}, "`results` is no object"),
        (
            lm_eval({"wiki": {"word_perplexity,none": 12.3}}),
            "wiki: word_perplexity: not known as an accuracy.*\n.*--metric NAME",
        ),
        (
            {"results": {"t": {"acc": 0.5}}, "config": {"model_args": "pretrained=a"}},
            r"be read: t: the number of questions is not recorded .*log_samples\)\n.*samples or details beside",
        ),
        (
            lighteval({f"lighteval|t{i}|0": {"extractive_match": 0.5} for i in range(9)})
            | {"config_tasks": {}},
            r"be read: lighteval\|t0\|0, .* 5 more: the number of questions is not recorded .*save-details\)\n",
        ),
        ('{"results": {"t": {"acc": 0.5, "acc": 0.6}}}', "'acc' stands twice"),
    ],
)
def test_a_file_of_which_nothing_is_understood(written, data, said):
    path = written(data)
    with pytest.raises(SpecError, match=said) as error:
        read(path)
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) <= 3


def test_the_command_says_how_files_were_read(written, tmp_path, capsys):
    task = {"exact_match,strict-match": 0.1, "exact_match,flexible-extract": 0.6}
    paths = [
        str(written(lm_eval({"gsm8k": task, "ppl": {"ppl": 3.0}}, args=f"pretrained={m}"))) for m in "ab"
    ]
    out = tmp_path / "out"
    for flag in ("--external", "--foreign"):
        assert main([flag, *paths, "--out", str(out), "--filter", "flexible-extract"]) == 0
        told = " ".join(capsys.readouterr().out.split())
        for said in ("gsm8k: exact_match,flexible-extract", "ppl: not known as an accuracy"):
            assert said in told
            assert said in " ".join((out / "report.md").read_text().split())
            assert said in " ".join((out / "report.html").read_text().split())
    assert "Left out" in json.loads((out / "report.json").read_text())["reading"]
    run = ["--run", f"{paths[0]}=x,seed=3", "--run", f"{paths[1]}=x,seed=4"]
    assert main(["--external", *paths, "--out", str(out), *run]) == 0
    assert "x, seed 4" in " ".join(capsys.readouterr().out.split())
    assert main(["--external", *paths, "--out", str(out), "--run", "x"]) == 2
    assert main(["--run", "a=b", str(tmp_path)]) == 2


def _mutated(rng, value, depth=0):
    """A JSON value with one thing in it changed, as files are that broke, were cut or were edited by hand."""
    odd = [None, [], {}, [[[]]], "x", "", "0.5", -1, 1e308, 10**400, math.nan, True, [1, 2], {"a": {"b": []}}]
    if isinstance(value, dict) and value and (depth == 0 or rng.random() < 0.8):
        key = rng.choice(list(value))
        changed = dict(value)
        if rng.random() < 0.15:
            del changed[key]
        else:
            changed[key] = _mutated(rng, value[key], depth + 1)
        return changed
    return rng.choice(odd)


def _broken(seed, written, folder):
    """What the command is given: a folder of a broken result and broken samples, or one of the files."""
    rng = random.Random(seed)
    groups = {"group_subtasks": {"g": ["t"]}, "groups": {"g": {"acc,none": 0.5}}, "n-shot": {"t": 5}}
    whole = lm_eval(
        {"t": {"acc,none": 0.5, "acc_stderr,none": 0.1}, "g": {"acc,none": 0.5}}, questions=2, **groups
    )
    whole |= {
        "versions": {"t": 1},
        "higher_is_better": {"t": {"acc": True}},
        "configs": {"t": {"metadata": {}}},
    }
    other = lighteval(
        {"lighteval|t|0": {"pass@k:k=1&n=2": 0.5}, "all": {}}, model_config={"revision": "main"}
    )
    data = whole if seed % 2 else other
    for _ in range(rng.randint(1, 3)):
        data = _mutated(rng, data)
        data = data if isinstance(data, dict) else {"results": data}
    text = json.dumps(data)
    match seed % 10:
        case 6:
            text = text[: rng.randint(0, len(text))]
        case 7:
            text = text.replace('"results"', '"results": {"t": {"acc": 1}}, "results"')
        case 8:
            text = "[" * rng.choice([5, 5000]) + text
    written(text, "results_1.json")
    rows = [_mutated(rng, sample(i, float(i), metric="acc", filtered_resps=[["a"]])) for i in range(2)]
    written(lines(rows)[: rng.choice([None, -5])], "samples_t_1.jsonl")
    return rng.choice([folder, folder / "results_1.json", folder / "samples_t_1.jsonl"])


@pytest.mark.parametrize("seed", range(60))
def test_broken_files_are_read_or_refused_in_three_lines(written, tmp_path, seed):
    given = _broken(seed, written, tmp_path)
    study, said = None, ""
    try:
        study = external_study([given], tmp_path / "out")
    except SpecError as error:
        said = str(error)
    if study is None:
        assert len(said.splitlines()) <= 3
        assert str(tmp_path) in said
    else:
        assert study.evaluations["accuracy"].between(0, 1).all()
        assert dict(study.notes)["Files read"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_broken_files_through_the_command(written, tmp_path, capsys, seed):
    """Exit 0 or 2; 4 would be a fault of the harness."""
    code = main(["--external", str(_broken(seed, written, tmp_path)), "--out", str(tmp_path / "out")])
    told = capsys.readouterr().err
    assert code in (0, 2), told
    assert len(told.strip().splitlines()) <= 3, told
    assert (code == 2) == told.startswith("harness.report: ")
