"""Bad grids: each names the place and how to mend it, in at most two lines, with the right line number."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from harness.spec.errors import SpecError
from harness.spec.grid import load_grid

GOOD = """\
name: small
question: Does the cap matter?
base:
  model: tiny
  data:
    sources:
      - {source: sums, terms: [2]}
  rollout:
    max_completion_tokens: 32
  reward:
    functions:
      - {name: accuracy}
axes:
  cap: {rollout.max_completion_tokens: [32, 16]}
  steps: {training.steps: [2, 4]}
seeds: [0]
evaluate:
  benchmarks:
    - {name: easy, questions: 4, source: {source: sums, terms: [2]}}
"""


def replaced(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


CASES = {
    "unknown key on top": (replaced("seeds: [0]", "sedes: [0]"), 16, "sedes: unknown key", '"seeds"'),
    "unknown key in base": (
        replaced("max_completion_tokens: 32\n", "max_completion_token: 32\n"),
        9,
        "base.rollout.max_completion_token: unknown key",
        '"max_completion_tokens"',
    ),
    "unknown section in base": (
        replaced("  rollout:", "  rolout:"),
        8,
        "base.rolout: unknown key",
        '"rollout"',
    ),
    "unknown key in a list": (
        replaced("{name: accuracy}", "{name: accuracy, wieght: 2}"),
        12,
        "base.reward.functions[0].wieght: unknown key",
        '"weight"',
    ),
    "unknown key of a source": (
        replaced("- {source: sums, terms: [2]}", "- {source: sums, term: [2]}"),
        7,
        "base.data.sources[0].term: unknown key",
        '"terms"',
    ),
    "unknown key of a benchmark": (
        replaced("questions: 4", "question: 4"),
        19,
        "evaluate.benchmarks[0].question: unknown key",
        '"questions"',
    ),
    "unknown field in an axis": (
        replaced("rollout.max_completion_tokens: [32, 16]", "rollout.max_completions_tokens: [32, 16]"),
        14,
        "base.rollout.max_completions_tokens: unknown key",
        '"max_completion_tokens"',
    ),
    "unknown field in a patch": (
        replaced(
            "cap: {rollout.max_completion_tokens: [32, 16]}", "cap: {a: {}, b: {objectiv: {beta: 0.1}}}"
        ),
        14,
        "base.objectiv: unknown key",
        '"objective"',
    ),
    "wrong type": (
        replaced("max_completion_tokens: 32\n", "max_completion_tokens: long\n"),
        9,
        "base.rollout.max_completion_tokens: must be a whole number, got 'long'",
        "",
    ),
    "a float for a count": (
        replaced("questions: 4", "questions: 4.5"),
        19,
        "evaluate.benchmarks[0].questions: must be a whole number, got 4.5",
        "",
    ),
    "a number as text": (
        replaced("questions: 4", 'questions: "4"'),
        19,
        "evaluate.benchmarks[0].questions: must be a whole number, got '4'",
        "",
    ),
    "a scalar for a section": (
        replaced("  rollout:\n    max_completion_tokens: 32\n", "  rollout: fast\n"),
        8,
        "base.rollout: must be a mapping, got 'fast'",
        "",
    ),
    "out of range": (
        replaced("max_completion_tokens: 32\n", "max_completion_tokens: 0\n"),
        9,
        "base.rollout.max_completion_tokens",
        "got 0",
    ),
    "a wrong choice": (
        replaced("  rollout:\n", "  objective: {loss: dppo}\n  rollout:\n"),
        8,
        "base.objective.loss: 'dppo' is not one of",
        '"dapo"',
    ),
    "a wrong source": (
        replaced("- {source: sums, terms: [2]}\n  roll", "- {source: sum, terms: [2]}\n  roll"),
        7,
        "base.data.sources[0]",
        '"sums"',
    ),
    "empty axis": (
        replaced("{training.steps: [2, 4]}", "{}"),
        15,
        "axes.steps: has no levels",
        "remove the axis",
    ),
    "empty value list": (
        replaced("{training.steps: [2, 4]}", "{training.steps: []}"),
        15,
        "axes.steps: has no levels",
        "remove the axis",
    ),
    "null axis": (replaced("{training.steps: [2, 4]}", ""), 15, "axes.steps: must map level names", ""),
    "duplicate values": (
        replaced("[32, 16]", "[32, 32]"),
        14,
        "axes.cap: level '32' stands twice",
        "remove or rename",
    ),
    "duplicate level names": (
        replaced("cap: {rollout.max_completion_tokens: [32, 16]}", "cap:\n    a: {}\n    a: {}"),
        16,
        "duplicate key",
        "",
    ),
    "a patch that is none": (
        replaced("cap: {rollout.max_completion_tokens: [32, 16]}", "cap: {a: {}, b: 16}"),
        14,
        "axes.cap.b: must be a patch of the base recipe, got 16",
        "write",
    ),
    "values of no field": (
        replaced("cap: {rollout.max_completion_tokens: [32, 16]}", "cap: [32, 16]"),
        14,
        "axes.cap: `cap` names no field",
        "training.steps",
    ),
    "an axis named like a column": (replaced("  cap: {", "  seed: {"), 14, "axes.seed", "another axis name"),
    "an axis named like a column of runs": (
        replaced("  cap: {", "  kind: {"),
        14,
        "axes.kind",
        "another axis name",
    ),
    "missing base": (
        GOOD.replace("base:", "seeds_: [1]\nx:").replace("seeds_: [1]\n", ""),
        3,
        "x: unknown key",
        "base",
    ),
    "a benchmark named like their mean": (
        replaced("{name: easy, questions", "{name: all, questions"),
        17,
        "no benchmark can be called `all`",
        "",
    ),
    "missing benchmarks": (
        GOOD[: GOOD.index("  benchmarks")] + "  samples: 2\n",
        17,
        "evaluate.benchmarks: missing",
        "add `benchmarks:`",
    ),
    "no such baseline level": (GOOD + "verdict: {baseline: {cap: 33}}\n", 20, "verdict.baseline.cap", ""),
    "no such baseline axis": (
        GOOD + 'verdict: {baseline: {cpa: "32"}}\n',
        20,
        "verdict.baseline.cpa: no such axis",
        '"cap"',
    ),
    "excluded level": (GOOD + "exclude:\n  - {cap: 64}\n", 21, "exclude[0].cap: no such level 64", ""),
    "excluded axis": (GOOD + "exclude:\n  - {cpa: 32}\n", 21, "exclude[0].cpa: no such axis", '"cap"'),
    "everything excluded": (
        GOOD + "exclude:\n  - {cap: 32}\n  - {cap: 16}\n",
        20,
        "exclude: no cell is left",
        "",
    ),
    "include in part": (
        GOOD + "include:\n  - {cap: 32}\n",
        21,
        "include[0]: names no level of steps",
        "every axis",
    ),
    "not YAML": (replaced("seeds: [0]", "seeds: [0"), 17, "not valid YAML", ""),
    "an alias of its own whole": (
        replaced("base:\n", "base: &base\n  prompt: *base\n"),
        4,
        "base.prompt: must be",
        "",
    ),
    "a list on top": ("- a\n- b\n", 1, "must be a mapping", ""),
    "greedy with several samples": (
        replaced("evaluate:\n", "evaluate:\n  temperature: 0.0\n"),
        17,
        "`samples` must be 1 at temperature 0",
        "",
    ),
    "seeds as a number": (replaced("seeds: [0]", "seeds: 3"), 16, "seeds: must be a list, got 3", ""),
    "more steps than a float can count": (
        replaced("training.steps: [2, 4]", f"training.steps: [2, {10**400}]"),
        15,
        "base.training.steps: input should be less than or equal to 1000000000000, got 1000",
        "…",
    ),
    "a negative seed": (replaced("seeds: [0]", "seeds: [0, -1]"), 16, "seeds[1]", "got -1"),
    "no seeds": (replaced("seeds: [0]", "seeds: []"), 16, "seeds", ""),
    "a seed twice": (replaced("seeds: [0]", "seeds: [0, 1, 0]"), 16, "seeds", "0"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_grid(case, tmp_path):
    text, line, message, hint = CASES[case]
    file = tmp_path / "grid.yaml"
    file.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_grid(file)
    told = str(caught.value)
    assert caught.value.line == line, told
    assert told.startswith(f"{file}:{line}: "), told
    assert message in told
    assert hint in told
    assert len(told.splitlines()) <= 2, told


def test_good_grid(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text(GOOD)
    assert len(load_grid(file).cells) == 4


def test_missing_file(tmp_path):
    with pytest.raises(SpecError, match=r"nowhere\.yaml: no such file"):
        load_grid(tmp_path / "nowhere.yaml")


def test_error_in_a_level_points_at_the_level(tmp_path):
    """The base is right; the level that spoils it is named by its line, not the base's."""
    text = dedent("""\
        axes:
          reward:
            plain: {}
            shaped:
              reward:
                functions:
                  - {name: accuracy, weight: heavy}
        """)
    start = GOOD.index("axes:")
    file = Path(tmp_path / "grid.yaml")
    file.write_text(GOOD[:start] + text + GOOD[GOOD.index("seeds:") :])
    with pytest.raises(SpecError) as caught:
        load_grid(file)
    assert caught.value.line == 19
    assert "must be a number, got 'heavy'" in str(caught.value)
