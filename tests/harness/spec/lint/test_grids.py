"""Grids under the linter: each rule on a grid that breaks it alone, and every shipped grid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.matrix.planning.data_rules import before_spending, lint_file
from harness.spec.errors import SpecError
from harness.spec.grid import load_grid
from harness.spec.lint.finding import RULES, clean

ROOT = Path(__file__).resolve().parents[4]
SHIPPED = sorted((ROOT / "ablations").rglob("*.yaml"))

GRID = """\
name: g
question: q?
base:
  model: tiny
  data: {size: 50, sources: [{source: sums, terms: [2], digits: [1]}]}
  rollout: {max_completion_tokens: 64}
  reward: {functions: [{name: accuracy}]}
  training: {steps: 20}
axes:
  rate: {optimizer.learning_rate: [1e-6, 1e-5]}
evaluate:
  max_completion_tokens: 64
  benchmarks:
    - {name: sums-2, questions: 2000, source: {source: sums, terms: [2], digits: [2]}}
"""


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def lint(tmp_path, *changes, add=""):
    text = GRID
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file = tmp_path / "grid.yaml"
    file.write_text(text + add)
    return lint_file(file)


def found(linted, rule):
    return [f for f in linted.findings if f.rule == rule]


def test_a_sound_grid_is_clean(tmp_path):
    assert lint(tmp_path).findings == []


@pytest.mark.parametrize("grid", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_grid_is_clean_or_carries_a_waiver(grid):
    findings = lint_file(grid).findings
    assert clean(findings), [str(f) for f in findings if f.waived is None]
    assert not [f for f in findings if f.rule == "unknown-waiver"]
    assert all(f.waived is None or len(f.waived) > 15 for f in findings)


LEVELS = ("  rate: {optimizer.learning_rate: [1e-6, 1e-5]}\n", "")
STEPS = LEVELS[0] + "  steps: {training.steps: [5, 10, 20]}\n"
COSINE = "optimizer: {schedule: cosine, schedule_steps: 40, warmup_steps: 10}\n  training"


@pytest.mark.parametrize(
    ("changes", "rule", "severity", "word"),
    [
        ([("  model: tiny", "  modle: tiny")], "unknown-key", "error", '"model"'),
        (
            [("  training", "  optimizer: {warmup_steps: 20}\n  training")],
            "warmup-checkpoint",
            "warning",
            "step 20",
        ),
        ([("  training", "  " + COSINE)], "unfinished-schedule", "warning", "cosine schedule of 40 steps"),
        (
            [("  training", "  objective: {clip_high: 0.3}\n  training")],
            "inert-clipping",
            "info",
            "ratio is 1",
        ),
        ([("  training", "  objective: {kl: k1}\n  training")], "inert-kl", "warning", "objective.beta is 0"),
        ([("steps: 20}", "steps: 20, logprob_temperature: 0.5}")], "logprob-temperature", "error", "0.5"),
        ([("tokens: 64}\n  rew", "tokens: 64, top_p: 0.9}\n  rew")], "top-p", "warning", "0.9"),
        (
            [("optimizer.learning_rate: [1e-6, 1e-5]", "objective.clip_high: [0.2, 0.3]")],
            "same-run",
            "error",
            "objective.clip_high has no effect",
        ),
        (
            [("optimizer.learning_rate: [1e-6, 1e-5]", "objective.kl: [k1, k3]")],
            "same-run",
            "error",
            "objective.kl has no effect",
        ),
        ([("tokens: 64}\n  rew", "tokens: 600}\n  rew")], "cap-context", "error", "beyond the 1024 of tiny"),
        ([("tokens: 64}\n  rew", "tokens: 96}\n  rew")], "evaluation-cap", "warning", "up to 96"),
        ([("{name: accuracy}", "{name: format}")], "reward-prefers-wrong", "error", "a wrong answer earns"),
        (
            [("{name: accuracy}", "{name: accuracy, weight: 0.5}, {name: length}")],
            "reward-prefers-wrong",
            "warning",
            "a wrong answer of",
        ),
        ([("{name: accuracy}", "{name: cosine_characters}")], "reward-inverted", "error", "inverted"),
        ([("{name: accuracy}", "{name: accuracy_open_rs}")], "reward-swapped", "error", "other way round"),
        (
            [("{name: accuracy}", "{name: accuracy_open_rs}")],
            "reward-unparsable",
            "error",
            "1.00 to any answer",
        ),
        ([("questions: 2000", "questions: 30")], "small-benchmark", "warning", "30 questions"),
        ([("evaluate:\n", "evaluate:\n  samples: 1\n")], "one-sample", "warning", "one sample"),
        ([(LEVELS[0], STEPS)], "best-of-checkpoints", "info", "6 checkpoints"),
        (
            [("[5, 10, 20]", "[1, 2, 3, 4, 20]"), (LEVELS[0], STEPS)][::-1],
            "best-of-checkpoints",
            "warning",
            "10",
        ),
    ],
)
def test_a_fault_is_found(tmp_path, changes, rule, severity, word):
    findings = found(lint(tmp_path, *changes), rule)
    assert findings
    assert findings[0].severity == severity
    assert word in str(findings[0])
    assert findings[0].place.line is not None


def test_two_passes_over_a_batch_make_clipping_a_difference(tmp_path):
    clip = ("optimizer.learning_rate: [1e-6, 1e-5]", "objective.clip_high: [0.2, 0.3]")
    assert not found(lint(tmp_path, clip, ("steps: 20}", "steps: 20, inner_epochs: 2}")), "same-run")


@pytest.mark.parametrize("loss", ["cispo", "sapo", "vespo"])
def test_a_loss_without_a_clipped_surrogate_makes_clipping_none(tmp_path, loss):
    clip = ("optimizer.learning_rate: [1e-6, 1e-5]", "objective.clip_high: [0.2, 0.3]")
    twice = ("steps: 20}", f"steps: 20, inner_epochs: 2}}\n  objective: {{loss: {loss}}}")
    assert found(lint(tmp_path, clip, twice), "same-run")


def test_the_place_is_the_level_that_set_it(tmp_path):
    linted = lint(
        tmp_path, ("[1e-6, 1e-5]}", "[1e-6, 1e-5]}\n  share:\n    all: {}\n    most: {rollout: {top_p: 0.9}}")
    )
    [finding] = found(linted, "top-p")
    assert finding.place.key == "axes.share.most: rollout.top_p"
    assert finding.place.line == 13


def questions(tmp_path, rows):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))
    return file


def test_answers_that_do_not_parse_are_found(tmp_path):
    rows = [(f"question {i}?", str(i)) for i in range(18)] + [("bad?", "((^_"), ("worse?", "\\frac{{")]
    source = (
        "{source: sums, terms: [2], digits: [1]}",
        f"{{source: file, path: {questions(tmp_path, rows)}}}",
    )
    [finding] = found(lint(tmp_path, source), "gold-unparsable")
    assert finding.severity == "error"
    assert "2 of 20" in finding.effect
    assert "(lines 19, 20)" in finding.effect


def test_benchmark_questions_that_are_trained_on_are_found(tmp_path):
    rows = [(f"What is {i} + {i}?", str(2 * i)) for i in range(40)]
    file = questions(tmp_path, rows)
    held, linted_file = tmp_path / "held.jsonl", tmp_path / "grid.yaml"
    held.write_text(json.dumps({"question": "what is  7 + 7 ?", "answer": "14"}) + "\n")
    linted = lint(
        tmp_path,
        ("{source: sums, terms: [2], digits: [1]}", f"{{source: file, path: {file}}}"),
        (
            "questions: 2000, source: {source: sums, terms: [2], digits: [2]}",
            f"source: {{source: file, path: {held}}}",
        ),
    )
    [finding] = found(linted, "train-test-overlap")
    assert "1 of 1 questions of sums-2" in finding.effect
    held.write_text(json.dumps({"question": "What is $7 + 7!$?", "answer": "5047"}) + "\n")
    assert not found(lint_file(linted_file), "train-test-overlap")


def test_a_waiver_needs_a_rule_and_a_reason(tmp_path):
    small = ("questions: 2000", "questions: 30")
    linted = lint(tmp_path, small, add="lint: {waive: {small-benchmark: it is a smoke test of the chain}}\n")
    assert found(linted, "small-benchmark")[0].waived
    assert clean(linted.findings)
    idle = lint(tmp_path, add="lint: {waive: {small-bench: no such rule here}}\n")
    assert found(idle, "unknown-waiver")[0].severity == "warning"


def test_a_matrix_is_told_of_errors_and_warnings_but_not_of_what_is_waived(tmp_path):
    small = ("questions: 2000", "questions: 30")
    lint(tmp_path, small, (LEVELS[0], STEPS))
    told = before_spending(lint_file(tmp_path / "grid.yaml"))
    assert len(told) == 1
    assert "small-benchmark" in told[0]
    lint(tmp_path, small, add="lint: {waive: {small-benchmark: it is a smoke test of the chain}}\n")
    assert before_spending(lint_file(tmp_path / "grid.yaml")) == []


def test_a_users_reward_is_asked_too(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "def waves(batch, context):\n"
        "    return [c.correct + (item.tokens % 32) / 100 for item, c in zip(batch, context.checks)]\n"
        "def breaks(batch, context):\n    raise KeyError('x')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    [finding] = found(lint(tmp_path, ("{name: accuracy}", "{name: 'mine:waves'}")), "reward-not-monotone")
    assert finding.severity == "warning"
    [finding] = found(lint(tmp_path, ("{name: accuracy}", "{name: 'mine:breaks'}")), "reward-failing")
    assert "KeyError" in finding.effect


def test_a_reward_that_looks_at_columns_is_not_judged(tmp_path, monkeypatch):
    (tmp_path / "lookers.py").write_text(
        "def takes(batch, context):\n    return [float(item.columns['level']) for item in batch]\n"
        "def asks(batch, context):\n    return [float(item.columns.get('level', 0)) for item in batch]\n"
        "def counts(batch, context):\n    return [float(bool(item.columns)) for item in batch]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("takes", "asks", "counts"):
        linted = lint(tmp_path, ("{name: accuracy}", f"{{name: 'lookers:{name}'}}"))
        assert [(f.rule, f.severity) for f in linted.findings] == [("reward-columns", "info")]


SOLUTIONS = {
    "gsm8k": ("answer", "There are 2*7=<<2*7=14>>14 pens.\n#### 14", "answer_pattern: gsm8k"),
    "boxed": ("solution", "We multiply. The answer is $\\boxed{14}$.", "answer_pattern: boxed"),
    "prose": ("answer", "There are two boxes of seven pens. That makes 14 pens.", "answer_pattern:"),
    "one sentence": (
        "answer",
        "First we add seven to seven, which gives the number of pens that the clerk has packed in all, fourteen",
        "answer_pattern:",
    ),
    "long": ("answer", "x + " * 300 + "1", "`answer: …`"),
}


@pytest.mark.parametrize("kind", SOLUTIONS)
def test_references_that_are_whole_solutions_are_found(tmp_path, kind):
    column, text, field = SOLUTIONS[kind]
    file = tmp_path / "rows.jsonl"
    rows = [{"question": f"question {i}?", column: text if i % 2 else "14"} for i in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = ("{source: sums, terms: [2], digits: [1]}", f"{{source: file, path: {file}}}")
    [finding] = found(lint(tmp_path, source), "gold-solution")
    assert finding.severity == "error"
    assert f"20 of 40 references in column '{column}'" in finding.effect
    assert "(lines 2, 4, 6, " in finding.effect
    assert field in finding.instead
    assert finding.place.line == 5


@pytest.mark.parametrize("pattern", ["gsm8k", "boxed"])
def test_references_that_the_pattern_finds_are_sound(tmp_path, pattern):
    column, text, _ = SOLUTIONS[pattern]
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "".join(json.dumps({"question": f"question {i}?", column: text}) + "\n" for i in range(40))
    )
    source = (
        "{source: sums, terms: [2], digits: [1]}",
        f"{{source: file, path: {file}, answer_pattern: {pattern}}}",
    )
    assert lint(tmp_path, source).findings == []


def test_rows_that_cannot_be_used_stop_the_linter_or_are_noted(tmp_path):
    file = questions(tmp_path, [("question 1?", "1"), ("question 2?", None), ("question 3?", "3")])
    text = "{source: sums, terms: [2], digits: [1]}"
    with pytest.raises(SpecError, match=r"grid\.yaml:5: base\.data\.sources\[0\]: .*rows\.jsonl:2: 'answer'"):
        lint(tmp_path, (text, f"{{source: file, path: {file}}}"))
    linted = lint(tmp_path, (text, f"{{source: file, path: {file}, drop_invalid: true}}"))
    assert len(linted.notes) == 1
    assert "1 of 3 rows are dropped" in linted.notes[0]


def test_every_rule_is_named_in_a_test():
    tests = "".join(p.read_text() for p in Path(__file__).parent.glob("test_*.py"))
    assert [rule for rule in RULES if f'"{rule}"' not in tests] == []


WSD = "optimizer: {schedule: wsd, schedule_steps: 100}\n  training"


@pytest.mark.parametrize(("step", "share"), [(25, "100%"), (50, "100%"), (75, "100%"), (90, "50%")])
def test_the_rate_of_a_checkpoint_is_the_trainer_s(tmp_path, step, share):
    linted = lint(tmp_path, ("  training", "  " + WSD), ("steps: 20}", f"steps: {step}}}"))
    [finding] = found(linted, "unfinished-schedule")
    assert f"at step {step} the rate is still {share} of its peak" in finding.effect


@pytest.mark.parametrize(
    ("model", "rate", "words"),
    [
        ("{name: tiny, lora: {}}", "3e-6", "adapters hardly move"),
        ("{name: tiny, lora: {r: 4}}", "5e-7", "1e-05 or more"),
        ("{name: tiny, lora: {r: 4}}", "1e-5", None),
        ("tiny", "1e-3", None),
        ("a/b-0.5B", "1e-4", "all 0.5 billion weights"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "2e-4", "1.8 billion"),
        ("a/b-135M", "1e-4", "0.14 billion"),
        ("a/b-v1.5", "1e-3", None),
    ],
)
def test_a_rate_fits_what_is_trained(tmp_path, model, rate, words):
    changes = (LEVELS, ("axes:\n", ""), ("model: tiny", f"model: {model}"))
    linted = lint(tmp_path, *changes, ("  training", f"  optimizer: {{learning_rate: {rate}}}\n  training"))
    findings = found(linted, "learning-rate")
    assert [f.severity for f in findings] == (["warning"] if words else [])
    assert all(words in str(f) for f in findings)
    assert all(f.place.line == 8 for f in findings)


def test_a_lora_level_without_a_rate_has_the_default_of_adapters(tmp_path):
    slow = "slow: {model: {lora: {}}, optimizer: {learning_rate: 1e-6}}"
    linted = lint(
        tmp_path, (LEVELS[0], f"  train: {{full: {{}}, lora: {{model: {{lora: {{r: 4}}}}}}, {slow}}}\n")
    )
    assert len(found(linted, "learning-rate")) == 1
    grid = load_grid(tmp_path / "grid.yaml")
    rates = {cell.levels["train"]: cell.recipe.optimizer.learning_rate for cell in grid.cells}
    assert rates == pytest.approx({"full": 1e-6, "lora": 1e-5, "slow": 1e-6})
