"""Time is not judged where other programs had more of the machine beside one level than beside another."""

from __future__ import annotations

import pytest

from harness.reporting.analysis.analysis import analyse
from harness.reporting.text.costs import cost_sentences
from harness.store.study import load_study

SIZE = {"seeds": (0, 1), "benchmarks": {"easy": 20}, "steps": (4, 8)}
TIME = ("step_seconds", "tokens_per_second", "training_cost_usd")


@pytest.fixture(scope="module")
def judged(study_at, tmp_path_factory):
    """Analyses of the same study under several loads, by name."""
    loads = {
        "not measured": None,
        "idle": {},
        "beside cosine": {("reward", "cosine"): 0.4},
        "beside all": {("reward", "cosine"): 0.3, ("reward", "accuracy"): 0.3},
    }
    folder = tmp_path_factory.mktemp("loads")
    return {
        name: analyse(load_study(study_at(folder / name.replace(" ", "-"), load=load, **SIZE)))
        for name, load in loads.items()
    }


def on_time(analysis):
    return {
        (r.metric, r.judgement.axis, r.judgement.level): r.judgement.verdict
        for r in analysis.rows
        if r.metric in TIME
    }


def test_load_beside_one_level_takes_its_verdict_on_time_and_no_other(judged):
    idle, loaded = on_time(judged["idle"]), on_time(judged["beside cosine"])
    assert idle["step_seconds", "length_cap", "32"] == "hurts"
    assert idle["step_seconds", "reward", "cosine"] == "no meaningful effect"
    assert loaded == {
        key: "inconclusive" if key[1:] == ("reward", "cosine") else verdict for key, verdict in idle.items()
    }
    said = [s for s in cost_sentences(judged["beside cosine"]) if "no verdict on time" in s]
    (sentence,) = said
    assert sentence.startswith("reward = cosine (against accuracy)")
    # A share of 0.4 may slow a program by 1/(1 - 0.4).
    assert "+66.7 %" in sentence


def test_load_that_all_levels_have_alike_changes_no_verdict(judged):
    assert on_time(judged["beside all"]) == on_time(judged["idle"])


def test_memory_is_judged_whatever_the_load(judged):
    verdicts = [
        [r.judgement.verdict for r in judged[name].rows if r.metric == "peak_memory_gib"]
        for name in ("idle", "beside cosine")
    ]
    assert verdicts[0] == verdicts[1]


def test_records_without_load_are_judged_as_they_were(judged):
    assert on_time(judged["not measured"]) == on_time(judged["idle"])
