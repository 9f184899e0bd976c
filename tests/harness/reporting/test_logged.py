"""Curves of logged figures show the values of the records; LaTeX tables mark the best; a gain has its price."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from harness.reporting.analysis.analysis import analyse
from harness.reporting.figures.logged import logged_figures
from harness.reporting.tables.accuracy import cells_table
from harness.reporting.tables.base import Table
from harness.reporting.text.exports import latex_text
from harness.store.study import load_study


@pytest.fixture(scope="module")
def analysis(study_at, tmp_path_factory):
    out = study_at(
        tmp_path_factory.mktemp("logged") / "study",
        benchmarks={"easy": 40},
        steps=(4, 8),
        axes={"length_cap": ("16", "32")},
        load={},
    )
    return analyse(load_study(out))


def test_every_logged_figure_has_curves(analysis):
    found = {f.words: dict(f.curves) for f in logged_figures(analysis)}
    assert list(found)[:2] == ["reward", "completion length, tokens"]
    assert {
        "KL to the reference",
        "entropy of the policy",
        "gradient norm",
        "learning rate",
        "loss",
        "reward function accuracy",
        "seconds a step",
        "other programs' share of the processors",
    } <= set(found)
    assert "looping n-grams, share" not in found, "not recorded"
    assert all(list(curves) == ["length_cap"] for curves in found.values())


def test_a_curve_lies_where_its_values_are(analysis):
    svg = dict(next(f for f in logged_figures(analysis) if f.words.startswith("completion length")).curves)[
        "length_cap"
    ]
    ticks = {
        float(text): float(y) - 3.5
        for y, text in re.findall(r'x="52" y="([\d.]+)" text-anchor="end">([\d.]+)</text>', svg)
    }
    (low, at_low), (high, at_high) = min(ticks.items()), max(ticks.items())
    lines = re.findall(r'class="line" stroke="var\(--c(\d)\)" stroke-dasharray="" d="M([\d. L]+)"', svg)
    assert [number for number, path in lines] == ["1", "2"]
    for (_, path), tokens in zip(lines, (20.0, 26.0)):
        for place in path.split("L"):
            y = float(place.split()[1])
            assert low + (y - at_low) / (at_high - at_low) * (high - low) == pytest.approx(tokens, abs=0.05)


def test_the_best_of_each_benchmark_is_bold_and_ties_share_it():
    header = ("cell", "benchmark", "accuracy %", "tokens")
    rows = (
        ("a", "x", "50.1", "9"),
        ("b", "x", "60.0", "3"),
        ("c", "x", "60.0", "4"),
        ("a", "y", "−1.5", "4"),
        ("b", "y", "–", "5"),
        ("c", "y", "−0.5", "5"),
    )
    text = latex_text(Table("t", "T", pd.DataFrame(), header, rows, 2, ()))
    assert re.findall(r"\\textbf\{(.*?)\} ", text) == ["60.0", "60.0", "$-$0.5"]


def test_a_point_gained_has_its_price_where_the_gain_is_certain(analysis):
    frame = cells_table(analysis).frame
    certain = frame["gain_ci_low"] > 0
    assert frame.loc[~certain, "usd_per_point"].isna().all()
    paid = frame[certain]
    for row in paid.to_dict("records"):
        assert row["usd_per_point"] == pytest.approx(row["training_cost_usd"] / (100 * row["gain"]))
