"""Pairs of axes: found where one changes the other's effect, silent where not, and told by simple effects."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from harness.reporting.analysis.analysis import analyse
from harness.reporting.sources.external import external_study
from harness.reporting.tables.all_tables import build_tables
from harness.reporting.text.answer import answer
from harness.reporting.text.conclusions import conclude


def crossed(tmp_path, effect, *, seeds=3, questions=60, entropy=0):
    """Rows of a 2 × 2 study, `effect[data][cap]` added to a chance of one half, on questions of unequal ease."""
    rng = np.random.default_rng(entropy)
    ease = rng.uniform(-0.15, 0.15, questions)
    rows = []
    for data in effect:
        for cap, shift in effect[data].items():
            for seed in range(seeds):
                rate = np.clip(0.5 + shift + ease + rng.normal(0, 0.01), 0.02, 0.98)
                rows += [
                    {"axis.data": data, "axis.cap": cap, "seed": seed, "benchmark": "b", "question": q,
                     "samples": 8, "correct": int(rng.binomial(8, rate[q])), "step": 10}
                    for q in range(questions)
                ]  # fmt: skip
    file = tmp_path / "rows.csv"
    pd.DataFrame(rows).to_csv(file, index=False)
    return analyse(external_study([file], tmp_path / "out", baselines={"data": "mixed", "cap": "48"}))


CROSSOVER = {"mixed": {"48": 0.2, "20": -0.25}, "easy": {"48": 0.18, "20": 0.2}}


def test_an_undeclared_crossover_is_found_and_led_by_simple_effects(tmp_path):
    analysis = crossed(tmp_path, CROSSOVER)
    (pair,) = analysis.interactions
    assert not pair.declared
    assert pair.found
    truth = {("data", "easy", "20"): 0.45, ("data", "easy", "48"): -0.02, ("cap", "20", "mixed"): -0.45}
    simple = {(s.judgement.axis, s.judgement.level, s.at_level): s.judgement for s in pair.simple}
    for key, effect in truth.items():
        assert simple[key].ci_low < effect < simple[key].ci_high, key
    assert simple["data", "easy", "20"].verdict == "works"
    assert simple["data", "easy", "48"].verdict != "works"
    assert simple["cap", "20", "mixed"].verdict == "hurts"
    said = conclude(analysis)
    assert said.works == said.hurts == ()
    assert any("helps at 20 (+" in s for s in said.depends)
    lines = {line.label: line.text for line in answer(analysis, said, build_tables(analysis))}
    assert lines["Use"].startswith("data = easy (against mixed) at cap = 20")
    assert lines["Do not use"].startswith("cap = 20 (against 48) at data = mixed")
    assert len(lines) <= 10


def test_effects_that_add_up_are_told_of_whole_axes(tmp_path):
    analysis = crossed(tmp_path, {"mixed": {"48": 0.0, "20": -0.2}, "easy": {"48": 0.15, "20": -0.05}})
    (pair,) = analysis.interactions
    assert not pair.leads
    assert not pair.simple
    said = conclude(analysis)
    assert said.depends == ()
    assert [s.split(" (")[0] for s in said.works] == ["data = easy"]
    assert [s.split(" (")[0] for s in said.hurts] == ["cap = 20"]


def test_simple_effects_are_differences_of_cells(tmp_path):
    analysis = crossed(tmp_path, CROSSOVER)
    (pair,) = analysis.interactions
    rows = [(s, analysis.accuracy) for s in pair.simple if s.judgement.axis == "data"]
    cells = analysis.study.cells
    for s, accuracy in rows:
        there = cells[cells["cap"] == s.at_level]
        means = {
            level: np.mean([accuracy[r, st, "all"].estimate for r, st in zip(part["run"], part["step"])])
            for level, part in there.groupby("data")
        }
        assert s.judgement.effect == pytest.approx(means["easy"] - means["mixed"])


def test_tables_have_words_of_their_own(tmp_path):
    tables = build_tables(crossed(tmp_path, CROSSOVER))
    assert set(tables["interactions"].frame["verdict"]) == {"differs"}
    assert not any("×" in " ".join(row) for row in tables["verdicts"].rows)
    assert json.loads(tables["simple_effects"].frame.to_json(orient="records"))[0]["where"].startswith(
        "cap = "
    )
