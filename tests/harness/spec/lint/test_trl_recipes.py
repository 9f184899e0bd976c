"""Recipes of trl and open-r1 under the linter: Open-RS's published settings first of all."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.matrix.planning.data_rules import lint_file
from harness.spec.errors import SpecError
from harness.spec.lint import trl_keys
from harness.spec.lint.finding import errors

ROOT = Path(__file__).resolve().parents[4]
PUBLISHED = ROOT / "ablations" / "open_rs" / "published"

RECIPE = """\
# lint: program=open-r1 trl=1.16.0 processes=2
model_name_or_path: some/model
max_completion_length: 2048
per_device_train_batch_size: 8
gradient_accumulation_steps: 2
num_generations: 8
max_steps: 100
lr_scheduler_type: constant
save_steps: 100
use_vllm: true
reward_funcs: [accuracy, format]
reward_weights: [2.0, 1.0]
"""


def lint(tmp_path, text=RECIPE, *, add="", old="", new=""):
    file = tmp_path / "recipe.yaml"
    assert old in text
    file.write_text((text.replace(old, new) if old else text) + add)
    return lint_file(file)


def rules(linted, *, severity=None):
    return {f.rule for f in linted.findings if severity in (None, f.severity)}


def test_the_five_defects_of_open_rs_and_its_warm_up_checkpoint_are_found():
    findings = lint_file(PUBLISHED / "experiment-3.yml").findings
    by_rule = {f.rule: f for f in findings}
    # (1) length in characters, without a clamp
    assert (
        "1008 tokens earn 0.50, 2016 tokens earn 1.00, 2987 tokens earn 0.50"
        in by_rule["reward-characters"].effect
    )
    assert "reward-not-monotone" in by_rule
    assert by_rule["serial-generation"].severity == "info"
    # (2) the range of wrong answers, inverted
    assert "wrong" in by_rule["reward-inverted"].effect
    # (3) a key that the parser dropped
    assert by_rule["unknown-key"].place.key == "vllm_enforce_eager"
    assert "without a word" in by_rule["unknown-key"].effect
    # (4) log-probs not divided by the temperature
    assert "0.7" in by_rule["logprob-temperature"].effect
    # (5) arguments in each other's place, and credit for an unparsable reference
    assert {"reward-swapped", "reward-unparsable"} <= set(by_rule)
    assert "end-of-warm-up checkpoint: warm-up ends with step 50" in by_rule["warmup-checkpoint"].effect
    errors = {"reward-characters", "reward-inverted", "unknown-key", "logprob-temperature", "reward-swapped"}
    assert all(by_rule[rule].severity == "error" for rule in errors)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_finding_says_where_what_and_what_instead(number):
    file = PUBLISHED / f"experiment-{number}.yml"
    lines = file.read_text().splitlines()
    for finding in lint_file(file).findings:
        key = finding.place.key.partition("[")[0]
        assert finding.place.line is not None
        nearby = lines[max(0, finding.place.line - 4) : finding.place.line]
        assert any(key in line for line in nearby), finding
        assert finding.effect
        assert finding.instead


def test_only_one_key_of_open_rs_is_unknown_to_the_trl_of_its_day():
    found = [f for f in lint_file(PUBLISHED / "experiment-2.yml").findings if f.rule == "unknown-key"]
    assert [f.place.key for f in found] == ["vllm_enforce_eager"]


def test_a_sound_recipe_is_clean(tmp_path):
    assert rules(lint(tmp_path)) == set()


@pytest.mark.parametrize(
    ("add", "rule", "word"),
    [
        ("num_generation: 4\n", "unknown-key", 'did you mean "num_generations"?'),
        ("cosine_max_len: 100\n", "unread-key", "`cosine` is not among `reward_funcs`"),
        ("epsilon: 0.3\n", "inert-clipping", "ratio is 1"),
        ("sync_ref_model: true\n", "inert-kl", "no KL term"),
        ("top_p: 0.9\n", "top-p", "0.9"),
        ("load_best_model_at_end: true\n", "best-of-checkpoints", "too high"),
    ],
)
def test_a_fault_is_found(tmp_path, add, rule, word):
    found = [f for f in lint(tmp_path, add=add).findings if f.rule == rule]
    assert found
    assert word in str(found[0])
    assert found[0].place.line == len(RECIPE.splitlines()) + 1


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("num_generations: 8", "num_generations: 1", "group-of-one"),
        (
            "lr_scheduler_type: constant",
            "lr_scheduler_type: constant_with_warmup\nwarmup_steps: 100",
            "warmup-checkpoint",
        ),
        ("max_steps: 100", "max_steps: 100\nwarmup_steps: 100", "unread-key"),
        ("num_generations: 8", "num_generations: 5", "batch-shape"),
        ("save_steps: 100", "save_steps: 10", "best-of-checkpoints"),
        ("lr_scheduler_type: constant\nsave_steps: 100", "save_steps: 50", "unfinished-schedule"),
        ("[accuracy, format]", "[accuracy, cosine]", "reward-characters"),
        ("[accuracy, format]", "[format, tag_count]", "reward-prefers-wrong"),
        ("[2.0, 1.0]", "[2.0]", "unread-key"),
        ("some/model", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "cap-short"),
        ("use_vllm: true", "vllm_mode: colocate", "unread-key"),
    ],
)
def test_another_fault_is_found(tmp_path, old, new, rule):
    assert rule in rules(lint(tmp_path, old=old, new=new))


def test_inner_epochs_make_clipping_work(tmp_path):
    assert "inert-clipping" not in rules(lint(tmp_path, add="epsilon: 0.3\nnum_iterations: 2\n"))


def test_the_temperature_matters_before_trl_divided_by_it(tmp_path):
    assert "logprob-temperature" not in rules(lint(tmp_path, add="temperature: 0.7\n"))
    for version, wrong in (("0.15.2", True), ("0.16.0.dev0", True), ("0.16.0", False)):
        linted = lint(tmp_path, old="trl=1.16.0", new=f"trl={version}", add="temperature: 0.7\n")
        assert ("logprob-temperature" in rules(linted)) is wrong, version


def test_without_a_version_the_keys_tell_it(tmp_path):
    text = RECIPE.replace("# lint: program=open-r1 trl=1.16.0 processes=2\n", "")
    old = lint(tmp_path, text, add="max_prompt_length: 512\noverwrite_output_dir: true\ntemperature: 0.7\n")
    assert "logprob-temperature" in rules(old, severity="warning")
    assert any("0.27.2" in note for note in old.notes)
    assert any("1.16.0" in note for note in lint(tmp_path, text).notes)


def test_only_what_every_version_shows_is_an_error_where_the_version_is_a_guess(tmp_path):
    text = RECIPE.replace("# lint: program=open-r1 trl=1.16.0 processes=2\n", "")
    mixed = "max_prompt_length: 512\nloss_type: dapo\ntemperature: 0.7\n"
    assert rules(lint(tmp_path, text, add=mixed), severity="error") == set()
    typo = lint(tmp_path, text, add=mixed + "max_promt_length: 512\n")
    assert [f.place.key for f in errors(typo.findings)] == ["max_promt_length"]


@pytest.mark.parametrize(
    ("version", "unknown"),
    [
        ("0.15.0", {"loss_type"}),
        ("0.24.0", set()),
        ("1.16.0", {"warmup_ratio", "max_prompt_length"}),
        ("99.0", {"warmup_ratio", "max_prompt_length"}),
    ],
)
def test_between_known_versions_the_keys_of_both_are_known(tmp_path, version, unknown):
    add = "warmup_ratio: 0.1\nmax_prompt_length: 512\nloss_type: dapo\n"
    linted = lint(tmp_path, old="trl=1.16.0", new=f"trl={version}", add=add)
    assert {f.place.key for f in linted.findings if f.rule == "unknown-key"} == unknown


def test_a_waiver_keeps_the_finding_and_its_reason(tmp_path):
    linted = lint(tmp_path, add="top_p: 0.9\n# lint: waive top-p: the paper did so\n")
    [found] = linted.findings
    assert found.waived == "the paper did so"
    assert "because: the paper did so" in str(found)
    idle = lint(tmp_path, add="# lint: waive top-p: no longer\n# lint: waive topp: typo\n")
    assert [(f.rule, f.severity) for f in idle.findings] == [
        ("unknown-waiver", "warning"),
        ("unknown-waiver", "info"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "# lint: program=open-x",
        "# lint: foo=1",
        "# lint: processes=many",
        "temperature: hot",
        "max_steps: true",
        "max_steps: .inf",
        "gradient_accumulation_steps: 0",
        "reward_weights: 1.0",
        "reward_weights: [x, 1]",
        "lr_scheduler_kwargs: {min_lr_rate: x}",
    ],
)
def test_what_cannot_be_understood_is_an_error_with_its_place(tmp_path, line):
    key = line.partition(":")[0]
    others = [own for own in RECIPE.replace(" processes=2", "").splitlines() if not own.startswith(key + ":")]
    with pytest.raises(SpecError) as error:
        lint(tmp_path, "\n".join([*others, line, ""]))
    assert "recipe.yaml" in str(error.value)
    assert len(str(error.value).splitlines()) <= 3


def test_settings_without_a_value_are_at_their_defaults(tmp_path):
    add = "lr_scheduler_kwargs: {min_lr_rate: null}\nsteps_per_generation: null\n"
    assert rules(lint(tmp_path, add=add)) == set()


def test_the_snapshot_of_keys_is_what_an_installed_trl_says():
    installed = trl_keys.installed_settings()
    if installed is None:
        pytest.skip("trl is not installed")
    version, settings = installed
    shipped = trl_keys.shipped()
    if version not in shipped:
        pytest.skip(f"trl {version} has no snapshot")
    trl_own = (
        "num_generations",
        "max_completion_length",
        "vllm_mode",
        "reward_weights",
        "model_name_or_path",
        "beta",
    )
    assert {key: settings[key] for key in trl_own} == {key: shipped[version][key] for key in trl_own}
    # transformers' own keys come and go with its minor versions.
    assert len(settings.keys() ^ shipped[version].keys()) <= 10


def test_defaults_follow_the_version():
    def default(version, key):
        return trl_keys.settings(version)[key].default

    assert [default(v, "beta") for v in ("0.15.2", "0.18.2", "0.19.1", "1.16.0")] == [0.04, 0.04, 0.0, 0.0]
    assert [default(v, "temperature") for v in ("0.16.0.dev0", "0.18.2")] == [0.9, 1.0]
    assert [default(v, "max_completion_length") for v in ("1.8.0", "1.16.0", "99.0")] == [256, 512, 512]
    assert [default(v, "loss_type") for v in ("0.17.0", "0.22.2")] == ["bnpo", "dapo"]
    assert "loss_type" not in trl_keys.settings("0.1.0")
