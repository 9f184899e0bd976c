"""Damage to any file of a study, as `make campaign-damage` inflicts it: the same tables, or a word."""

import random
import shutil

from harness.report import main
from harness.reporting import build
from harness.reporting import report as writing
from tests.campaigns.damage import FAULTS, census, inflict, judged, report, tables

SMALL = {
    "benchmarks": {"easy": 12},
    "steps": (2, 4),
    "samples": 2,
    "axes": {"reward": ("accuracy", "cosine")},
}
TRIALS = 12


def test_damage_gives_the_same_tables_or_is_named(study_at, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "draw", lambda *_: [])
    whole = study_at(tmp_path / "whole" / "out", **SMALL)
    build(whole, echo=False)
    calm, kinds, rng = tables(whole), census(whole), random.Random(0)
    records = {
        "attempt.json",
        "end.json",
        "steps.jsonl",
        "contents.json",
        "evaluation",
        "samples",
        "plan.json",
    }
    assert records <= kinds.keys()
    tried = []
    while len(tried) < TRIALS:
        kind, fault = rng.choice([kind for kind in sorted(kinds) if kinds[kind]]), rng.choice(FAULTS)
        out, path = tmp_path / str(len(tried)) / "out", rng.choice(kinds[kind])
        shutil.copytree(whole, out)
        if inflict(out, path, fault, kinds[kind], rng) is not None:
            code, text = report(out)
            tried.append((str(path), fault, judged(code, text, tables(out), calm, path)))
        shutil.rmtree(out.parent)
    assert not [each for each in tried if each[2].startswith("WRONG")]
    assert len({each[2] for each in tried}) >= 2, "some are named"


def test_runs_that_changed_places_are_both_left_out_by_name(study_at, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(writing, "draw", lambda *_: [])
    out = study_at(tmp_path / "study", **SMALL)
    one, other = (folder for folder in sorted((out / "runs").iterdir())[:2])
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    assert main([str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Left out of every table, costs included, for a damaged record" in said
    assert f"belongs elsewhere: it is {other.name}/" in said
    assert f"belongs elsewhere: it is {one.name}/" in said
