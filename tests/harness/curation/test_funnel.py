"""The funnel killed at every write and continued, and what it says about wrong recipes."""

import contextlib
import filecmp
import json
from pathlib import Path

import pandas as pd
import pytest

from harness import curate
from harness.curation import models
from harness.curation.items import Item
from harness.data.prompts import PromptEncoder
from harness.evaluation.parts import Parts
from harness.rewards.answers import AnswerChecker
from harness.spec.curation import DifficultyStage, JudgeStage
from harness.store import atomic

RECIPE = """\
name: small
sources:
  - {source: {source: champ}, count: 6}
  - {count: 20, source: {source: sums, terms: [2], digits: [1, 2]}}
  - {count: 6, source: {source: reasoning_gym, family: gcd}}
stages:
  - stage: answers
  - stage: duplicates
  - {stage: decontaminate, benchmarks: [champ, "sums:2x2@50"]}
  - stage: rules
  - {stage: judge, model: {name: tiny}, prompt: {template: "{question}"}, bad: "1", good: "0", only: [gcd],
     part_rows: 3, margin: 5.0}
  - {stage: difficulty, model: {name: tiny}, samples: 4, max_completion_tokens: 24, part_rows: 32,
     always: true, bands: {easy: [0.5, 1], hard: [0, 0.5]}}
  - {stage: quotas, by: band, quotas: {easy: 8}, total: 9}
"""


class Killed(BaseException):
    """Ends a curation at once, as a signal would: no handler of the product catches it."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    assert curate.main(["--recipe", str(recipe), "--out", str(out)]) == 0
    return out


def files(out):
    return sorted(
        str(p.relative_to(out)) for p in out.rglob("*") if p.is_file() and not p.name.startswith(".")
    )


def test_what_is_kept_and_what_is_not_add_up(whole):
    manifest = json.loads((whole / "manifest.json").read_text())
    kept = [json.loads(line) for line in (whole / "dataset.jsonl").read_text().splitlines()]
    rejected = [json.loads(line) for line in (whole / "rejected.jsonl").read_text().splitlines()]
    assert len(kept) + len(rejected) == manifest["pool"]["count"] == 32
    assert len(kept) == manifest["dataset"]["count"] == 9
    entered = manifest["pool"]["count"]
    for stage in manifest["stages"]:
        assert stage["entered"] == entered
        entered -= sum(stage["rejected"].values())
        assert stage["kept"] == entered
    # All of CHAMP is a benchmark here; and `tiny` has never seen a greatest common divisor.
    assert {r["id"] for r in rejected if r["reason"] == "in a benchmark"} == {
        item["id"] for item in rejected if item["source"] == "champ"
    }
    assert sum(r["source"] == "champ" for r in rejected) == 6
    assert {r["source"] for r in rejected if r["reason"] == "never solved"} >= {"gcd"}
    assert all(
        0 < k["pass_rate"] <= 1 and k["band"] == ("easy" if k["pass_rate"] > 0.5 else "hard") for k in kept
    )
    assert not {k["id"] for k in kept} & {r["id"] for r in rejected}
    table = (whole / "tables" / "funnel.csv").read_text()
    assert table.startswith("stage,outcome,reason,items,of,share\npool,kept,,32,32,1\n")
    assert "−6 in a benchmark" in (whole / "figures" / "funnel.svg").read_text()


def test_killed_again_and_again_and_continued_gives_the_same_bytes(recipe, whole, tmp_path, monkeypatch):
    """Each attempt dies at its fourth write of a file, before the rename; the next goes on."""
    real = atomic.os.replace
    out, writes, deaths = tmp_path / "out", [], []

    def dying(source, target):
        writes.append(Path(target).name)
        if len(writes) == 4:
            deaths.append(Path(target).name)
            raise Killed
        return real(source, target)

    monkeypatch.setattr(atomic.os, "replace", dying)
    for _ in range(12):
        writes.clear()
        with contextlib.suppress(Killed):
            curate.main(["--recipe", str(recipe), "--out", str(out)])
    monkeypatch.setattr(atomic.os, "replace", real)
    assert curate.main(["--recipe", str(recipe), "--out", str(out)]) == 0
    # Deaths fell into the stages, into the parts of a model's stage, and into the account.
    assert len(set(deaths)) >= 8
    assert any(name.startswith("part-") for name in deaths)
    for name, other in zip(files(whole), files(out), strict=True):
        if "/part-" not in name:
            assert name == other
            assert filecmp.cmp(whole / name, out / name, shallow=False), name
            continue
        # Parts hold how long they took besides, of which their names have a digest; log-probs round by where their
        # operands lie in memory.
        assert name.partition(".")[0] == other.partition(".")[0]
        first, second = (
            pd.read_parquet(f).drop(columns="seconds", errors="ignore") for f in (whole / name, out / other)
        )
        pd.testing.assert_frame_equal(first, second, check_exact=False, atol=1e-4)


def test_rows_that_cannot_be_candidates_are_counted_first(tmp_path):
    """Invalid rows and repeats are stages of the funnel, whether it is made or taken from file."""
    data, recipe, out = tmp_path / "pool.jsonl", tmp_path / "recipe.yaml", tmp_path / "out"
    rows = ['{"problem": "1+1=", "answer": 2}', '{"problem": "1+1=", "answer": "3"}', "{oops"]
    rows += ['{"problem": "2+2=", "answer": null}', '{"problem": "3+3=", "answer": "6"}']
    data.write_text("\n".join(rows) + "\n")
    recipe.write_text(
        f"name: own\nsources: [{{source: {{source: file, path: {data}}}}}]\nstages: [{{stage: answers}}]\n"
    )
    for _ in range(2):
        assert curate.main(["--recipe", str(recipe), "--out", str(out)]) == 0
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["pool"]["count"] == 5
        assert [(s["name"], s["kept"]) for s in manifest["stages"]] == [
            *(("invalid rows", 3), ("exact duplicates", 2), ("answers", 2)),
        ]
        assert sum(manifest["stages"][0]["rejected"].values()) == 2
        rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
        assert [(r["id"], r["stage"]) for r in rejected] == [
            *(("pool:2", "invalid rows"), ("pool:3", "invalid rows"), ("pool:1", "exact duplicates")),
        ]
        assert rejected[0]["detail"] == f"{data}:3"
        assert rejected[2]["detail"] == "of pool:0, which has the answer 2"


def test_a_finished_curation_asks_no_model_again(recipe, whole, monkeypatch):
    def asked(*_):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(models, "open_model", asked)
    before = (whole / "dataset.jsonl").read_bytes()
    assert curate.main(["--recipe", str(recipe), "--out", str(whole)]) == 0
    assert (whole / "dataset.jsonl").read_bytes() == before


def test_other_bounds_sample_nothing_anew(recipe, whole, tmp_path, monkeypatch):
    """The parts are named after what was asked, not after what is made of it."""
    monkeypatch.setattr(models.Evaluator, "complete", None)
    other = tmp_path / "other.yaml"
    other.write_text(RECIPE.replace("always: true", "always: false"))
    assert curate.main(["--recipe", str(other), "--out", str(whole)]) == 0
    rates = [json.loads(line)["pass_rate"] for line in (whole / "dataset.jsonl").read_text().splitlines()]
    assert rates
    assert max(rates) < 1
    assert curate.main(["--recipe", str(recipe), "--out", str(whole)]) == 0


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("stage: rules", "stage: rule", 10, r"'rule' is not one of .*\n  did you mean \"rules\"\?"),
        ("part_rows: 3,", "part_row: 3,", 12, r"stages\[4\]\.part_row: unknown key"),
        ("family: gcd", "family: gdc", 5, r"sources\[2\]: .*no family 'gdc'"),
        ("[champ,", "[chmp,", 9, r"stages\[2\]: no benchmark 'chmp'"),
        ("{stage: judge, model: {name: tiny}", "{stage: judge, model: {name: tyni}", 11, r"stages\[4\]: .*'tyni'"),
        ("total: 9", "total: 0", 15, r"stages\[6\]\.total: .*greater than or equal to 1"),
        ("  - stage: rules\n", "  - stage: answers\n", 2, r"stage names must be distinct"),
    ],
)  # fmt: skip
def test_wrong_recipes_end_in_two_lines(old, new, line, message, tmp_path, capsys):
    import re

    path = tmp_path / "r.yaml"
    assert old in RECIPE
    path.write_text(RECIPE.replace(old, new, 1))
    assert curate.main(["--recipe", str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert len(error.strip().splitlines()) <= 3
    assert f"{path}:" in error
    assert not (tmp_path / "out").exists()


def test_the_judge_by_logprob_is_the_models_own_odds(tmp_path):
    """Against the log-probs of each whole answer, one sequence at a time, without padding or sharing."""
    import torch

    items = [Item(f"i{i}", "7+" * i + "5=", "1", "s") for i in range(5)]
    spec = JudgeStage.model_validate(
        {
            "stage": "judge", "model": {"name": "tiny"}, "prompt": {"template": "{question}"},
            "bad": "12", "good": "7", "part_rows": 2,
        }
    )  # fmt: skip
    decisions = models.by_judge(items, spec, tmp_path / "parts")
    scores = [s for n in range(3) for s in Parts(tmp_path / "parts").read(n)["score"]]
    loaded, _ = models.open_model(spec.model)
    for item, decision, score in zip(items, decisions, scores):
        prompt = PromptEncoder(loaded.tokenizer, spec.prompt).encode(item.problem().question)
        logprobs = []
        for text in ("12", "7"):
            answer = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
            with torch.inference_mode():
                logits = loaded.model(input_ids=torch.tensor([prompt + answer])).logits[0]
            steps = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
            logprobs.append(float(steps.gather(-1, torch.tensor(answer)[:, None]).sum()))
        assert score == pytest.approx(logprobs[0] - logprobs[1], abs=2e-4)
        assert decision.keep == (score <= 0)


def test_the_judge_by_reply(tmp_path):
    """`tiny` adds: it names the sum first, which stands for one answer or the other."""
    items = [Item("a", "2+3=", "5", "s"), Item("b", "3+4=", "7", "s"), Item("c", "4+4=", "8", "s")]
    base = {
        "stage": "judge",
        "model": {"name": "tiny"},
        "prompt": {"template": "{question}"},
        "method": "generate",
    }
    spec = JudgeStage.model_validate({**base, "bad": "5", "good": "7", "max_completion_tokens": 30})
    decisions = models.by_judge(items, spec, tmp_path / "parts")
    assert [d.keep for d in decisions] == [False, True, True]
    dropping = spec.model_copy(update={"unclear": "drop"})
    assert [d.reason for d in models.by_judge(items, dropping, tmp_path / "parts")][
        2
    ] == "unclear to the judge"


def test_pass_rates_are_those_of_the_samples(tmp_path):
    items = [Item(f"sums:{q}", q, str(eval(q[:-1])), "sums") for q in ("1+1=", "12+34=", "99+98+97+96=")]
    spec = DifficultyStage.model_validate(
        {"stage": "difficulty", "model": {"name": "tiny"}, "samples": 8, "never": True, "always": True}
    )
    with AnswerChecker() as checker:
        decisions = models.by_difficulty(items, spec, checker, tmp_path / "parts")
        samples = Parts(tmp_path / "parts").read(0)
        for number, (item, decision) in enumerate(zip(items, decisions)):
            texts = samples.loc[samples["question_index"] == number, "text"]
            right = sum(checker.check(text, item.answer).correct for text in texts)
            assert decision.changes["pass_rate"] == right / 8
    assert max(d.changes["pass_rate"] for d in decisions) > 0
