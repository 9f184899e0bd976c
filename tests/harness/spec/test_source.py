"""Reading YAML: merge keys, aliases, tags and depth, in both versions, with the line of every value."""

from __future__ import annotations

import time

import pytest

from harness.spec.errors import SpecError
from harness.spec.grid import load_grid
from harness.spec.source import read_pyyaml, read_yaml

BOTH = pytest.mark.parametrize("read", [read_yaml, read_pyyaml], ids=["yaml-1.2", "pyyaml"])


def written(tmp_path, text):
    file = tmp_path / "file.yaml"
    file.write_bytes(text.encode())
    return file


@BOTH
@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", None),
        ("---\n", None),
        ("a: &x 5\nb: *x\n", {"a": 5, "b": 5}),
        ("a: &x {p: 1}\nb: {<<: *x}\n", {"a": {"p": 1}, "b": {"p": 1}}),
        ("a: &x {p: 1, q: 1}\nb:\n  q: 2\n  <<: *x\n", {"a": {"p": 1, "q": 1}, "b": {"p": 1, "q": 2}}),
        ("- &x {p: 1}\n- &y {p: 2, q: 2}\n- {<<: [*x, *y]}\n", [{"p": 1}, {"p": 2, "q": 2}, {"p": 1, "q": 2}]),
        ("- &x {p: 1}\n- &y {<<: *x, q: 2}\n- {<<: *y}\n", [{"p": 1}, {"p": 1, "q": 2}, {"p": 1, "q": 2}]),
        ("a: {<<: {}}\n", {"a": {}}),
        ("a: !!str 5\nb: !!float 5\n", {"a": "5", "b": 5.0}),
        ('"<<": 1\n', {"<<": 1}),
        ("\ufeffa: 1\n", {"a": 1}),
    ],
)  # fmt: skip
def test_merges_and_aliases_are_resolved(tmp_path, read, text, data):
    assert read(written(tmp_path, text)).data == data


@pytest.mark.parametrize(
    ("scalar", "in_1_2", "in_1_1"),
    [
        ("1e-6", 1e-6, "1e-6"),
        ("1.0e-6", 1e-6, 1e-6),
        ("1.0e6", 1e6, "1.0e6"),
        ("017", 17, 15),
        ("0o17", 15, "0o17"),
        ("1:30", "1:30", 90),
        ("yes", "yes", True),
        ("off", "off", False),
        ("true", True, True),
        ("'yes'", "yes", "yes"),
        ("~", None, None),
    ],
)
def test_the_two_versions_differ_as_the_specifications_say(tmp_path, scalar, in_1_2, in_1_1):
    file = written(tmp_path, f"a: {scalar}\n")
    for read, wanted in ((read_yaml, in_1_2), (read_pyyaml, in_1_1)):
        value = read(file).data["a"]
        assert type(value) is type(wanted)
        assert value == (pytest.approx(wanted) if isinstance(wanted, float) else wanted)


@BOTH
def test_lines_are_those_of_the_keys_also_of_merged_ones(tmp_path, read):
    located = read(written(tmp_path, "a: &x\n  p: 1\nb:\n  - q\n  -\n    <<: *x\n    r: 2\n"))
    assert located.line(("a", "p")) == 2
    assert located.line(("b", 0)) == 4
    assert located.line(("b", 1, "p")) == 2
    assert located.line(("b", 1, "r")) == 7


def bomb(kind):
    """Nine aliases of nine aliases, ten times over."""
    text = "a: &a [x]\n" if kind == "list" else "a: &a {x: 1}\n"
    for one, other in zip("abcdefghij", "bcdefghijk", strict=True):
        many = ", ".join([f"*{one}"] * 9)
        text += f"{other}: &{other} " + (
            f"[{many}]\n" if kind == "list" else f"{{<<: [{many}], {other}: 1}}\n"
        )
    return text


@BOTH
@pytest.mark.parametrize(
    "text",
    [
        bomb("list"),
        bomb("merge"),
        "[" * 100_000,
        "a: " + "{b: " * 5000,
        "- " * 3000 + "x\n",
        "a: &x {b: *x}\n",
        "a: &x [*x]\n",
        "a: &x {<<: *x}\n",
        "a: {<<: 5}\n",
        "a: {<<: [1]}\n",
        "a: *nowhere\n",
        "a: !secret 1\n",
        "a: !!python/object/apply:os.system [ls]\n",
        "a: !!set {x, y}\n",
        "a: !!int x\n",
        "a: " + "9" * 5000 + "\n",
        "? [a]\n: 1\n",
        "a: 1\n---\nb: 2\n",
        "a: \x07\n",
        "\ta: 1\n",
        "a: 2026-13-45\n",
        "a: [1\n",
    ],
)
def test_what_cannot_be_read_is_refused_at_once(tmp_path, read, text):
    file, start = written(tmp_path, text), time.perf_counter()
    with pytest.raises(SpecError) as error:
        read(file)
    assert time.perf_counter() - start < 2
    assert error.value.line is not None
    assert len(str(error.value).splitlines()) <= 2


def test_an_anchor_may_be_given_anew_but_not_for_pyyaml(tmp_path):
    file = written(tmp_path, "a: &x 1\nb: &x 2\nc: *x\n")
    assert read_yaml(file).data == {"a": 1, "b": 2, "c": 2}
    with pytest.raises(SpecError, match="duplicate anchor"):
        read_pyyaml(file)


def test_of_a_key_given_twice_pyyaml_takes_the_last_and_a_grid_is_refused(tmp_path):
    file = written(tmp_path, "a: 1\nb: {c: 1, c: 2}\na: 3\n")
    located = read_pyyaml(file)
    assert located.data == {"a": 3, "b": {"c": 2}}
    assert set(located.duplicates) == {("a",), ("b", "c")}
    with pytest.raises(SpecError, match="duplicate key"):
        read_yaml(file)


MERGED = """\
name: merged
question: q
base:
  model: tiny
  data: {sources: [{source: sums, terms: [2], digits: [1]}], size: 50}
  reward: {functions: [{name: accuracy}]}
axes:
  cap:
    a: &a {rollout: {max_completion_tokens: 16}}
    b: &b {optimizer: {learning_rate: 5e-5}}
    c: {<<: [*a, *b]}
evaluate: {benchmarks: [{name: b, questions: 6, source: {source: sums, terms: [2], digits: [1]}}]}
"""


def test_a_level_may_be_made_of_merged_ones_alone(tmp_path):
    grid = load_grid(written(tmp_path, MERGED))
    both = next(cell.recipe for cell in grid.cells if cell.levels["cap"] == "c")
    assert both.rollout.max_completion_tokens == 16
    assert both.optimizer.learning_rate == pytest.approx(5e-5)
