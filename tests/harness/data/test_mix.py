"""Mixes and benchmarks: quotas, repeats, manifests."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.mix import build_benchmark, build_mix, quotas, shares_of
from harness.data.problem import content_sha256
from harness.spec.data import DataSpec, FileSource, SumsSource
from harness.spec.errors import SpecError
from harness.spec.evaluation import BenchmarkSpec


def sums(terms, digits, weight=1.0) -> SumsSource:
    return SumsSource(source="sums", terms=terms, digits=digits, weight=weight)


def test_quotas_by_hand():
    assert quotas([1.0], 7) == [7]
    assert quotas([3.0, 3.0, 1.0], 7000) == [3000, 3000, 1000]
    assert quotas([1.0, 1.0, 1.0], 10) == [4, 3, 3]
    assert quotas([0.55, 0.3, 0.15], 10) == [6, 3, 1]  # remainders .5, 0, .5: the earlier wins


@given(st.lists(st.integers(1, 100), min_size=1, max_size=6), st.integers(0, 5000))
def test_quotas_are_whole_complete_and_near(weights, size):
    counts = quotas([float(w) for w in weights], size)
    assert sum(counts) == size
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - Fraction(size * weight, sum(weights))) < 1


def test_a_mix_keeps_its_shares_and_counts_them():
    spec = DataSpec(sources=(sums((2,), (2,), 3.0), sums((3,), (2,), 1.0)), size=400)
    mix = build_mix(spec)
    assert len({p.question for p in mix.problems}) == 400
    assert [source["count"] for source in mix.manifest["sources"]] == [300, 100]
    assert [source["difficulty"] for source in mix.manifest["sources"]] == [{"2x2": 300}, {"3x2": 100}]
    assert sum(p.difficulty == "2x2" for p in mix.problems) == 300
    assert any(p.difficulty == "3x2" for p in mix.problems[:50])  # shuffled, not one source after the other
    assert mix.manifest["sha256"] == content_sha256(mix.problems)
    assert json.loads(json.dumps(mix.manifest)) == mix.manifest


def test_seed_and_content():
    spec = DataSpec(sources=(sums((2, 3), (2,)),), size=100)
    other = spec.model_copy(update={"seed": 1})
    assert build_mix(spec) == build_mix(spec)
    assert build_mix(spec).manifest["sha256"] != build_mix(other).manifest["sha256"]


def test_a_small_source_gives_what_it_has_and_repeats_are_dropped():
    # Both sources hold the same hundred one-digit sums, of which the second gets nothing.
    spec = DataSpec(sources=(sums((2,), (1,)), sums((2,), (1,))), size=1000)
    mix = build_mix(spec)
    first, second = mix.manifest["sources"]
    assert 80 <= first["count"] < 100
    assert second["count"] == 0
    assert second["duplicates_removed"] == first["count"]
    assert mix.manifest["count"] == first["count"] < mix.manifest["requested"]


def test_an_overlapping_source_fills_its_quota_with_other_questions():
    spec = DataSpec(sources=(sums((2,), (2,)), sums((2,), (2,))), size=4000)
    mix = build_mix(spec)
    assert [source["count"] for source in mix.manifest["sources"]] == [2000, 2000]
    assert mix.manifest["sources"][1]["duplicates_removed"] > 0
    assert len({p.question for p in mix.problems}) == 4000


def test_benchmarks_are_held_out_and_fixed():
    benchmark = BenchmarkSpec(name="sums-2", questions=150, source=sums((2,), (2,)))
    questions = [p.question for p in build_benchmark(benchmark)]
    assert len(set(questions)) == 150
    assert questions == [p.question for p in build_benchmark(benchmark)]
    trained = build_mix(DataSpec(sources=(sums((2, 3), (1, 2)),), size=4000))
    assert {p.question for p in trained.problems}.isdisjoint(questions)


def test_a_benchmark_larger_than_its_source(tmp_path):
    with pytest.raises(
        SpecError, match=r"'b': asks for 100 questions, its source has (\d+)\n  set `questions: \1`"
    ):
        build_benchmark(BenchmarkSpec(name="b", questions=100, source=sums((2,), (1,))))
    path = tmp_path / "q.csv"
    path.write_text("question,answer\n1+1=,2\n")
    whole = build_benchmark(BenchmarkSpec(name="f", source=FileSource(source="file", path=str(path))))
    assert [p.answer for p in whole] == ["2"]


@given(
    st.lists(st.tuples(st.floats(0.1, 10), st.one_of(st.none(), st.integers(1, 40))), min_size=1, max_size=6),
    st.integers(0, 300),
)
def test_quotas_are_given_in_full_and_weights_share_the_rest(entries, extra):
    size = sum(quota or 0 for _, quota in entries) + extra
    sources = [{"source": "sums", "weight": weight, "quota": quota} for weight, quota in entries]
    if size == 0:
        return
    shares = shares_of(DataSpec.model_validate({"sources": sources, "size": size}))
    assert [s for s, (_, quota) in zip(shares, entries, strict=True) if quota] == [q for _, q in entries if q]
    weighted = [weight for weight, quota in entries if quota is None]
    rest = [s for s, (_, quota) in zip(shares, entries, strict=True) if quota is None]
    assert sum(rest) == (extra if weighted else 0)
    for share, weight in zip(rest, weighted, strict=True):
        assert abs(share - extra * weight / sum(weighted)) < 1


def test_quotas_beyond_the_size_are_an_error():
    sources = [{"source": "sums", "quota": 8}, {"source": "champ", "quota": 5}]
    with pytest.raises(ValueError, match="quotas come to 13, more than `size`, 12"):
        DataSpec.model_validate({"sources": sources, "size": 12})


def graded(tmp_path):
    file = tmp_path / "graded.csv"
    rows = "\n".join(f"question {i}?,{i},{i / 20:.2f},{'hard' if i > 14 else 'easy'}" for i in range(20))
    file.write_text(f"question,answer,rate,grade\n{rows}\n")
    return {"source": "file", "path": str(file)}


def test_a_mix_of_difficulty_bands_with_its_manifest(tmp_path):
    bands = [
        {**graded(tmp_path), "difficulty_column": "rate", "difficulty_range": [0.2, 0.4], "quota": 3},
        {**graded(tmp_path), "difficulty_column": "grade", "difficulty": ["hard"]},
    ]
    mix = build_mix(DataSpec.model_validate({"sources": bands, "size": 7}))
    first, second = mix.manifest["sources"]
    assert (first["quota"], first["count"]) == (3, 3)
    assert (second["quota"], second["count"]) == (4, 4)
    assert second["difficulty"] == {"hard": 4}
    assert all(0.2 <= float(rate) <= 0.4 for rate in first["difficulty"])
    assert mix.manifest["count"] == len(mix.problems) == 7
    assert len({problem.question for problem in mix.problems}) == 7


def test_a_band_that_is_not_there_is_told(tmp_path):
    wrong = {**graded(tmp_path), "difficulty_column": "grade", "difficulty": ["hrad"]}
    with pytest.raises(SpecError, match=r"no difficulty 'hrad'\n.*\"hard\""):
        build_mix(DataSpec.model_validate({"sources": [wrong], "size": 5}))
    words = {**graded(tmp_path), "difficulty_column": "grade", "difficulty_range": [0, 1]}
    with pytest.raises(SpecError, match="`difficulty_range` wants numbers"):
        build_mix(DataSpec.model_validate({"sources": [words], "size": 5}))
    with pytest.raises(ValueError, match="needs the `difficulty_column`"):
        DataSpec.model_validate({"sources": [{**graded(tmp_path), "difficulty": ["hard"]}]})
