"""Recipes read as trl reads them: PyYAML's YAML 1.1, then argparse's conversions, then the trainer's arithmetic."""

from __future__ import annotations

import pytest

from harness.matrix.planning.data_rules import lint_file
from harness.spec.errors import SpecError
from harness.spec.lint.finding import errors
from harness.spec.lint.trl_recipes import load_trl_recipe
from harness.spec.lint.trl_settings import batch_of, checkpoints_of, optimizer_of, warmup_of

HEAD = "# lint: program=trl trl=1.16.0 processes=4\nmodel_name_or_path: some/model-1B\n"

STOPS = object()
"""trl's parser or configuration stops."""

PARSED = {
    "learning_rate: 1e-6": 1e-6,
    "learning_rate: 1.0e6": 1e6,
    "learning_rate: '2e-6'": 2e-6,
    "max_steps: 1e3": STOPS,
    "max_steps: 100.0": 100,
    "max_steps: '100'": 100,
    "max_steps: 0o17": STOPS,
    "max_steps: 017": 15,
    "max_steps: 1:30": 90,
    "max_steps: 1_000": 1000,
    "max_steps: 2026-01-01": STOPS,
    "max_steps: ten": STOPS,
    "num_generations: '8'": 8,
    "per_device_train_batch_size: yes": STOPS,
    "use_vllm: no": False,
    "use_vllm: 'off'": STOPS,
    "use_vllm: 1": True,
    "use_peft: 'yes'": True,
    "scale_rewards: no": False,
    "report_to: none": "none",
    "report_to: [none]": ["none"],
    "save_strategy: 'no'": "no",
    "max_completion_length: none": None,
    "lr_scheduler_kwargs: '{\"num_cycles\": 1}'": {"num_cycles": 1},
    "top_k: 50": 50,
    "lora_target_modules: all-linear": "all-linear",
}
"""A line, and what trl 1.16.0 with transformers 5.19 makes of it: the values of `TrlParser` itself, by the slow test
below; but that the yes and no of a date or a float for a whole number are not its parser's to judge."""


def recipe(tmp_path, line, head=HEAD):
    file = tmp_path / "recipe.yaml"
    file.write_text(f"{head}{line}\n")
    return file


@pytest.mark.parametrize("line", PARSED)
def test_a_value_is_what_trl_makes_of_it(tmp_path, line):
    file, wanted = recipe(tmp_path, line), PARSED[line]
    if wanted is STOPS:
        with pytest.raises(SpecError) as error:
            lint_file(file)
        assert error.value.line == 3
        assert len(str(error.value).splitlines()) <= 3
        return
    value = load_trl_recipe(file).values.data.get(line.partition(":")[0])
    assert type(value) is type(wanted)
    assert value == (pytest.approx(wanted) if isinstance(wanted, float) else wanted)


@pytest.mark.slow
def test_trl_itself_makes_the_same_of_the_values(tmp_path, monkeypatch):
    pytest.importorskip("trl", minversion="1.16.0", exc_type=ImportError)
    from trl import DatasetMixtureConfig, GRPOConfig, ModelConfig, TrlParser
    from trl.scripts.grpo import GRPOScriptArguments

    differs = {
        "max_steps: 2026-01-01",
        "per_device_train_batch_size: yes",
    }  # handed on as they are, to fail later
    for line in PARSED.keys() - differs:
        common = f"output_dir: {tmp_path}\nuse_cpu: true\nbf16: false\nreport_to: []\n"
        key = line.partition(":")[0]
        file = recipe(
            tmp_path, line, head=common.replace("report_to: []\n", "") if key == "report_to" else common
        )
        parser = TrlParser((GRPOScriptArguments, GRPOConfig, ModelConfig, DatasetMixtureConfig))
        # What the configuration makes of the parsed value afterwards is its own affair: the parser's counts.
        seen = {}
        monkeypatch.setattr(GRPOConfig, "__post_init__", lambda self, seen=seen: seen.update(vars(self)))
        monkeypatch.setattr(ModelConfig, "__post_init__", lambda self, seen=seen: seen.update(vars(self)))
        try:
            parser.parse_args_and_config(["--config", str(file)])
        except SystemExit:
            assert PARSED[line] is STOPS, line
            continue
        assert PARSED[line] is not STOPS, line
        if not line.startswith("lr_scheduler_kwargs"):  # parsed by the configuration
            wanted = PARSED[line]
            assert seen[key] == (pytest.approx(wanted) if isinstance(wanted, float) else wanted), line


@pytest.mark.parametrize(
    ("line", "rule", "severity", "words"),
    [
        ("save_strategy: no", "setting-type", "error", "PyYAML reads `no` as false"),
        ("eval_strategy: off", "setting-type", "error", 'quote it: `eval_strategy: "off"`'),
        ("report_to: no", "setting-type", "error", "PyYAML reads `no` as false"),
        ("max_steps: 100.0", "setting-type", "warning", "the float 100.0"),
        ("model_revision: 1.0", "setting-type", "warning", "a number, 1.0"),
        ("reward_funcs: accuracy", "setting-type", "error", "letter by letter"),
        ("temperature: null", "setting-type", "error", "null is not its default, 1.0"),
        ("num_generations:", "setting-type", "warning", "null is not its default, 8"),
        ("output_dir: ${SCRATCH}/out", "unexpanded-variable", "warning", "${SCRATCH}/out"),
        ("beta: 0.1\nbeta: 0.2", "duplicate-key", "warning", "takes the last"),
        ("loss_type: dppo", "setting-value", "error", 'did you mean "dapo"?'),
        ("lr_scheduler_type: cosin", "setting-value", "error", 'did you mean "cosine"?'),
        ("vllm_mode: colocated\nuse_vllm: true", "setting-value", "error", '"colocate"'),
        ("scale_rewards: maybe", "setting-value", "error", "group, batch, none"),
        ("lr_scheduler_type: cosine_with_min_lr", "setting-value", "error", "min_lr_rate"),
        ("lora_r: 16", "unread-key", "warning", "`use_peft` is false"),
        ("max_steps: 10\nnum_train_epochs: 3\nsave_steps: 10", "unread-key", "info", "after 10 steps"),
        (
            "torch_dtype: bfloat16",
            "unknown-key",
            "error",
            "`dtype` took its place (trl 0.14.0 to 0.24.0 knows it)",
        ),
        ("warmup_ratio: 0.1", "unknown-key", "error", "`warmup_steps: 0.1, a fraction` took its place"),
        ("max_prompt_length: 512", "unknown-key", "error", "nothing took its place"),
        ("use_peft: yes\nlearning_rate: 1e-6", "learning-rate", "warning", "adapters hardly move"),
        ("learning_rate: 1e-4", "learning-rate", "warning", "destroys the model"),
        ("reward_funcs: [my.rewards.tests]", "reward-unknown", "info", "`my.rewards.tests`"),
        ("reward_model_name_or_path: a/b", "reward-unknown", "info", "`a/b`"),
    ],
)
def test_what_a_value_means_to_trl_is_said(tmp_path, line, rule, severity, words):
    found = [f for f in lint_file(recipe(tmp_path, line)).findings if f.rule == rule]
    assert found, line
    assert words in str(found[0])
    assert found[0].severity == severity
    assert found[0].place.line is not None


@pytest.mark.parametrize("line", ["learning_rate: 1e-6", "use_peft: 'no'", "max_steps: '100'"])
def test_a_conversion_without_a_loss_is_a_note(tmp_path, line):
    linted = lint_file(recipe(tmp_path, line + "\nsave_strategy: epoch"))
    assert linted.findings == []
    assert any(note.startswith(line.partition(":")[0] + ": `") for note in linted.notes)


def test_a_value_that_newer_versions_read_rules_out_the_others(tmp_path):
    """Without a stated version an error is looked at under all of them, and some stop at `none`."""
    lines = "scale_rewards: none\ngeneration_batch_size: 64\nsteps_per_generation: 4"
    findings = lint_file(recipe(tmp_path, lines, head=HEAD.replace(" trl=1.16.0", ""))).findings
    assert "batch-shape" in {f.rule for f in findings}, "an error: the other versions were asked"
    with pytest.raises(SpecError, match="scale_rewards: must be true or false, got 'none'"):
        lint_file(recipe(tmp_path, "scale_rewards: none", head=HEAD.replace("1.16.0", "0.21.0")))


@pytest.mark.parametrize(
    "line",
    [
        "reward_weights: [1e-1, 1]",
        "lr_scheduler_kwargs: {min_lr_rate: 1e-1}",
        "save_steps: 1.5",
        "warmup_steps: -1",
        "learning_rate: 0",
        "num_generations: 7.5",
        "max_steps: ${STEPS}",
        "max_steps: 99999999999999999999",
        "save_steps: 1\nmax_steps: 1000000000",
        "temperature: .nan",
        f"learning_rate: {10**400}",  # too large for a float
        f"num_generations: {10**400}",
        f"reward_weights: [{10**400}]",
        f"lr_scheduler_kwargs: {{min_lr: {10**400}}}",
        "model_name_or_path: [a, b]",
        "lr_scheduler_kwargs: '{min_lr_rate'",
        "reward_funcs: {a: b}",
    ],
)
def test_what_would_stop_trl_is_refused_with_its_place(tmp_path, line):
    with pytest.raises(SpecError) as error:
        lint_file(recipe(tmp_path, line))
    assert error.value.line == 3
    assert len(str(error.value).splitlines()) <= 3


COMMON = """\
model_name_or_path: Qwen/Qwen2.5-1.5B-Instruct
reward_funcs: [accuracy]
num_generations: 8
per_device_train_batch_size: 8
max_completion_length: 1024
max_steps: 500
"""


def told(tmp_path, text):
    findings = lint_file(recipe(tmp_path, text, head="")).findings
    return sorted((f.rule, f.severity, f.effect) for f in findings)


@pytest.mark.parametrize(
    ("version", "fractions", "steps"),
    [
        ("1.16.0", "warmup_steps: 0.2\nsave_steps: 0.1", "warmup_steps: 100\nsave_steps: 50"),
        ("0.24.0", "warmup_ratio: 0.2\nsave_steps: 0.1", "warmup_steps: 100\nsave_steps: 50"),
        ("1.16.0", "warmup_steps: 0.001\nsave_steps: 0.002", "warmup_steps: 1\nsave_steps: 1"),
    ],
)
def test_fractions_are_the_steps_that_they_come_to(tmp_path, version, fractions, steps):
    head = f"# lint: trl={version} processes=4\n{COMMON}"
    found = told(tmp_path, head + fractions)
    assert [rule for rule, _, _ in found] == [
        "best-of-checkpoints",
        "unfinished-schedule",
        "warmup-checkpoint",
    ]
    unnamed = [[(r, s, e.replace("warmup_ratio", "warmup_steps")) for r, s, e in f] for f in (found,)]
    assert unnamed[0] == told(tmp_path, head + steps)


def test_before_transformers_5_a_fraction_of_warm_up_steps_is_none(tmp_path):
    head = f"# lint: trl=0.24.0 processes=4\n{COMMON}save_steps: 500\n"
    found = told(tmp_path, head + "warmup_steps: 0.2\n")
    assert [(rule, severity) for rule, severity, _ in found] == [("setting-type", "error")]


YAML_11 = (
    "use_vllm: no\nvllm_gpu_memory_utilization: 0.8\nload_best_model_at_end: off\nuse_peft: on\nlora_r: 8\n"
)


def test_the_booleans_of_yaml_1_1_are_those_of_1_2(tmp_path):
    quoted = YAML_11.replace("no\n", "false\n").replace("off\n", "false\n").replace("on\n", "true\n")
    rate = "learning_rate: 1e-5\nsave_steps: 500\nlr_scheduler_type: constant\n"
    found = told(tmp_path, COMMON + rate + YAML_11)
    assert [rule for rule, _, _ in found] == ["unread-key"]
    assert found == told(tmp_path, COMMON + rate.replace("1e-5", "1.0e-5") + quoted)


def test_merge_keys_and_anchors_are_resolved(tmp_path):
    text = COMMON + "lr_scheduler_type: constant\nsave_steps: &n 500\nlogging_steps: *n\n"
    merged = text + "<<: {temperature: 0.5, max_steps: 1}\n"
    loaded = load_trl_recipe(recipe(tmp_path, merged, head="# lint: trl=1.16.0\n"))
    assert loaded.values.data["logging_steps"] == 500
    assert loaded.get("temperature") == pytest.approx(0.5)
    assert loaded.get("max_steps") == 500  # a mapping's own keys win


@pytest.mark.parametrize(
    ("line", "completions", "updates", "rule"),
    [
        ("", 32, 1, None),
        ("gradient_accumulation_steps: 4", 128, 1, None),
        ("gradient_accumulation_steps: 4\nsteps_per_generation: 8", 256, 2, None),
        ("gradient_accumulation_steps: 4\nsteps_per_generation: 6", 192, 1.5, None),
        ("gradient_accumulation_steps: 4\nsteps_per_generation: 2", 64, 1, "serial-generation"),
        ("gradient_accumulation_steps: 2\ngeneration_batch_size: 128\nnum_iterations: 3", 128, 6, None),
        ("generation_batch_size: 48", None, None, "batch-shape"),
        ("generation_batch_size: 32\nnum_generations: 5", None, None, "batch-shape"),
        ("generation_batch_size: 64\nsteps_per_generation: 2", None, None, "batch-shape"),
        ("num_generations: 24", None, None, "batch-shape"),
        ("eval_strategy: steps\nper_device_eval_batch_size: 1", None, None, "batch-shape"),
    ],
)
def test_the_batch_is_what_trl_computes(tmp_path, line, completions, updates, rule):
    head = "# lint: trl=1.16.0 processes=4\n" + COMMON.replace("max_steps: 500\n", "")
    if "num_generations" in line:
        head = head.replace("num_generations: 8\n", "")
    file = recipe(tmp_path, line, head=head)
    assert [f.rule for f in lint_file(file).findings] == ([] if rule is None else [rule])
    if completions is not None:
        batch = batch_of(load_trl_recipe(file))
        assert batch.completions == pytest.approx(completions)
        assert batch.updates == pytest.approx(updates)


@pytest.mark.parametrize(
    ("line", "saved"),
    [
        ("max_steps: 100\nsave_steps: 40", (40, 80, 100)),
        ("max_steps: 100\nsave_steps: 0.07", (8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 100)),
        ("max_steps: 100\nsave_steps: 40\nsave_total_limit: 2", (80, 100)),
        ("max_steps: 100\nsave_strategy: epoch", (100,)),
        ("max_steps: 100\nsave_steps: 0", (100,)),
        ("num_train_epochs: 2\nsave_steps: 0.1", ()),
    ],
)
def test_checkpoints_are_those_that_transformers_saves(tmp_path, line, saved):
    # 0.07 × 100 is a little above 7 in floating point, and transformers rounds up.
    assert checkpoints_of(load_trl_recipe(recipe(tmp_path, line))) == saved


@pytest.mark.parametrize(
    ("line", "schedule", "warmup", "floor", "known"),
    [
        ("max_steps: 100", "linear", 0, 0.0, True),
        ("lr_scheduler_type: constant\nwarmup_steps: 5", "constant", 0, 0.0, True),
        ("lr_scheduler_type: constant_with_warmup\nwarmup_steps: 5", "constant", 5, 0.0, True),
        (
            "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 1.0e-7}",
            "cosine",
            0,
            0.1,
            True,
        ),
        (
            "max_steps: 100\nlr_scheduler_type: warmup_stable_decay\n"
            "lr_scheduler_kwargs: {num_decay_steps: 25, decay_type: linear}",
            "wsd",
            0,
            0.0,
            True,
        ),
        ("lr_scheduler_type: polynomial", "cosine", 0, 0.0, False),
        ("lr_scheduler_type: cosine\nlr_scheduler_kwargs: {num_cycles: 2}", "cosine", 0, 0.0, False),
    ],
)
def test_schedules_are_those_of_transformers(tmp_path, line, schedule, warmup, floor, known):
    spec, like = optimizer_of(load_trl_recipe(recipe(tmp_path, line)))
    assert (spec.schedule, spec.warmup_steps, like) == (schedule, warmup, known)
    assert spec.min_learning_rate_ratio == pytest.approx(floor)
    if schedule == "wsd":
        assert spec.decay_fraction == pytest.approx(0.25)


def test_a_fraction_of_warm_up_is_rounded_up(tmp_path):
    assert warmup_of(load_trl_recipe(recipe(tmp_path, "max_steps: 15\nwarmup_steps: 0.1"))) == 2


CUSTOM = """\
# lint: program=open-r1 trl=1.16.0
model_name_or_path: a/b
reward_funcs: [my_tests, format]
reward_weights: [1.0, 0.1]
"""


def test_half_a_reward_is_not_judged_as_a_whole(tmp_path):
    found = lint_file(recipe(tmp_path, "", head=CUSTOM)).findings
    assert [(f.rule, f.severity) for f in found] == [("reward-unknown", "info")]
    assert "my_tests" in found[0].place.key
    assert found[0].place.line == 3


def test_a_known_reward_beside_an_unknown_one_is_judged_by_itself(tmp_path):
    found = lint_file(recipe(tmp_path, "", head=CUSTOM.replace("format", "cosine"))).findings
    assert {"reward-characters", "reward-unknown"} <= {f.rule for f in found}
    assert "reward-prefers-wrong" not in {f.rule for f in found}


def test_an_unknown_reward_of_weight_0_leaves_the_rest_whole(tmp_path):
    found = lint_file(recipe(tmp_path, "", head=CUSTOM.replace("[1.0, 0.1]", "[0, 0.1]"))).findings
    assert [f.rule for f in errors(found)] == ["reward-prefers-wrong"]


@pytest.mark.parametrize(
    ("loss", "version", "known"),
    [
        ("grpo", "0.17.0", True),
        ("dr_grpo", "0.18.2", True),
        ("dapo", "0.21.0", False),
        ("dapo", "0.22.0", True),
        ("cispo", "0.24.0", False),
        ("sapo", "0.27.2", True),
        ("luspo", "0.27.2", False),
        ("vespo", "1.0.0", True),
        ("vespo", "0.29.1", False),
    ],
)
def test_each_version_knows_its_losses(tmp_path, loss, version, known):
    file = recipe(tmp_path, f"loss_type: {loss}", head=HEAD.replace("1.16.0", version))
    assert ("setting-value" in {f.rule for f in lint_file(file).findings}) is not known
